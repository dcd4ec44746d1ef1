"""Verbs while a run waits for its next attempt, with real processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from orchestrator.agent.status_file import StatusFile
from orchestrator.control.held_hosts import Held
from orchestrator.control.monitor_process import monitor_pid
from orchestrator.control.run_record import read_record, write_record
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.testing.local_cluster import Cluster, eventually

# After this an attempt waits for the devices to be let go.
HELD = (
    "import sys; print('EJ0001: [PID: 1] Failed to initialize the HCCP process. Reason: Maybe the last "
    "training process is running.', flush=True); sys.exit(1)"
)


def restarting(cluster: Cluster) -> ControlDir:
    """A run whose attempt has failed, and that is to go on in an hour: its monitor watches over that."""
    job = cluster.job(["{python}", "-c", HELD], devices_per_host=1, restart={"max": 9})
    with cluster.launching(job, "--detach"):
        control = eventually(lambda: next(iter(cluster.controls()), None), timeout=120, what="the run")
        eventually(lambda: read_record(control).state is RunState.RESTARTING, timeout=120, what="a restart")
    cluster.kill_monitor()  # within the ten seconds for which the device is waited
    record = read_record(control)
    assert record.state is RunState.RESTARTING and record.attempts[-1].decision is not None
    later = dataclasses.replace(record.attempts[-1].decision, not_before=time.time() + 3600)
    last = dataclasses.replace(record.attempts[-1], decision=later)
    write_record(control, dataclasses.replace(record, attempts=(*record.attempts[:-1], last)))
    return control


def test_what_verbs_do_with_a_run_that_restarts(local_with: Callable[..., Cluster]) -> None:
    cluster = local_with(devices="0")
    control = restarting(cluster)
    # Without its monitor it is as it was, and gets another one.
    assert cluster.status()["state"] == "restarting"
    # Not at once, where the last one was started a moment ago.
    eventually(lambda: cluster.status() and monitor_pid(control), timeout=120, what="another monitor")
    assert cluster.status()["state"] == "restarting"
    assert "EJ0001" in cluster.run("logs", "--rank", "0").stdout
    for words in (["resume"], ["runs", "rm", control.run_id]):
        done = cluster.run(*words)
        assert done.returncode == 2 and "restarting" in done.stderr, done.stderr
    assert control.root.exists()

    done = cluster.run("stop")
    assert done.returncode == 0, done.stdout + done.stderr
    found = cluster.status()
    assert found["state"] == "stopped" and found["exit_code"] == 5
    # Nobody is left who could begin another attempt.
    eventually(lambda: monitor_pid(control) is None, timeout=60, what="the end of the monitor")
    assert cluster.status() == found and monitor_pid(control) is None


def held(cluster: Cluster) -> list[tuple[int, ...]]:
    """The devices of which each host's status says that they are kept for the next attempt."""
    return [StatusFile(run / "status.json", run.parent).read().held for run in cluster.run_dirs()]


def given_up(cluster: Cluster) -> ControlDir:
    """A run that is over, whose monitor was killed before any host had heard that no attempt follows."""
    control = restarting(cluster)
    record = read_record(control)
    kept = Held(tuple(record.hosts), time.time() + 1800)
    state, now = RunState.FAILED, time.time()
    over = dataclasses.replace(
        record, state=state, phase=str(state), exit_code=1, ended=now, held=kept, watched=now
    )
    write_record(control, over)
    eventually(lambda: held(cluster) == [(0,)] * len(record.hosts), timeout=60, what="kept devices")
    return control


def test_a_stop_of_a_run_that_is_over_finishes_what_its_killed_monitor_had_begun(
    local_with: Callable[..., Cluster],
) -> None:
    cluster = local_with(devices="0")
    control = given_up(cluster)
    done = cluster.run("stop")
    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: not any(held(cluster)), timeout=60, what="devices that are free")
    record = read_record(control)
    assert record.state is RunState.FAILED and record.held is not None and record.held.hosts == ()


def test_who_looks_at_a_run_that_is_over_has_another_monitor_let_go_of_its_devices(
    local_with: Callable[..., Cluster],
) -> None:
    cluster = local_with(devices="0")
    control = given_up(cluster)
    # Not at once, where the last monitor was started a moment ago.
    eventually(lambda: cluster.status() and not any(held(cluster)), timeout=120, what="devices that are free")
    eventually(lambda: monitor_pid(control) is None, timeout=60, what="the end of the monitor")
    assert read_record(control).held == Held((), read_record(control).held.until)  # type: ignore[union-attr]
