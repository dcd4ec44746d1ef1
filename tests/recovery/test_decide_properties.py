"""What holds of every decision, whatever the situation; and that runs which fail alike end by themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.run_terms import Restart
from orchestrator.control.decisions import Choice, Decision, DeviceFault, Ground, Level, Outcome
from orchestrator.diagnosis.signatures import KINDS
from orchestrator.recovery.decide import decide
from orchestrator.recovery.device_levels import asked_by
from orchestrator.recovery.situation import HostState, PastAttempt, Situation
from tests.recovery.ended import NOW

NAMES = ["h0", "h1", "h2", "h3"]
SPARES = ["s0", "s1"]
ALL = [*NAMES, *SPARES]
CODES = ["80E01801", "80C98001", "80E18402", "81078603", "12345678", ""]

flags = st.booleans()
names = st.sampled_from(["", *ALL])
FAILURES = (Outcome.CRASH, Outcome.HOST, Outcome.HANG, Outcome.DEVICE)
ON = ("crash", "host", "hang", "device")
steps = st.none() | st.integers(0, 60)


@st.composite
def states(draw: st.DrawFn, name: str) -> HostState:
    well = draw(st.integers(0, 5)) > 0
    if well:
        return HostState(name, free_devices=draw(st.integers(0, 1)))
    answers, ready, is_gone, stuck = draw(flags), draw(flags), draw(flags), draw(flags)
    return HostState(name, answers, is_gone, stuck, ready, draw(st.sampled_from(["", "full"])))


@st.composite
def attempts(draw: st.DrawFn, number: int) -> PastAttempt:
    started = NOW - 5000 + 400 * number
    return PastAttempt(
        number,
        started,
        started + draw(st.integers(0, 399)),
        draw(st.sampled_from([*Outcome, *FAILURES, *FAILURES])),
        draw(names),
        draw(st.none() | st.integers(0, 7)),
        draw(st.none() | st.integers(0, 1)),
        draw(st.sampled_from(["", "unheard_of", *KINDS])),
        draw(st.sampled_from(["", "exit:1", "crashed"])),
        draw(flags),
        draw(st.integers(0, 50)),
        draw(steps),
        draw(steps),
        tuple(draw(st.lists(st.sampled_from(ALL), max_size=4, unique=True))),
        draw(steps),
        draw(st.none() | st.integers(0, 5)),
        draw(flags),
    )


faults = st.builds(
    DeviceFault,
    st.sampled_from(ALL),
    st.integers(0, 1),
    st.sampled_from(CODES),
    st.sampled_from(Level),
    st.integers(0, 3),
    st.just(NOW),
)
policies = st.builds(
    Restart,
    max=st.integers(0, 8),
    on=st.just(ON) | st.lists(st.sampled_from(ON), unique=True).map(tuple),
    wait=st.sampled_from([0.0, 300.0]),
    min_hosts=st.none() | st.integers(1, 4),
)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    hosts = [draw(states(name)) for name in ALL if draw(st.integers(0, 15))]
    return Situation(
        now=NOW,
        policy=draw(policies),
        attempts=tuple(draw(attempts(number)) for number in range(1, draw(st.integers(0, 5)) + 1)),
        wanted=tuple(NAMES),
        hosts={state.name: state for state in hosts},
        spares=tuple(draw(st.lists(st.sampled_from(SPARES), unique=True))),
        faults=tuple(draw(st.lists(faults, max_size=3))),
        drained=tuple(draw(st.lists(st.sampled_from(ALL), max_size=2))),
        fits=tuple(draw(st.lists(st.integers(1, 3), unique=True))),
        waits_since=draw(st.none() | st.floats(NOW - 1000, NOW)),
        keeps=draw(flags),
    )


def require_usable(given: Situation, found: Decision) -> None:
    """Hosts of a decision to go on can be used, and are as many as the policy allows."""
    assert len(set(found.hosts)) == len(found.hosts) > 0
    for name in found.hosts:
        state = given.hosts[name]
        assert state.answers and not state.is_stuck and not state.refuses
        assert name not in given.drained
        told = [asked_by(fault) for fault in given.faults if fault.host == name]
        assert Level.DRAIN not in {fault.level for fault in told}
        others = {fault.device for fault in told if fault.level is Level.OTHER_DEVICE}
        assert len(others) <= state.free_devices
    team, size = given.last.hosts or given.wanted, len(given.wanted)
    least = size if given.policy.min_hosts is None else min(size, given.policy.min_hosts)
    assert least <= len(found.hosts) <= size and (len(found.hosts) == size or len(found.hosts) in given.fits)
    assert set(found.spares) <= set(found.hosts) & set(given.spares) and not set(found.spares) & set(team)
    assert len(set(found.spares)) == len(found.spares)
    assert set(found.out) == set(found.out_for) and not set(found.out) & set(found.hosts)
    staying = [name for name in team if name in found.hosts]
    if len(found.hosts) == len(team):
        assert [name for name in found.hosts if name in staying] == staying
        assert all(found.hosts[team.index(name)] == name for name in staying)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(situations())
def test_every_decision_can_be_carried_out(given: Situation) -> None:
    found = decide(given)
    assert found == decide(given) and found.time == NOW
    if found.choice.goes_on:
        require_usable(given, found)
        assert given.policy.max > 0 and given.last.outcome not in (Outcome.DONE, Outcome.STOPPED)
        assert given.last.outcome is Outcome.LAUNCH or given.last.outcome.value in given.policy.on
        assert found.count <= found.limit == given.policy.max
    else:
        assert found.hosts == () == found.spares
    if found.choice is Choice.WAIT:
        assert found.not_before > NOW and found.out
    if found.choice is Choice.AGAIN:
        assert found.hosts == (given.last.hosts or given.wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([outcome for outcome in Outcome if outcome not in (Outcome.DONE, Outcome.STOPPED)]),
    st.sampled_from(
        ["", "killed", "crashed", "device_in_use", "device_task_failed", "host_fault", "host_lost"]
    ),
    st.sampled_from(["", *NAMES]),
    st.integers(0, 1),
    steps,
    flags,
    flags,
    st.floats(0, 5000),
)
def test_a_loop_of_the_same_end_ends_by_itself(
    outcome: Outcome,
    kind: str,
    host: str,
    device: int,
    step: int | None,
    sure: bool,
    keeps: bool,
    lives: float,
) -> None:
    """However many attempts the policy allows, and whatever is taken out for it."""
    policy = Restart(max=1000, window=10**6, min_hosts=1)
    given = Situation(
        now=NOW,
        policy=policy,
        attempts=(),
        wanted=tuple(NAMES),
        hosts={name: HostState(name) for name in ALL},
        spares=tuple(SPARES),
        fits=(1, 2, 3),
        keeps=keeps or step is None,
    )
    hosts, past = tuple(NAMES), list[PastAttempt]()
    for number in range(1, 20):
        now = NOW + number * (lives + 10)
        who = host if host in hosts else ""
        fields: dict[str, Any] = {
            "sure": sure,
            "last_step": step,
            "hosts": hosts,
            "rank": 0,
            "device": device,
        }
        past.append(
            PastAttempt(number, now - lives, now, outcome, who, kind=kind, key=kind or "exit:1", **fields)
        )
        given = dataclasses.replace(given, now=now, attempts=tuple(past))
        found = decide(given)
        if not found.choice.goes_on:
            break
        hosts = found.hosts
    assert found.choice is Choice.GIVE_UP and number <= 7  # the first one may have got somewhere
    assert found.ground is not Ground.MOST_ATTEMPTS
