"""What we give to workers and scheduler, beside what MindSpore's own msrun gives to a script of its."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.records import WorkerSpec
from orchestrator.plan.complete_plan import complete_plan
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

pytestmark = pytest.mark.mindspore

# The variables that place a process in its run.
_PLACING = ("MS_", "RANK_", "DEVICE_ID")
# How long the scheduler waits for workers that do not come. Without it MindSpore waits half an hour; here a
# host that cannot be reached ends the launch before a worker starts.
_LEFT_TO_MINDSPORE = {"MS_TOPO_TIMEOUT"}
# Which msrun's scheduler lacks. A script that reads DEVICE_ID must not end there, and the scheduler's own
# node id is then the same word in every log.
_OF_OUR_SCHEDULER = {"DEVICE_ID": "0", "MS_NODE_ID": "scheduler"}
_STUB = """\
import json, os, sys
role = os.environ["MS_ROLE"]
name = "scheduler" if role == "MS_SCHED" else "rank_" + os.environ["RANK_ID"]
with open(os.path.join(sys.argv[1], name + ".json"), "w") as file:
    json.dump(dict(os.environ), file)
"""
HOSTS = "hosts:\n  - {name: here, address: ADDRESS, devices: 0-1, device_ips: '29.1.1.[1-2]'}\n"
JOB = "name: m\ntask: command\ndevices_per_host: 2\ncommand: [run]\nnetworking: {mode: MODE, port: PORT}\n"


def placing(environment: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_PLACING) and name not in _LEFT_TO_MINDSPORE
    }


def by_msrun(folder: Path, address: str, port: int, table: Path | None) -> dict[str, dict[str, str]]:
    """The environments of two workers and their scheduler."""
    stub = folder / "stub.py"
    stub.write_text(_STUB)
    words = ["--worker_num=2", "--local_worker_num=2", f"--master_addr={address}", f"--master_port={port}"]
    words += ["--join=True", f"--log_dir={folder / 'logs'}"]
    words += [f"--rank_table_file={table}"] if table else []
    # msrun starts whatever `python` is first on the PATH.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PLACING)}
    env = {**inherited, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    argv = [sys.executable, "-m", "mindspore.parallel.cluster.run", *words, str(stub), str(folder)]
    subprocess.run(argv, env=env, cwd=folder, check=True, timeout=300, capture_output=True)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json") if path != table}


def by_us(plan: LaunchPlan, port: int, table: Path | None) -> dict[str, dict[str, str]]:
    (manifest,) = complete_plan(plan, {}).manifests.values() if not plan.ascend else plan.manifests.values()

    def filled(spec: WorkerSpec) -> dict[str, str]:
        values = {"{port}": str(port), "{run_dir}/rank_table.json": str(table)}
        return {name: values.get(value, value) for name, value in spec.env.items()}

    assert manifest.scheduler is not None
    return {spec.label: filled(spec) for spec in (*manifest.workers, manifest.scheduler)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("mode", "address"),
    [("dynamic", "127.0.0.1"), ("dynamic", "localhost"), ("rank_table", "127.0.0.1")],
)
def test_the_same_as_from_msrun(tmp_path: Path, mode: str, address: str) -> None:
    port = free_port()
    table = tmp_path / "table.json" if mode == "rank_table" else None
    text = JOB.replace("MODE", mode).replace("PORT", str(port))
    plan = make_plan(job(tmp_path, text), inventory(tmp_path, HOSTS.replace("ADDRESS", address)))
    if table:
        table.write_text(plan.rank_table or "")
    theirs = by_msrun(tmp_path, address, port, table)
    ours = by_us(plan, port, table)
    assert set(theirs) == set(ours) == {"scheduler", "rank_0", "rank_1"}
    for rank in ("rank_0", "rank_1"):
        assert placing(ours[rank]) == placing(theirs[rank])
    # The file name says which of them it is; the rest is what msrun exports for its scheduler, too.
    assert placing(ours["scheduler"]) == {**placing(theirs["scheduler"]), **_OF_OUR_SCHEDULER}
    assert {"MS_ROLE", "MS_SCHED_HOST"} <= set(theirs["rank_0"])
    assert ("RANK_TABLE_FILE" in theirs["scheduler"]) == (mode == "rank_table")
