"""The watch of hosts that push: gaps, other supervisors, clocks that jump, floods, and a thousand hosts."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from orchestrator.config.run_terms import Timeouts
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.watch import Watch
from orchestrator.core.errors import AuthenticationError, ConnectError
from orchestrator.core.push import Beat, Change, Digest
from orchestrator.core.records import ProcessId, RankStatus
from orchestrator.core.states import RunState
from tests.control.judged import FakeHost, pass_time, rank, round_of, states, status
from tests.hosts.push_host import Hands, HandScheduling, PushFleet

Pair = tuple[FakeHost, FakeHost]


def test_a_change_that_was_missed_is_asked_for_again(clock: Hands, hosts: Pair, watched: Watch) -> None:
    _, b = hosts
    round_of(watched)
    b.sequence = 3  # two changes of which nobody heard, then one more
    b.said = status("b", rank(2, "succeeded"), rank(3))
    b.push(Change(3, b.clock, "committed", (rank(3),)))
    assert states(round_of(watched)) == ["running"] * 4
    clock.passes(1)
    assert states(round_of(watched)) == ["running", "running", "succeeded", "running"]
    assert b.watches[-1]["since"]["sequence"] == 0 and b.opened == 1


def test_what_is_doubled_or_late_changes_nothing(hosts: Pair, watched: Watch) -> None:
    _, b = hosts
    round_of(watched)
    ended = Change(1, b.clock, "committed", (rank(2, "succeeded"), rank(3, "succeeded")))
    b.sequence = 1
    b.push(ended, ended, Digest(0, b.clock, 1, 1), Change(0, b.clock, "committed", (rank(2),)))
    assert states(round_of(watched)) == ["running", "running", "succeeded", "succeeded"]
    assert len(b.watches) == 1


def test_a_burst_of_ten_thousand_changes_is_taken_and_only_the_last_counts(
    hosts: Pair, watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    b.sequence = 10_000
    b.push(
        *(
            Change(number, b.clock, "committed", (rank(2, progress={"step": number}),))
            for number in range(1, 10_001)
        )
    )
    a.says(rank(0, "succeeded"), rank(1))
    run = round_of(watched)
    assert not run.hosts["b"].error and run.ranks()[2].progress == {"step": 10_000}
    assert states(run)[0] == "succeeded" and len(b.watches) == 1


def test_a_host_that_floods_costs_itself(clock: Hands, hosts: Pair, watched: Watch) -> None:
    a, b = hosts
    round_of(watched)
    b.push(*[Beat(0, b.clock)] * 25_000)
    run = round_of(watched)
    assert "floods us" in run.hosts["b"].error and states(run)[:2] == ["running"] * 2
    a.says(rank(0, "succeeded"), rank(1))
    assert states(round_of(watched))[0] == "succeeded"


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "digest", "data": {"sequence": 0, "clock": 9, "low": 5, "high": 3}}\n',
        b'{"event": "digest", "data": {"sequence": 0, "clock": 9, "low": 1, "high": 3, "steps": {"0": 2}}}\n',
        b'{"event": "change", "data": {"sequence": 1, "clock": 9, "phase": "x", "ranks": [{"rank": 2}]}}\n',
        b'{"event": "beat", "data": {"sequence": -1, "clock": 1e9}}\n',
        b'{"event": "beat", "data": {"sequence": 0, "clock": "late"}}\n',
        b'{"event": "beat", "data": ' + b"[" * 2000 + b"]" * 2000 + b"}\n",
        b"no frame\n",
        b'{"id": 9, "ok": true, "result": 1}\n',
    ],
    ids=[
        "low over high",
        "another's rank",
        "half a rank",
        "sequence",
        "clock",
        "deep",
        "noise",
        "unasked answer",
    ],
)
def test_a_push_that_is_none_costs_its_host(clock: Hands, line: bytes) -> None:
    a, b = FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))
    watched = watch_of(clock, a, b)
    try:
        round_of(watched)
        b.push_raw(line)
        run = round_of(watched)
        assert run.hosts["b"].error and run.hosts["b"].error.isprintable()
        assert states(run) == ["running", "running", "unreachable", "unreachable"] and run.cause is None
        run = pass_time(clock, watched, 20)
        assert states(run) == ["running"] * 4
    finally:
        watched.close()


def watch_of(clock: Hands, *hosts: FakeHost, **timeouts: float) -> Watch:
    """With the ranks of each host known, as the monitor has them."""
    for host in hosts:
        host.hands = clock
    placed = {host.name: frozenset(rank.rank for rank in host.said.ranks) for host in hosts}
    run = RunRecord("r1", "job", "command", sum(map(len, placed.values())), clock.wall)
    fleet: Any = PushFleet(*hosts)
    limits = Timeouts(**{"unreachable": 60.0, "lost": 600.0, **timeouts})
    return Watch(run, fleet, limits, placed=placed, scheduling=HandScheduling(clock))


def test_an_unknown_event_of_a_newer_version_is_ignored(hosts: Pair, watched: Watch) -> None:
    _, b = hosts
    round_of(watched)
    b.push_raw(b'{"event": "weather", "data": {"fine": true}}\n')
    assert not round_of(watched).hosts["b"].error


def test_a_session_that_breaks_goes_on_where_it_was_without_a_new_login(
    clock: Hands, hosts: Pair, watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    clock.passes(30)
    for host in hosts:
        host.beat()
    round_of(watched)
    b.cut()
    run = pass_time(clock, watched, 2, step=1)
    assert states(run) == ["running"] * 4 and not run.hosts["b"].error
    assert (b.opened, b.dropped) == (2, 0) and b.watches[-1]["since"]["sequence"] == 0
    b.says(rank(2, "succeeded"), rank(3))
    assert states(round_of(watched))[2] == "succeeded" and a.opened == 1


def test_when_logins_begin_to_fail_open_sessions_stay_and_the_record_says_since_when_it_is_blind(
    clock: Hands, hosts: Pair, watched: Watch
) -> None:
    a, b = hosts
    round_of(watched)
    pass_time(clock, watched, 30)
    a.beat()
    b.beat()
    seen = clock.wall
    round_of(watched)
    clock.passes(7)
    b.error = AuthenticationError("no key was accepted", where="b")  # nobody gets in any more
    a._error = b.error  # who is in stays in
    run = pass_time(clock, watched, 300)
    assert run.hosts["b"].blind_since == seen and run.hosts["b"].error
    assert not run.hosts["a"].error and run.hosts["a"].blind_since is None and a.opened == 1
    a.said = status("a", rank(0, "failed", ended=1.0, exit_code=1), rank(1), phase="stopping")
    a.sequence += 1
    a.push(a.snapshot())
    run = round_of(watched)
    assert run.cause is not None and run.cause.rank == 0


def test_a_host_is_silent_only_when_it_does_not_answer_either(
    clock: Hands, hosts: Pair, watched: Watch
) -> None:
    """Its supervisor is held up: no beats come. Its agent answers, and says how old the status is."""
    _, b = hosts
    round_of(watched)
    object.__setattr__(b.said, "interval", 2.0)
    written = b.said.updated
    run = pass_time(clock, watched, 300)
    assert not run.hosts["b"].error and b.asked > 3 and b.opened == 1
    if "interval" in {field.name for field in dataclasses.fields(b.said)}:
        assert run.hosts["b"].stale_since == pytest.approx(written, abs=1.0)
    b.beat()
    assert round_of(watched).hosts["b"].stale_since is None


def test_a_clock_that_jumps_is_measured_again(clock: Hands, hosts: Pair, watched: Watch) -> None:
    _, b = hosts
    b.ahead = 5.0
    run = round_of(watched)
    assert run.hosts["b"].clock is not None and run.hosts["b"].clock.seconds == pytest.approx(5.0, abs=0.01)
    for ahead in (3600.0, -500.0):
        b.ahead = ahead
        clock.passes(20)
        b.beat()
        run = round_of(watched)
        run = pass_time(clock, watched, 2, step=1)
        assert run.hosts["b"].clock is not None
        assert run.hosts["b"].clock.seconds == pytest.approx(ahead, abs=0.1)


def test_a_supervisor_of_another_boot_is_believed_and_its_ranks_are_lost(hosts: Pair, watched: Watch) -> None:
    a, b = hosts
    round_of(watched)
    b.supervisor = ProcessId(9, 90, "boot-2")
    b.sequence = 0
    b.says(rank(2, "lost"), rank(3, "lost"), phase="over")
    run = round_of(watched)
    assert run.cause is not None and run.cause.host == "b" and a.told


def test_who_looks_has_hosts_tell_more_often(clock: Hands, hosts: Pair, watched: Watch) -> None:
    a, _ = hosts
    round_of(watched)
    assert a.watches[-1]["every"] == 2.0 and a.watches[-1]["beat"] == 15.0
    for viewers, every in ((2, 0.5), (1, 0.5), (0, 2.0)):
        watched.set_viewers(viewers)
        clock.passes(1)
        round_of(watched)
        assert a.watches[-1]["every"] == every
    assert len(a.watches) == 3 and a.opened == 1


def test_an_agent_that_knows_no_watch_is_asked_now_and_then(
    clock: Hands, hosts: Pair, watched: Watch
) -> None:
    a, _ = hosts
    a.knows_watch = False
    run = pass_time(clock, watched, 20, step=1)
    assert states(run) == ["running"] * 4 and 15 < a.asked < 45
    a.said = status("a", rank(0, "failed", ended=1.0, exit_code=1), rank(1), phase="stopping")
    clock.passes(1)
    round_of(watched)
    assert round_of(watched).cause is not None


def test_a_judgement_is_made_at_once_for_an_end_and_seldom_for_steps(
    clock: Hands, hosts: Pair, watched: Watch
) -> None:
    a, b = hosts
    run = round_of(watched)
    before = run.hosts
    clock.passes(0.05)
    assert round_of(watched).hosts is before  # nothing has happened
    a.says(rank(0, "failed", ended=1.0, exit_code=1), rank(1), phase="stopping")
    run = round_of(watched)
    assert run.cause is not None and b.told


def test_waking_ends_a_step_and_stop_is_told_at_once(clock: Hands, hosts: Pair, watched: Watch) -> None:
    """From any thread; here from this one, before it waits."""
    real = Watch(watched.record, PushFleet(), Timeouts())  # type: ignore[arg-type]
    began = time.monotonic()
    real.wake()
    real.step(30.0)
    assert time.monotonic() - began < 5
    real.close()


def test_a_thousand_hosts_that_fail_at_once(clock: Hands) -> None:
    hosts = [FakeHost(f"h{number}", rank(2 * number), rank(2 * number + 1)) for number in range(1000)]
    watched = watch_of(clock, *hosts)
    try:
        assert round_of(watched).state is RunState.RUNNING
        for number, host in enumerate(hosts):
            ends = dict(ended=clock.wall + number % 7, exit_code=1, tail=(f"Error: {number}",))
            host.says(
                rank(2 * number, "failed", **ends), rank(2 * number + 1, "failed", **ends), phase="over"
            )
        began = time.thread_time()
        run = round_of(watched)
        assert time.thread_time() - began < 2.0
        assert run.state is RunState.FAILED and run.cause is not None and run.cause.time <= clock.wall + 1
        assert len(run.victims) == 1999
    finally:
        watched.close()


def test_hosts_that_never_answer_hold_up_no_other(clock: Hands) -> None:
    hosts = [FakeHost(f"h{number}", rank(2 * number), rank(2 * number + 1)) for number in range(100)]
    for host in hosts[::20]:
        host.error = ConnectError("timed out", where=host.name)
    watched = watch_of(clock, *hosts)
    try:
        run = round_of(watched)
        assert sum(view.status is not None for view in run.hosts.values()) == 95
        assert isinstance(run.hosts["h20"], HostView) and run.hosts["h20"].error
        hosts[1].says(rank(2, "failed", ended=1.0, exit_code=1), rank(3), phase="stopping")
        run = round_of(watched)
        assert sum(bool(host.told) for host in hosts) == 94
    finally:
        watched.close()


def test_the_clock_of_a_host_that_fails_is_measured(clock: Hands, hosts: Pair, watched: Watch) -> None:
    """Though it was measured before, and though its part is over."""
    _, b = hosts
    round_of(watched)
    clock.passes(0.5)
    b.ahead = 0.25
    failed = rank(3, "failed", ended=clock.wall, exit_code=1)
    b.says(rank(2, "stopped", ended=clock.wall), failed, phase="over")
    round_of(watched)
    run = round_of(watched)
    offset = run.hosts["b"].clock
    assert offset is not None and (offset.seconds, offset.measured) == (pytest.approx(0.25), clock.wall)


def saved(number: int, step: int) -> RankStatus:
    return dataclasses.replace(rank(number), saved=step)


def test_hosts_hear_which_step_every_rank_has_saved(clock: Hands, hosts: Pair, watched: Watch) -> None:
    a, b = hosts
    round_of(watched)
    a.says(saved(0, 10), saved(1, 20))
    b.says(saved(2, 20), rank(3))
    round_of(watched)
    assert a.told_steps == b.told_steps == []  # of rank 3 nothing is known
    b.says(saved(2, 20), saved(3, 20))
    round_of(watched)
    assert a.told_steps == b.told_steps == [(1, 10)]
    clock.passes(5)
    a.says(saved(0, 20), saved(1, 20))
    run = round_of(watched)
    clock.passes(5)
    round_of(watched)
    assert a.told_steps == b.told_steps == [(1, 10), (1, 20)]  # once each
    assert not any(view.error for view in run.hosts.values())
