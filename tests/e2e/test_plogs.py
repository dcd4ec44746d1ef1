"""`collect-ckpt --logs` brings CANN's own logs, with a bound, and is not led astray by a host that lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import logs
from orchestrator.core.errors import AgentError, AnswerError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.conversation import Limits
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
        left = logs.copy_logs(plan, fleet, folder)
    # The link of each rank.
    assert [line.partition(": ")[2] for line in left] == [
        f"of CANN's logs 2 (rank_[{ranks}]) were left out, and of 0 only the end was taken"
        for ranks in ("0-1", "2-3")
    ]
    found = {path.name.split("-")[0]: path.read_text() for path in folder.glob("plog+*")}
    assert found == {f"plog+rank_{rank}+debug+plog+plog": f"[ERROR] EI0006 of {rank}\n" for rank in range(4)}
    assert {path.name for path in folder.glob("rank_*")} == {f"rank_{rank}.log" for rank in range(4)}


class Host:
    """Says that it has these logs, each full of zeros; those of `ill` cannot be read."""

    host = "npu1"

    def __init__(self, answer: Any, ill: tuple[str, ...] = ()) -> None:
        self.answer = answer
        self.ill = ill
        self.asked: list[str] = []
        self.is_refused = False

    def stream(
        self, verb: str, args: Mapping[str, Any], limits: Limits, **_: Any
    ) -> Iterator[tuple[Any, bytes]]:
        if verb == "list_plogs":
            yield self.answer, b""
            return
        self.asked.append(args["path"])
        if args["path"] in self.ill:
            raise AgentError("cannot be read: Input/output error", where=self.host)
        yield None, bytes(args["limit"])

    def refuse(self, what: str) -> AnswerError:
        self.is_refused = True
        return AnswerError(what, where=self.host)


def copied(host: Host, folder: Path, **bounds: int) -> str:
    return logs._copy_plogs(Agent(host), "run", ["rank_0", "rank_2"], folder, **bounds)  # type: ignore[arg-type]


def test_only_ends_and_no_more_than_a_bound(tmp_path: Path) -> None:
    sizes = {"a": 7, "b": 99, "c": 9, "d": 8}
    files = [{"path": f"rank_0/{name}.log", "size": size} for name, size in sizes.items()]
    host = Host({"files": files, "left": {"rank_2": 7}})
    assert copied(host, tmp_path, end=10, most=25) == (
        "npu1: of CANN's logs 8 (rank_[0,2]) were left out, and of 1 (rank_0) only the end was taken"
    )
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "plog+rank_0+a.log": 7,
        "plog+rank_0+b.log": 10,
        "plog+rank_0+d.log": 8,
    }


def test_a_log_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    files = [{"path": f"rank_{rank}/a.log", "size": 5} for rank in (0, 2)]
    host = Host({"files": files}, ill=("rank_2/a.log",))
    assert copied(host, tmp_path) == (
        "npu1: of CANN's logs 1 (rank_2) were left out, and of 0 only the end was taken"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["plog+rank_0+a.log"]


def test_paths_that_lead_elsewhere_are_left_out(tmp_path: Path) -> None:
    paths = ("../a", "rank_0/../a", "/etc/x", "rank_1/a", "rank_0", "rank_0/\x1b[31m", "rank_0/a\0b")
    host = Host({"files": [{"path": path, "size": 1} for path in paths]})
    assert "of CANN's logs 7 (others) were left out" in copied(host, tmp_path)
    assert not host.asked and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {"files": "rank_0/a.log"},
        {"files": [None]},
        {"files": [{"path": 1, "size": 1}]},
        {"files": [{"path": "rank_0/a.log", "size": "1"}]},
        {"files": [{"path": "rank_0/a.log", "size": -1}]},
        {"files": [{"path": "rank_0/a.log", "size": True}]},
        {"left": [1]},
        {"left": {"rank_0": "9"}},
        {"left": {"rank_0": -1}},
    ],
)
def test_an_answer_that_is_none_costs_its_host(tmp_path: Path, answer: Any) -> None:
    host = Host(answer)
    with pytest.raises(AnswerError):
        copied(host, tmp_path)
    assert host.is_refused and not host.asked and not list(tmp_path.iterdir())


def test_names_that_a_host_invents_are_not_shown(tmp_path: Path) -> None:
    host = Host({"files": [], "left": {"rank_0": 1, "\x1b[31m": 2, "rank_7": 3}})
    assert copied(host, tmp_path) == (
        "npu1: of CANN's logs 6 (rank_0, others) were left out, and of 0 only the end was taken"
    )


def test_names_that_no_file_can_have_are_left_out_and_others_stay_apart(tmp_path: Path) -> None:
    paths = ["rank_0/" + "/".join(["x" * 120] * 3), "rank_0/a_b/c", "rank_0/a/b_c"]
    host = Host({"files": [{"path": path, "size": 1} for path in paths]})
    assert "1 (rank_0) were left out" in copied(host, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"plog+rank_0+a_b+c", "plog+rank_0+a+b_c"}
