"""`collect-ckpt --logs` brings CANN's own logs, with a bound, and is not led astray by a host that lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import logs
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan
from orchestrator.testing.local_cluster import Cluster

# As CANN does: a folder for each kind, a file for each process.
WRITE = """
folder=logs/plog/rank_$RANK_ID/debug/plog; mkdir -p $folder
echo "[ERROR] EI0006 of $RANK_ID" > $folder/plog-$$_20260101.log
ln -s /etc/passwd $folder/plog-0_link.log
echo done
"""


def test_plogs_come_along(local: Cluster, tmp_path: Path) -> None:
    assert local.launch(local.job(["sh", "-c", WRITE])).returncode == 0
    assert local.run("logs").stdout.count("done") == 4
    plan = read_plan(local.controls()[-1].plan)
    folder = tmp_path / "out"
    folder.mkdir()
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        assert logs.copy_logs(plan, fleet, folder) == []
    found = {path.name.split("-")[0]: path.read_text() for path in folder.glob("plog+*")}
    assert found == {f"plog+rank_{rank}+debug+plog+plog": f"[ERROR] EI0006 of {rank}\n" for rank in range(4)}
    assert {path.name for path in folder.glob("rank_*")} == {f"rank_{rank}.log" for rank in range(4)}


class Host:
    """Says that it has these logs, each full of zeros."""

    host = "npu1"

    def __init__(self, listed: Any) -> None:
        self.listed = listed
        self.asked: list[str] = []

    def call(self, verb: str, **args: Any) -> Any:
        return self.listed

    def call_with_data(self, verb: str, **args: Any) -> tuple[None, bytes]:
        self.asked.append(args["path"])
        return None, bytes(args["limit"] + 5)


def copied(host: Host, folder: Path, **bounds: int) -> str:
    return logs._copy_plogs(host, "run", ["rank_0"], folder, **bounds)  # type: ignore[arg-type]


def test_only_ends_and_no_more_than_a_bound(tmp_path: Path) -> None:
    sizes = {"a": 7, "b": 99, "c": 9, "d": 8}
    host = Host([{"path": f"rank_0/{name}.log", "size": size} for name, size in sizes.items()])
    assert copied(host, tmp_path, end=10, most=25) == (
        "npu1: of CANN's logs 1 were left out, and of 1 only the end was taken"
    )
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "plog+rank_0+a.log": 7,
        "plog+rank_0+b.log": 10,
        "plog+rank_0+d.log": 8,
    }


@pytest.mark.parametrize(
    "listed",
    [
        None,
        "rank_0/a.log",
        [None, 1, {}, {"path": 1, "size": 1}, {"path": "rank_0/a.log", "size": "1"}],
        [{"path": path, "size": 1} for path in ("../a", "rank_0/../a", "/etc/x", "rank_1/a.log", "rank_0")],
        [{"path": "rank_0/a.log", "size": -1}],
        [{"path": "rank_0/a.log", "size": True}],
    ],
)
def test_a_list_that_is_none(tmp_path: Path, listed: Any) -> None:
    host = Host(listed)
    assert copied(host, tmp_path) == ""
    assert not host.asked and not list(tmp_path.iterdir())


def test_names_that_no_file_can_have_are_left_out_and_others_stay_apart(tmp_path: Path) -> None:
    paths = ["rank_0/" + "/".join(["x" * 120] * 3), "rank_0/a_b/c", "rank_0/a/b_c"]
    host = Host([{"path": path, "size": 1} for path in paths])
    assert "1 were left out" in copied(host, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"plog+rank_0+a_b+c", "plog+rank_0+a+b_c"}
