"""A run on local hosts that goes on as its second attempt, and what is told and read of both."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.worker_environment import ATTEMPT, RESTARTS
from orchestrator.api import metrics, watch
from orchestrator.control.next_attempt import start_next_attempt
from orchestrator.control.runs import attach
from orchestrator.core.errors import UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.waiting import eventually

FIRST = r'{"step": 1, "loss": 9}\n{"step": 2, "loss": 8}\n{"step": 3, "loss": 7}\n'
SECOND = r'{"step": 3, "loss": 6}\n{"phase": "save", "step": 3}\n{"step": 4, "loss": 5}\n'
PROGRAM = """\
cd "$PWD"
if [ "$ORCHESTRATE_ATTEMPT" = 1 ]; then
    printf 'FIRST' > metrics/rank_{rank}.jsonl
    echo first of {rank} > checkpoint/{rank}; echo first
    if [ $RANK_ID = 1 ]; then sleep 1; exit 3; fi
    exec SLEEP
fi
printf 'SECOND' > metrics/rank_{rank}.jsonl
echo "second, restarted $TORCHELASTIC_RESTART_COUNT times in $PWD"; ls checkpoint
"""


@pytest.fixture
def failed(tmp_path: Path) -> Iterator[tuple[Cluster, ControlDir]]:
    """A run of which rank 1 has failed."""
    cluster = Cluster.local(tmp_path)
    program = PROGRAM.replace("SLEEP", " ".join(cluster.sleep))
    program = program.replace("FIRST", FIRST).replace("SECOND", SECOND)
    job = cluster.job(["sh", "-c", program])
    assert cluster.launch(job).returncode == 1
    yield cluster, cluster.controls()[0]
    cluster.close()


def second_of(control: ControlDir, token: str = "two") -> LaunchPlan:
    """The plan of the attempt before, as one to follow it."""
    plan = read_plan(control.plan)
    attempt = Attempt(plan.attempt.number + 1, token)
    env = {ATTEMPT: str(attempt.number), RESTARTS: str(attempt.number - 1)}
    manifests = {
        name: dataclasses.replace(
            manifest,
            attempt=attempt,
            workers=tuple(
                dataclasses.replace(worker, env={**worker.env, **env}) for worker in manifest.workers
            ),
        )
        for name, manifest in plan.manifests.items()
    }
    return dataclasses.replace(plan, attempt=attempt, manifests=manifests)


def test_a_failed_run_goes_on_as_its_second_attempt(failed: tuple[Cluster, ControlDir]) -> None:
    cluster, control = failed
    mine, theirs = cluster.env, {**cluster.env, "XDG_STATE_HOME": str(cluster.folder / "other")}
    cluster.env = theirs
    rediscover = ("runs", "--rediscover", "-i", cluster.inventory)
    assert "attempt 2" not in cluster.run(*rediscover).stdout
    cluster.env = mine
    start_next_attempt(control, second_of(control))
    *_, record = watch(control)
    assert (str(record.state), record.exit_code) == ("succeeded", 0), record
    first, second = cluster.status()["attempts"]
    assert (first["number"], first["state"], first["cause"]["rank"]) == (1, "failed", 1)
    assert (second["number"], second["state"]) == (2, "succeeded")
    assert cluster.status()["summary"]["attempt"] == 2
    run_dir = cluster.run_dirs()[0]
    lines = cluster.run("logs", "--rank", "0").stdout
    assert lines == f"[rank 0] second, restarted 1 times in {run_dir}\n"  # an empty folder of its own
    assert cluster.run("logs", "--attempt", "1").stdout.splitlines() == [
        f"[rank {n}] first" for n in range(4)
    ]
    curve = [(row["attempt"], row["step"], row["loss"]) for row in metrics(control)]
    assert curve == [(1, 1, 9), (1, 2, 8), (2, 3, 6), (2, 4, 5)]
    none = cluster.run("logs", "--attempt", "3")
    assert none.returncode == 2 and "has attempts 1 to 2, and no attempt 3" in none.stderr
    assert (run_dir / "attempts/1/checkpoint/0").read_text() == "first of 0\n"
    cluster.env = theirs
    assert "attempt 2" in cluster.run(*rediscover).stdout  # another control node follows
    cluster.env = mine
    shown = cluster.run("status").stdout
    assert "attempt 1 failed at step 3 (" in shown and "rank 1 on host1 exited with code 3" in shown
    assert "attempt 2 is in force" in shown and "attempt 2" in cluster.run("runs").stdout
    assert cluster.run("runs", "rm", control.run_id).returncode == 0
    assert cluster.run_dirs() == [] and not control.root.exists()


def test_a_second_attempt_that_cannot_begin_leaves_the_first_in_force(
    failed: tuple[Cluster, ControlDir],
) -> None:
    cluster, control = failed
    before = cluster.status()
    plan = second_of(control)
    with pytest.raises(UsageError, match="cannot follow attempt 1"):
        start_next_attempt(control, dataclasses.replace(plan, attempt=Attempt(3, "x")))
    shutil.rmtree(cluster.run_dirs()[1])
    blocker = cluster.run_dirs()[0].parents[2] / "host2/runs" / control.run_id
    blocker.write_text("in the way")
    start_next_attempt(control, plan)
    *_, record = watch(control)
    assert record.attempts[-1].number == 1 and record.refused is not None
    assert record.refused.exit_code == 4 and "host2" in record.refused.errors[0]
    assert control.in_force == 1
    eventually(lambda: not control.folder_of(2).exists())
    after = cluster.status()
    for key in ("state", "cause", "victims", "ended", "exit_code"):
        assert after[key] == before[key], key
    assert "attempt 2 came to nothing: " in cluster.run("status").stdout
    assert cluster.run_dirs()[0].joinpath("checkpoint/0").read_text() == "first of 0\n"


def test_another_control_node_watches_until_it_takes_over(tmp_path: Path) -> None:
    cluster = Cluster.local(tmp_path)
    try:
        assert cluster.launch(cluster.job(cluster.sleep), "--detach").returncode == 0
        cluster.wait_until_running()
        mine, theirs = dict(cluster.env), {**cluster.env, "XDG_STATE_HOME": str(tmp_path / "other")}
        cluster.env = theirs
        assert cluster.run("runs", "--rediscover", "-i", cluster.inventory).returncode == 0
        shown = " ".join(cluster.run("status").stdout.split())
        assert "watched from here: " in shown and "acts on it" in shown
        refused = cluster.run("stop")
        assert refused.returncode == 4 and str(cluster.state) in refused.stderr
        assert "is in the hands of" in refused.stderr
        assert set(cluster.states().values()) == {"running"}
        (other,) = ControlDir(tmp_path / "other/orchestrate/runs").root.iterdir()
        said: list[str] = []
        attach(ControlDir(other), take_over=True, say=said.append)
        assert said == []
        cluster.env = mine
        refused = cluster.run("stop")
        assert refused.returncode == 4 and "(claim 2)" in refused.stderr, refused.stderr
        assert str(tmp_path / "other") in refused.stderr and set(cluster.states().values()) == {"running"}
        cluster.env = theirs
        assert cluster.run("stop").returncode == 0
        assert set(cluster.states().values()) == {"stopped"}
    finally:
        cluster.env = {**cluster.env, "XDG_STATE_HOME": str(tmp_path / "other")}
        cluster.run("stop")
        cluster.close()
