"""Runs that hang, on real processes over real sshd: named in time, who and where, and stopped."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.testing.local_cluster import Cluster, eventually
from tests.e2e.meeting_job import FLOOR, LONG, diagnosed, meeting_job, process_of, steps_made, what_is_left
from tests.e2e.meeting_ranks import AT

# What a median of its steps, seen through hosts that tell every other second on a busy machine, makes of it.
LATE = 10.0


def hang_of(cluster: Cluster) -> dict[str, Any] | None:
    return next((each for each in cluster.status()["health"] if each["kind"] == "hang"), None)


def named_hang(cluster: Cluster) -> dict[str, Any]:
    """The hang once its stacks have been looked at."""
    found: dict[str, Any] = eventually(lambda: hang_of(cluster), what="a hang")
    limit = max(FLOOR, 5 * (cluster.status()["step_interval"] or 0.0))
    assert found["seconds"] <= limit + LATE
    eventually(cluster.controls()[-1].hang_stacks.exists, what="stacks")
    kept = cluster.status()["updated"]  # who they are of may be in the next record
    eventually(lambda: cluster.status()["updated"] > kept, what="another record")
    last = hang_of(cluster)
    assert last is not None
    return last


@contextmanager
def hanging(cluster: Cluster, kind: str) -> Iterator[None]:
    """A run that has made some steps; stopped at the end, with nothing left."""
    launched = cluster.launch(meeting_job(cluster, kind, victim=2), "--detach")
    assert launched.returncode == 0, launched.stderr
    eventually(lambda: min(steps_made(cluster), default=0) >= AT - 1, what="steps")
    yield
    stopped = cluster.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.run("status").returncode == 5 and set(cluster.states().values()) == {"stopped"}
    assert what_is_left(cluster) == {}


def test_a_frozen_rank_is_named_and_forgotten_when_it_goes_on(remote: Cluster) -> None:
    with hanging(remote, "none"):
        os.kill(process_of(remote, 2), signal.SIGSTOP)
        hang = named_hang(remote)
        assert (hang["ranks"], hang["host"], hang["device"], hang["detail"]) == ([2], "node3", 0, "")
        shown = remote.run("status")
        assert shown.returncode == 0
        assert re.search(
            r"it hangs: no rank has made a new step since [\d:]+ \(for [\dms ]+\)\n", shown.stdout
        )
        assert "  suspect: rank 2 on node3 (device 0)\n" in shown.stdout
        assert "rank 2 on node3: stopped by a signal or a debugger since " in shown.stdout
        assert "no new step seen for " in shown.stdout and " left" not in shown.stdout
        data, text = diagnosed(remote)
        cause = data["cause"]
        assert (cause["kind"], cause["certainty"]) == ("process_stopped", "likely")
        assert cause["culprit"] == {"host": "node3", "rank": 2, "device": 0}
        assert "node3, rank 2, monitor | process state T since " in text
        assert "rank 0-1, 3: all_reduce (meeting_ranks.py:" in text
        os.kill(process_of(remote, 2), signal.SIGCONT)
        eventually(lambda: not remote.status()["health"], what="that it goes on")
        assert re.search(r"\nwent on at [\d:]+ after ", remote.run("status").stdout)
    data, text = diagnosed(remote)
    assert data["cause"]["kind"] == "stopped" and data["exit_code"] == 5


# Who is named, and where it is, test_a_policy_ends_a_run_that_hangs asks as well, when all is over.
@LONG
def test_a_rank_in_a_dead_loop_is_named_with_where_it_is(remote: Cluster) -> None:
    with hanging(remote, "loop"):
        hang = named_hang(remote)
        assert (hang["ranks"], hang["host"], hang["device"]) == ([2], "node3", 0)
        assert hang["detail"].startswith("load_batch (meeting_ranks.py:")
        shown = remote.run("status").stdout
        assert "  suspect: rank 2 on node3 (device 0), in load_batch (meeting_ranks.py:" in shown
        assert "no new step seen for " in shown and " left" not in shown
        data, text = diagnosed(remote)
        assert (data["cause"]["kind"], data["cause"]["certainty"]) == ("rank_stuck", "likely")
        assert data["cause"]["culprit"] == {"host": "node3", "rank": 2, "device": 0}
        assert "Cause: the rank did not come to a collective operation: node3, rank 2, device 0" in text
        assert "rank 0-1, 3: all_reduce (meeting_ranks.py:" in text
        assert "rank 2: load_batch (meeting_ranks.py:" in text
    data, text = diagnosed(remote)  # that somebody stopped it is no reason
    assert data["cause"]["culprit"]["rank"] == 2 and data["cause"]["victims"] == [
        "rank_0",
        "rank_1",
        "rank_3",
    ]
    assert f"To go on: orchestrate resume {data['run_id']}" in text


# What is made of such stacks: tests/control/test_health.py; what status says: tests/cli/test_health_notes.py.
@LONG
def test_where_all_wait_for_somebody_nobody_is_accused(remote: Cluster) -> None:
    with hanging(remote, "alone"):
        hang = named_hang(remote)
        assert (hang["ranks"], hang["host"]) == ([], "")
        assert hang["detail"].startswith("all_gather (meeting_ranks.py:")
        shown = remote.run("status").stdout
        assert "  all ranks are in all_gather (meeting_ranks.py:" in shown and "suspect" not in shown
        data, text = diagnosed(remote)
        cause = data["cause"]
        assert (cause["kind"], cause["certainty"], cause["culprit"]) == ("hang", "unknown", None)
        assert "Cause: no rank makes steps\nHow sure: not known" in text
        assert "rank 0-3: all_gather (meeting_ranks.py:" in text


def test_a_policy_ends_a_run_that_hangs(remote: Cluster) -> None:
    """It hangs at the same step again, where it is started again."""
    policy = {"max": 3, "on": ["hang"]}
    launched = remote.launch(meeting_job(remote, "loop", victim=2, restart=policy), "--detach")
    assert launched.returncode == 0, launched.stderr
    eventually(lambda: remote.status()["state"] == "failed", what="its end", timeout=180)
    data = remote.status()
    cause, end = data["cause"], data["cause"]["end"]
    assert (cause["host"], cause["rank"], end["kind"], end["missing"]) == ("node3", 2, "hang", [2])
    assert end["message"].startswith("load_batch (meeting_ranks.py:") and end["seconds"] > 1.5 * FLOOR
    shown = remote.run("status")
    assert shown.returncode == 1
    assert re.search(
        r"no rank made a new step for \d+s, and their stacks stayed the same; suspect: rank 2", shown.stdout
    )
    assert set(remote.states().values()) == {"stopped"}
    eventually(lambda: what_is_left(remote) == {}, what="that nothing is left")
    data, text = diagnosed(remote)
    assert (data["cause"]["kind"], data["cause"]["certainty"]) == ("rank_stuck", "likely"), text
    assert data["cause"]["culprit"] == {"host": "node3", "rank": 2, "device": 0}
    assert data["cause"]["victims"] == ["rank_0", "rank_1", "rank_3"]
    assert "Cause: the rank did not come to a collective operation: node3, rank 2, device 0" in text


def health_without_ranks(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.status()["health"]
    return [] if any(each["ranks"] for each in found) else found


@LONG
def test_a_supervisor_that_is_stopped_is_named_and_no_rank(remote: Cluster) -> None:
    with hanging(remote, "none"):
        supervisor = remote.status()["hosts"]["node3"]["status"]["supervisor"]["pid"]
        os.kill(supervisor, signal.SIGSTOP)
        # Before that is known its ranks are those that tell no steps.
        silent = eventually(lambda: health_without_ranks(remote), what="that it is silent")
        assert [(each["kind"], each["host"], each["ranks"]) for each in silent] == [("silent", "node3", [])]
        assert "node3 answers, but its supervisor has written no status since " in remote.run("status").stdout
        data, text = diagnosed(remote)
        cause = data["cause"]
        assert (cause["kind"], cause["certainty"]) == ("supervisor_silent", "likely"), cause
        assert cause["culprit"] == {"host": "node3", "rank": None, "device": None}
        assert "Cause: the host's supervisor does not run: node3\n" in text
        os.kill(supervisor, signal.SIGCONT)
        eventually(lambda: not remote.status()["health"], what="that it goes on")
        os.kill(supervisor, signal.SIGSTOP)  # `stop` ends its workers all the same
