"""The devices of a host between two attempts of a run: held for the next one, and for nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.agent import device_hold
from orchestrator.agent.device_locks import busy_devices
from orchestrator.agent.processes import is_alive
from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import loads, to_json
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Attempt, Claim, HostStatus, Input, LockNote, Manifest
from orchestrator.core.states import RankState
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.test_supervisor_state import BY_HAND, Machine

FIRST, SECOND, THIRD = Attempt(1, "aa"), Attempt(2, "bb"), Attempt(3, "cc")
OURS, THEIRS = Claim(1, "me@here"), Claim(2, "you@there")
STAY = sh("exec sleep 300")
FAILS = sh("exit 3")
LONG = 3600.0


def of(attempt: Attempt, **more: Any) -> dict[str, Any]:
    return {"meant": to_json(attempt), **more}


def failed(host: AgentHost, holds: float | None = LONG, **changes: Any) -> HostStatus:
    """A run of two ranks whose first attempt has failed."""
    host.launch(FAILS, STAY, attempt=FIRST, holds=holds, **changes)
    return host.wait_over(timeout=60.0)


def second(
    host: AgentHost, *commands: tuple[str, ...], attempt: Attempt = SECOND, **changes: Any
) -> Manifest:
    manifest = host.manifest(*(commands or (STAY, STAY)), attempt=attempt, holds=LONG, **changes)
    host.prepare(manifest)
    return manifest


def begin(host: AgentHost, attempt: Attempt = SECOND) -> None:
    for verb in ("start", "commit"):
        host.tell(verb, **of(attempt))


def locked(host: AgentHost) -> list[int]:
    return busy_devices(host.workdir.locks, (0, 1, 2))


def noted(host: AgentHost, device: int) -> LockNote:
    return loads(LockNote, (host.workdir.locks / f"device_{device}.lock").read_bytes())


class Rival:
    """Another launch that wants the devices all the time; `found` are those that it could have had."""

    def __init__(self, host: AgentHost) -> None:
        self.found: set[int] = set()
        self.looks = 0
        self._host, self._is_done = host, False
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._is_done:
            self.found |= {0, 1} - set(busy_devices(self._host.workdir.locks, (0, 1)))
            self.looks += 1
            time.sleep(0.0005)

    def close(self) -> None:
        self._is_done = True
        self._thread.join()


def test_a_failed_attempt_is_over_and_keeps_its_devices(host: AgentHost) -> None:
    found = failed(host)
    assert found.is_over and found.held == (0, 1) and locked(host) == [0, 1]
    assert found.supervisor is not None and not is_alive(found.supervisor) and is_alive(found.guardian)
    with pytest.raises(AgentError) as caught:
        host.launch(STAY, run_id="run-2")
    assert caught.value.kind == "device_busy" and f"run {RUN}" in caught.value.what
    assert caught.value.remedy.startswith(f"`orchestrate stop {RUN}` ends it")


@pytest.mark.parametrize("how", ["succeeded", "stopped", "not asked for"])
def test_what_no_attempt_follows_leaves_its_devices_free(host: AgentHost, how: str) -> None:
    if how == "not asked for":
        found = failed(host, holds=None)
    else:
        host.launch(sh("exit 0") if how == "succeeded" else STAY, attempt=FIRST, holds=LONG)
        if how == "stopped":
            host.tell("stop", reason="by hand")
        found = host.wait_over(timeout=60.0)
    assert found.held == () and not is_alive(found.guardian) and locked(host) == []


def test_the_next_attempt_takes_them_over_and_nobody_else_can_meanwhile(host: AgentHost) -> None:
    before = failed(host)
    rival = Rival(host)
    for attempt in (SECOND, THIRD):
        second(host, FAILS if attempt is SECOND else STAY, STAY, attempt=attempt)
        begin(host, attempt)
        if attempt is SECOND:
            assert host.wait_over(timeout=60.0).held == (0, 1)
    rival.close()
    assert rival.looks > 10 and rival.found == set()
    eventually(lambda: not is_alive(before.guardian), what="the guardian of the first attempt has gone")
    now = host.status()
    assert now.attempt == THIRD and now.phase == "committed" and locked(host) == [0, 1]
    assert now.guardian is not None and noted(host, 0) == LockNote(RUN, now.guardian.pid)
    host.tell("stop", reason="by hand", **of(THIRD))
    eventually(lambda: locked(host) == [], what="free")


def test_an_attempt_with_other_devices_has_those_and_no_more(host: AgentHost) -> None:
    failed(host)
    second(host, devices=(1, 2))
    eventually(lambda: locked(host) == [1, 2], what="the devices of the second attempt alone")


def test_a_prepare_that_fails_leaves_them_held_and_the_next_one_gets_them(host: AgentHost) -> None:
    before = failed(host)
    rival = Rival(host)
    with pytest.raises(AgentError) as caught:
        second(host, inputs=(Input("x", "0" * 64),))
    assert caught.value.kind == "missing_input"
    agent = host.new_agent()
    eventually(lambda: agent.renew(RUN).phase == "over", what="it listens again")
    assert host.status().held == (0, 1) and is_alive(before.guardian)
    second(host)
    rival.close()
    assert rival.found == set() and host.status().attempt == SECOND
    agent.close()


def test_an_undone_attempt_leaves_them_free(host: AgentHost) -> None:
    failed(host)
    second(host)
    host.tell("undo", **of(SECOND))
    found = host.status()
    assert found.attempt == FIRST and found.is_over and found.held == ()
    eventually(lambda: locked(host) == [], what="free")
    second(host, attempt=THIRD)  # by their locks, as any launch
    assert locked(host) == [0, 1]


def release(host: AgentHost) -> None:
    agent = host.new_agent()
    agent.release(RUN)
    agent.close()


def stop(host: AgentHost) -> None:
    assert host.tell("stop", reason="by hand")["phase"] == "over"


def undo(host: AgentHost) -> None:
    host.tell("undo", **of(FIRST))


def bury(host: AgentHost) -> None:
    stone = Tombstone(RUN, FIRST, "failed", OURS, time.time())
    host.session.call("bury", run_id=RUN, stone=to_json(stone), **of(FIRST))


def any_verb(host: AgentHost) -> None:
    host.tell("status", **of(FIRST, over="failed"))


def any_verb_of_a_later_attempt(host: AgentHost) -> None:
    """The host was left out of the second attempt, which has ended the run."""
    with pytest.raises(AgentError):
        host.tell("status", **of(SECOND, over="failed"))


def remove(host: AgentHost) -> None:
    host.tell("remove_run", dry_run=False)


@pytest.mark.parametrize(
    "how",
    [release, stop, undo, bury, any_verb, any_verb_of_a_later_attempt, remove],
    ids=lambda how: how.__name__,
)
def test_they_are_let_go_at_once(host: AgentHost, how: Callable[[AgentHost], None]) -> None:
    before = failed(host)
    how(host)
    assert locked(host) == []
    eventually(lambda: not is_alive(before.guardian), what="nobody is left")


def test_a_tombstone_of_an_attempt_that_another_follows_lets_nothing_go(host: AgentHost) -> None:
    failed(host)
    stone = Tombstone(RUN, FIRST, "attempt 2 follows", OURS, time.time())
    host.session.call("bury", run_id=RUN, stone=to_json(stone), **of(SECOND))
    assert locked(host) == [0, 1] and host.status().held == (0, 1)


def test_a_host_that_was_left_out_of_a_later_attempt_lets_them_go_when_told(host: AgentHost) -> None:
    failed(host)
    host.tell("release", **of(THIRD))
    assert locked(host) == []


def test_a_release_of_an_attempt_that_another_has_followed_lets_nothing_go(host: AgentHost) -> None:
    failed(host)
    second(host)
    with pytest.raises(AgentError) as caught:
        host.tell("release", **of(FIRST))
    assert caught.value.kind == "newer_attempt" and locked(host) == [0, 1]


def test_who_may_not_act_lets_nothing_go(host: AgentHost) -> None:
    failed(host)
    host.tell("claim", take=to_json(THEIRS))
    with pytest.raises(AgentError) as caught:
        host.tell("release", **of(FIRST, claim=to_json(OURS)))
    assert caught.value.kind == "claim"
    host.tell("status", **of(FIRST, claim=to_json(OURS), over="failed"))
    assert locked(host) == [0, 1]


def test_without_a_monitor_they_are_let_go_in_time(host: AgentHost) -> None:
    before = failed(host, holds=2.0)
    assert before.held == (0, 1)
    eventually(lambda: locked(host) == [], what="free")
    eventually(lambda: not is_alive(before.guardian), what="nobody is left")
    assert host.status().is_over and host.status().held == ()


def test_who_holds_them_and_hangs_is_ended_by_the_next_attempt(host: AgentHost) -> None:
    before = failed(host)
    assert before.guardian is not None
    os.kill(before.guardian.pid, signal.SIGSTOP)
    second(host)
    assert host.status().attempt == SECOND and locked(host) == [0, 1] and not is_alive(before.guardian)


def test_who_holds_them_and_was_killed_leaves_them_free(host: AgentHost) -> None:
    before = failed(host)
    assert before.guardian is not None
    os.kill(before.guardian.pid, signal.SIGKILL)
    eventually(lambda: locked(host) == [], what="free")
    assert host.status().is_over and host.status().held == ()
    second(host)
    assert locked(host) == [0, 1]


def test_a_killed_supervisor_is_a_failure_as_any(host: AgentHost) -> None:
    host.launch(STAY, attempt=FIRST, holds=LONG)
    supervisor = host.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    found = host.wait_over(timeout=60.0)
    assert found.held == (0,) and found.stop is not None and found.stop.kind is StopKind.SUPERVISOR_ENDED
    second(host, STAY)
    assert locked(host) == [0]


def test_they_are_busy_for_others_and_free_for_the_run_itself(host: AgentHost) -> None:
    failed(host)
    agent = host.new_agent()
    assert agent.busy_devices((0, 1), None) == [0, 1]
    assert agent.busy_devices((0, 1), None, "another") == [0, 1]
    assert agent.busy_devices((0, 1), None, RUN) == []
    probed = agent.probe(devices=(0, 1), kept_for=RUN), agent.probe(devices=(0, 1))
    assert [list(each.busy_devices) for each in probed] == [[], [0, 1]]
    second(host)
    assert agent.busy_devices((0, 1), None, RUN) == [0, 1]  # they are used by now
    agent.close()


def test_a_watch_hears_that_it_is_over_and_holds_them(host: AgentHost) -> None:
    agent = host.new_agent()
    host.launch(sh("while ! [ -e go ]; do sleep 0.05; done; exit 3"), attempt=FIRST, holds=LONG)
    agent.watch(RUN, None, every=0.1, beat=5.0)
    (host.run_dir().root / "go").touch()

    def held() -> bool:
        statuses = [event.status for event in agent.heard() if hasattr(event, "status")]
        return any(status.is_over and status.held == (0,) for status in statuses)

    eventually(held, what="over and held")
    agent.close()


def test_who_holds_them_costs_nothing(host: AgentHost) -> None:
    before = failed(host)
    assert before.guardian is not None

    def ticks() -> int:
        with open(f"/proc/{before.guardian.pid}/status") as file:  # type: ignore[union-attr]
            return sum(int(line.split()[1]) for line in file if "voluntary_ctxt_switches" in line)

    first = ticks()
    time.sleep(1.5)
    assert ticks() - first <= 1


class TimedHold(device_hold.DeviceHold):
    """A hold without a guardian, on a clock of ours; `happens` is told the number of each turn."""

    def __init__(self, host: AgentHost, holds: float, happens: Callable[[int], float | None]) -> None:
        manifest = host.manifest(STAY, STAY, attempt=FIRST, holds=holds)
        locks = device_hold.DeviceLocks(host.workdir.locks, (0, 1), RUN)
        super().__init__(manifest, host.run_dir(), locks, lambda: self.now)
        self.now, self.pauses, self._happens = 1000.0, list[float](), happens

    def _serve(self, pause: float) -> None:
        self.pauses.append(pause)
        self.now += pause + (self._happens(len(self.pauses)) or 0.0)


@pytest.fixture
def unheld(host: AgentHost) -> AgentHost:
    """A host whose run has failed; the guardian that held its devices was killed."""
    found = failed(host)
    assert found.guardian is not None
    os.kill(found.guardian.pid, signal.SIGKILL)
    eventually(lambda: locked(host) == [], what="free")
    return host


def test_a_hold_whose_host_was_suspended_begins_anew(unheld: AgentHost) -> None:
    hold = TimedHold(unheld, 100.0, lambda turn: 5000.0 if turn == 2 else None)
    hold.keep()
    assert hold.pauses == [60.0, 40.0, 60.0, 40.0] and locked(unheld) == []


def test_a_hold_whose_directory_is_removed_ends_at_its_next_look(unheld: AgentHost) -> None:
    def happens(turn: int) -> None:
        assert locked(unheld) == [0, 1]
        if turn == 3:
            shutil.rmtree(unheld.run_dir().root)

    hold = TimedHold(unheld, LONG, happens)
    hold.keep()
    assert hold.pauses == [60.0] * 3 and locked(unheld) == []


# What the supervisor decides.


def ended(reason: StopReason | None, holds: float | None = LONG) -> Machine:
    run = Machine(holds=holds)
    run.begin()
    if reason is None:
        run.exit((0, 3))
    else:
        run.carry_out(run.state.stop(reason, run.now))
    for rank in sorted(run.alive):
        run.exit((rank, -15))
    assert run.state.phase == "over"
    return run


@pytest.mark.parametrize(
    ("reason", "keeps"),
    [
        (None, True),
        (StopReason(StopKind.WORKER_FAILED, "other", 7), True),
        (StopReason(StopKind.LEASE_ENDED), True),
        (StopReason(StopKind.SUPERVISOR_TERMINATED), True),
        (BY_HAND, False),
        (StopReason(StopKind.RANKS_DONE), False),
        (StopReason(StopKind.LAUNCH_LAPSED), False),
        (StopReason(StopKind.RUN_DIRECTORY_REMOVED), False),
    ],
    ids=str,
)
def test_which_ends_another_attempt_may_follow(reason: StopReason | None, keeps: bool) -> None:
    assert ended(reason).state.keeps_devices is keeps
    assert ended(reason, holds=None).state.keeps_devices is False


def test_a_stop_by_hand_of_what_is_failing_keeps_nothing() -> None:
    for order in (lambda run: run.state.stop(BY_HAND, run.now), lambda run: run.state.release()):
        run = Machine(holds=LONG)
        run.begin()
        run.exit((0, 3))
        order(run)
        run.exit((1, -15))
        assert run.state.phase == "over" and not run.state.keeps_devices


def test_all_that_succeed_keep_nothing() -> None:
    run = Machine(holds=LONG)
    run.begin()
    run.exit((0, 0), (1, 0))
    assert run.states() == [RankState.SUCCEEDED] * 2 and not run.state.keeps_devices
