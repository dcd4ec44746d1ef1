"""A real run that goes on by itself: its account of time, by its own record, and its logs; no MindSpore."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from orchestrator.testing.local_cluster import Cluster, eventually

# Steps of 0.2 s and a save of 0.6 s after every tenth; rank 1 fails at step 25 of the first start, and the
# second is done when it is told so.
PROGRAM = """\
import json, os, pathlib, sys, time
rank, again = os.environ["RANK"], int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
home = pathlib.Path.cwd()
(home / "metrics").mkdir(exist_ok=True)
def tell(**line):
    with open(home / f"metrics/rank_{rank}.jsonl", "a") as file:
        file.write(json.dumps({"time": time.time(), **line}) + "\\n")
print(f"start {again} of {rank}", flush=True)
tell(phase="import")
time.sleep(1.0)
for step in range(1, 10**6):
    time.sleep(0.2)
    tell(step=step)
    if step % 10 == 0:
        tell(phase="save", step=step)
        time.sleep(0.6)
        tell(phase="step", saved=step)
    if rank == "1" and again == 0 and step == 25:
        sys.exit(3)
    if again and (home / "enough").exists():
        sys.exit(0)
"""


def test_the_account_of_a_run_that_went_on_adds_up(local_with: Callable[..., Cluster]) -> None:
    cluster = local_with(devices="0")
    (cluster.folder / "program.py").write_text(PROGRAM)
    job = cluster.job(["{python}", "program.py"], devices_per_host=1, sync=["program.py"], restart={"max": 3})

    def started() -> bool:
        return any(cluster.folder.glob("hosts/host2/runs/*/metrics/rank_1.jsonl"))

    def second() -> bool:
        attempts = cluster.status()["attempts"]
        spent = attempts[1]["spent"] if len(attempts) > 1 else None
        return spent is not None and (spent["step"] or 0) >= 12

    with cluster.launching(job) as launch:
        eventually(started, timeout=120, what="the first start")
        argv = [sys.executable, "-m", "orchestrator", "logs", "-f"]
        pipe = subprocess.PIPE
        logs = subprocess.Popen(
            argv, env=cluster.env, cwd=cluster.folder, stdout=pipe, stderr=pipe, text=True
        )
        eventually(second, timeout=120, what="steps of the second attempt")
        for host in ("host1", "host2"):
            for home in cluster.folder.glob(f"hosts/{host}/runs/*"):
                (home / "enough").touch()
        out, err = launch.communicate(timeout=120)
    assert launch.returncode == 0, out + err
    lines, told = logs.communicate(timeout=120)
    assert logs.returncode == 0, told
    for rank in (0, 1):
        assert [lines.count(f"start {again} of {rank}\n") for again in (0, 1)] == [1, 1]
    assert "orchestrate: attempt 2 of " in told
    status = cluster.status()
    account = status["account"]
    assert sum(account.values()) == pytest.approx(status["ended"] - status["created"], abs=0.01)
    first, second_attempt = status["attempts"]
    assert first["spent"]["step"] >= 25 and first["spent"]["first_step"] == 1
    # The second began anew: nothing of the first one counts.
    assert second_attempt["origin"] == [0, 0]
    assert account["lost"] > 20 * 0.2 and account["productive"] > 8 * 0.2
    assert account["saving"] >= 3 * 0.55
    assert account["starting"] >= 2 * 1.0
    assert account["unknown"] == account["down"] == 0.0
    assert "goes on with the same hosts (restart 1 of 3)" in out and "lost steps" in out
