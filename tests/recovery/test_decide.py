"""The table of decisions: each row by cases of its own, in their order."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.control.decisions import Choice, Decision, Ground, Level, Outcome
from orchestrator.core.codec import from_json, to_json
from orchestrator.recovery.decide import ROWS, decide
from orchestrator.recovery.situation import HostState, Situation
from tests.recovery.ended import NOW, TEAM, attempt, fault, gone, idle, silent, situation

CRASH, HANG, HOST, DEVICE, LAUNCH = Outcome.CRASH, Outcome.HANG, Outcome.HOST, Outcome.DEVICE, Outcome.LAUNCH
AGAIN, REPLACE, FEWER = Choice.AGAIN, Choice.REPLACE, Choice.FEWER
STOP, GIVE_UP, WAIT = Choice.STOP, Choice.GIVE_UP, Choice.WAIT
SAME: dict[str, Any] = {"last_step": 37, "key": "crashed"}
HBM, RESET, SEPARATE, PORT = "80E01801", "80C98001", "80E18402", "81078603"


def of(*args: Any, **fields: Any) -> Situation:
    return situation(*args, **fields)


CASES: dict[str, tuple[Situation, Choice, Ground]] = {
    "all have succeeded": (of(attempt(outcome=Outcome.DONE)), STOP, Ground.DONE),
    "somebody stopped it": (of(attempt(outcome=Outcome.STOPPED)), STOP, Ground.STOPPED),
    "no policy": (of(attempt(), policy={"max": 0}), STOP, Ground.NO_RESTART),
    "without a policy a gone host is not waited for": (
        of(attempt(outcome=HOST, host="b"), policy={"max": 0}, states=(gone("b"),)),
        STOP,
        Ground.NO_RESTART,
    ),
    # Launches.
    "a first launch that comes to nothing": (of(attempt(outcome=LAUNCH)), GIVE_UP, Ground.CANNOT_START),
    "a launch that was wrong": (of(attempt(), idle(2, LAUNCH, exit_code=2)), GIVE_UP, Ground.CANNOT_START),
    "a host unfit, nobody knows which": (
        of(attempt(), idle(2, LAUNCH, exit_code=4)),
        GIVE_UP,
        Ground.CANNOT_START,
    ),
    "a host unfit, and a spare": (
        of(
            attempt(),
            idle(2, LAUNCH, exit_code=4),
            spares=("s",),
            states=(HostState("b", refuses="no room on its disk"),),
        ),
        REPLACE,
        Ground.HOST_FAULT,
    ),
    "after two failures a spare that is no good is not the third": (
        of(
            idle(1),
            idle(2),
            idle(3, LAUNCH, exit_code=4, hosts=("a", "b", "c", "s")),
            spares=("s",),
            states=(HostState("s", refuses="no room on its disk"),),
        ),
        REPLACE,
        Ground.HOST_FAULT,
    ),
    "a host that a launch could not reach answers again": (
        of(attempt(), idle(2, LAUNCH, exit_code=3)),
        AGAIN,
        Ground.HOST_GONE,
    ),
    "that twice in a row": (
        of(attempt(), idle(2, LAUNCH, exit_code=3), idle(3, LAUNCH, exit_code=3)),
        GIVE_UP,
        Ground.CANNOT_START,
    ),
    "a launch could not reach a host, and there is no spare": (
        of(attempt(), idle(2, LAUNCH, exit_code=3), states=(HostState("c", refuses="timed out"),)),
        WAIT,
        Ground.HOSTS_MISSING,
    ),
    "nor could it after a while": (
        of(
            attempt(),
            idle(2, LAUNCH, exit_code=3),
            states=(HostState("c", refuses="timed out"),),
            waits_since=NOW - 60,
        ),
        GIVE_UP,
        Ground.TOO_FEW_HOSTS,
    ),
    "a launch could not reach a host, and there is a spare": (
        of(
            attempt(),
            idle(2, LAUNCH, exit_code=3),
            states=(HostState("c", refuses="timed out"),),
            spares=("s",),
        ),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "a launch could not reach a host that is gone": (
        of(attempt(), idle(2, LAUNCH, exit_code=3), spares=("s",), states=(gone("c"),)),
        REPLACE,
        Ground.HOST_GONE,
    ),
    # Configuration.
    "an error in the program": (of(attempt(kind="program_error")), GIVE_UP, Ground.CONFIGURATION),
    "it cannot be started": (of(attempt(kind="not_started")), GIVE_UP, Ground.CONFIGURATION),
    "out of memory of the device": (of(attempt(kind="device_out_of_memory")), GIVE_UP, Ground.CONFIGURATION),
    "an exit for usage before the first step": (
        of(attempt(exit_code=2, last_step=None, kept=None)),
        GIVE_UP,
        Ground.CONFIGURATION,
    ),
    "the same exit after steps": (of(attempt(exit_code=2)), AGAIN, Ground.CRASH),
    "a program's error that is not sure to be the cause": (
        of(attempt(kind="program_error", sure=False)),
        AGAIN,
        Ground.CRASH,
    ),
    # What the policy covers.
    "crashes are not covered": (of(attempt(), policy={"on": ("host",)}), GIVE_UP, Ground.NOT_COVERED),
    "hangs are not covered": (
        of(attempt(outcome=HANG), policy={"on": ("crash",)}),
        GIVE_UP,
        Ground.NOT_COVERED,
    ),
    # The same end at the same step.
    "the same crash at the same step": (
        of(idle(1, **SAME), idle(2, **SAME)),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "the same crash where who failed was at the same step": (
        of(idle(1, key="crashed", step=37), idle(2, key="crashed", step=37)),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "the same crash before the first step": (
        of(idle(1, last_step=None), idle(2, last_step=None)),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "the same end, once before the first step": (
        of(idle(1, last_step=None), idle(2, last_step=11)),
        AGAIN,
        Ground.CRASH,
    ),
    "another end at the same step": (
        of(idle(1, **SAME), idle(2, key="exit:1", last_step=37)),
        AGAIN,
        Ground.CRASH,
    ),
    "killed from outside twice at the same step": (
        of(*(idle(n, kind="killed", key="killed", last_step=37) for n in (1, 2))),
        AGAIN,
        Ground.CRASH,
    ),
    "a person went on with it after the same end": (
        of(idle(1, **SAME), idle(2, **SAME, by_hand=True)),
        AGAIN,
        Ground.CRASH,
    ),
    "two hosts are lost at the same step": (
        of(
            idle(1, HOST, host="x", **SAME),
            idle(2, HOST, host="b", **SAME),
            spares=("s",),
            states=(gone("b"),),
        ),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "a program that tells no steps, and ends at once twice": (
        of(*(idle(n, last_step=None) for n in (1, 2)), keeps=False),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "a program that tells no steps, and ends after a day twice": (
        of(
            *(idle(n, last_step=None, started=NOW - 90_000 * (3 - n)) for n in (1, 2)),
            keeps=False,
        ),
        AGAIN,
        Ground.CRASH,
    ),
    "the same operator on another device": (
        of(
            idle(1, DEVICE, host="a", device=0, kind="device_task_failed", **SAME),
            idle(2, DEVICE, host="b", device=3, kind="device_task_failed", **SAME),
        ),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "the same device again, where nobody can take its place": (
        of(*(idle(n, DEVICE, host="b", device=3, **SAME) for n in (1, 2))),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    # Progress.
    "three crashes without progress": (of(idle(1), idle(2), idle(3)), GIVE_UP, Ground.NO_PROGRESS),
    "two without progress after one with": (of(attempt(1), idle(2), idle(3)), AGAIN, Ground.CRASH),
    "what was kept is not newer than its origin": (
        of(*(idle(n, origin=10, kept=10) for n in (1, 2, 3))),
        GIVE_UP,
        Ground.NO_PROGRESS,
    ),
    "three hosts are lost before anything is kept": (
        of(*(idle(n, HOST, host="b") for n in (1, 2, 3)), spares=("s",), states=(gone("b"),)),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "six are": (
        of(
            *(idle(n, HOST, host="b") for n in range(1, 7)),
            spares=("s",),
            states=(gone("b"),),
            policy={"max": 50},
        ),
        GIVE_UP,
        Ground.NO_PROGRESS,
    ),
    "a program that keeps its own gets further each time": (
        of(*(idle(n, last_step=10 * n) for n in (1, 2, 3, 4)), keeps=False, policy={"max": 50}),
        AGAIN,
        Ground.CRASH,
    ),
    # How often.
    "as often as it may": (of(*map(attempt, (1, 2, 3)), policy={"max": 2}), GIVE_UP, Ground.MOST_ATTEMPTS),
    "once more than that": (of(*map(attempt, (1, 2, 3)), policy={"max": 3}), AGAIN, Ground.CRASH),
    "the others were before the window": (
        of(*map(attempt, (1, 2, 10)), policy={"max": 2, "window": 900.0}),
        AGAIN,
        Ground.CRASH,
    ),
    # Whether there are hosts.
    "a host is gone, and nobody can take its place": (
        of(attempt(outcome=HOST, host="b"), states=(gone("b"),)),
        GIVE_UP,
        Ground.TOO_FEW_HOSTS,
    ),
    "it is waited for": (
        of(attempt(outcome=HOST, host="b"), states=(gone("b"),), policy={"wait": 600.0}),
        WAIT,
        Ground.HOSTS_MISSING,
    ),
    "it was waited for, in vain": (
        of(
            attempt(outcome=HOST, host="b"),
            states=(gone("b"),),
            policy={"wait": 600.0},
            waits_since=NOW - 600,
        ),
        GIVE_UP,
        Ground.TOO_FEW_HOSTS,
    ),
    "it was waited for, and is back": (
        of(attempt(outcome=HOST, host="b"), policy={"wait": 600.0}, waits_since=NOW - 300),
        AGAIN,
        Ground.HOSTS_BACK,
    ),
    "a host does not answer, and may be there": (
        of(attempt(), states=(silent("b"),), spares=("s",)),
        WAIT,
        Ground.HOSTS_MISSING,
    ),
    "it has not answered for as long as that may be": (
        of(attempt(), states=(silent("b"),), spares=("s",), waits_since=NOW - 60),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "fewer hosts do not fit": (
        of(attempt(outcome=HOST, host="b"), states=(gone("b"),), policy={"min_hosts": 2}),
        GIVE_UP,
        Ground.TOO_FEW_HOSTS,
    ),
    "fewer hosts": (
        of(attempt(outcome=HOST, host="b"), states=(gone("b"),), policy={"min_hosts": 2}, fits=(2, 3)),
        FEWER,
        Ground.HOST_GONE,
    ),
    "it waits before it goes on with fewer": (
        of(
            attempt(outcome=HOST, host="b"),
            states=(gone("b"),),
            policy={"min_hosts": 2, "wait": 600.0},
            fits=(2, 3),
        ),
        WAIT,
        Ground.HOSTS_MISSING,
    ),
    "with fewer hosts it waits no more": (
        of(
            attempt(hosts=("a", "c", "d")),
            states=(gone("b"),),
            policy={"min_hosts": 2, "wait": 600.0},
            fits=(2, 3),
        ),
        AGAIN,
        Ground.CRASH,
    ),
    "it grows back": (of(attempt(hosts=("a", "c", "d"))), FEWER, Ground.HOSTS_BACK),
    # Why it goes on.
    "the device is still held": (
        of(attempt(outcome=DEVICE, kind="device_in_use", host="b", device=1, last_step=None)),
        AGAIN,
        Ground.DEVICE_HELD,
    ),
    "a process in state D": (
        of(attempt(host="b"), states=(HostState("b", is_stuck=True),), spares=("s",)),
        REPLACE,
        Ground.HOST_STUCK,
    ),
    "a process in state D, and nobody to take its host's place": (
        of(attempt(host="b"), states=(HostState("b", is_stuck=True),)),
        GIVE_UP,
        Ground.TOO_FEW_HOSTS,
    ),
    "a lost host is back": (of(attempt(outcome=HOST, host="b")), AGAIN, Ground.HOST_GONE),
    "a lost host answers again": (
        of(
            attempt(outcome=HOST, host="b"),
            states=(HostState("b", is_gone=True), HostState("d", is_gone=True)),
        ),
        AGAIN,
        Ground.HOST_GONE,
    ),
    "of two that were lost one is back": (
        of(attempt(outcome=HOST, host="b"), states=(gone("b"), HostState("d", is_gone=True)), spares=("s",)),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "a lost host is back, and there is a spare": (
        of(attempt(outcome=HOST, host="b"), spares=("s",)),
        REPLACE,
        Ground.HOST_GONE,
    ),
    "a code that asks for a new start": (
        of(attempt(outcome=DEVICE, host="b", device=1), faults=(fault("b", 1, HBM, Level.AGAIN),)),
        AGAIN,
        Ground.DEVICE_AGAIN,
    ),
    "it comes for the second time": (
        of(
            attempt(outcome=DEVICE, host="b", device=1),
            faults=(fault("b", 1, HBM, Level.AGAIN, repeats=1),),
            spares=("s",),
        ),
        REPLACE,
        Ground.DEVICE_OUT,
    ),
    "80E18005 may come twice": (
        of(attempt(), faults=(fault("b", 1, "80E18005", Level.AGAIN, repeats=1),), spares=("s",)),
        AGAIN,
        Ground.DEVICE_AGAIN,
    ),
    "a code that asks for a reset, and a device that is free": (
        of(
            attempt(outcome=DEVICE, host="b", device=1),
            faults=(fault("b", 1, RESET, Level.OTHER_DEVICE),),
            states=(HostState("b", free_devices=1),),
        ),
        AGAIN,
        Ground.DEVICE_OUT,
    ),
    "a code that asks for a reset, and no device that is free": (
        of(attempt(), faults=(fault("b", 1, RESET, Level.OTHER_DEVICE),), spares=("s",)),
        REPLACE,
        Ground.DEVICE_OUT,
    ),
    "a code that takes the host out": (
        of(
            attempt(),
            faults=(fault("b", 1, SEPARATE, Level.DRAIN),),
            states=(HostState("b", free_devices=7),),
            spares=("s",),
        ),
        REPLACE,
        Ground.DEVICE_OUT,
    ),
    "a code that is only noted": (
        of(attempt(), faults=(fault("b", 1, PORT, Level.NOTED),)),
        AGAIN,
        Ground.CRASH,
    ),
    "a device that fails again": (
        of(attempt(1, DEVICE, host="b", device=1), attempt(2, DEVICE, host="b", device=1), spares=("s",)),
        REPLACE,
        Ground.DEVICE_OUT,
    ),
    "a device that fails again, and nobody to take its place": (
        of(attempt(1, DEVICE, host="b", device=1), attempt(2, DEVICE, host="b", device=1)),
        AGAIN,
        Ground.DEVICE_AGAIN,
    ),
    "a fault of the host": (
        of(attempt(host="b", kind="host_fault"), spares=("s",)),
        REPLACE,
        Ground.HOST_FAULT,
    ),
    "a fault of the host, and nobody to take its place": (
        of(attempt(host="b", kind="host_fault")),
        AGAIN,
        Ground.CRASH,
    ),
    "a disk that is full, and fewer hosts": (
        of(attempt(host="b", kind="disk_full"), policy={"min_hosts": 2}, fits=(2, 3)),
        AGAIN,
        Ground.CRASH,
    ),
    "a host that an unsure cause names": (
        of(attempt(host="b", sure=False), spares=("s",)),
        AGAIN,
        Ground.CRASH,
    ),
    "the second one that does": (
        of(attempt(1, host="b", sure=False), attempt(2, HANG, host="b", sure=False), spares=("s",)),
        REPLACE,
        Ground.HOST_FAULT,
    ),
    "the second one that does, and fewer hosts": (
        of(
            attempt(1, host="b", sure=False),
            attempt(2, host="b", sure=False),
            policy={"min_hosts": 2},
            fits=(2, 3),
        ),
        FEWER,
        Ground.HOST_FAULT,
    ),
    "the second one, after a kill by somebody": (
        of(attempt(1, host="b", kind="killed"), attempt(2, host="b"), spares=("s",)),
        AGAIN,
        Ground.CRASH,
    ),
    "a hang": (of(attempt(outcome=HANG)), AGAIN, Ground.HANG),
    "a hang that names the same host at the same step": (
        of(*(idle(n, HANG, host="b", rank=2, sure=False, last_step=37) for n in (1, 2)), spares=("s",)),
        REPLACE,
        Ground.HOST_FAULT,
    ),
    "a hang at the same step that names nobody": (
        of(*(idle(n, HANG, sure=False, last_step=37) for n in (1, 2)), spares=("s",)),
        GIVE_UP,
        Ground.SAME_STEP,
    ),
    "a crash": (of(attempt()), AGAIN, Ground.CRASH),
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_decides(name: str) -> None:
    given, choice, ground = CASES[name]
    found = decide(given)
    assert (found.choice, found.ground) == (choice, ground)
    assert from_json(Decision, to_json(found)) == found


def test_every_ground_is_a_row_and_has_a_case() -> None:
    assert [row.ground for row in ROWS] == list(dict.fromkeys(row.ground for row in ROWS))
    assert {row.ground for row in ROWS} == set(Ground) == {ground for _, _, ground in CASES.values()}
    assert {choice for _, choice, _ in CASES.values()} == set(Choice)


def decided(name: str) -> Decision:
    return decide(CASES[name][0])


def test_who_comes_in_takes_the_place_of_who_is_out() -> None:
    found = decided("a lost host is back, and there is a spare")
    assert (found.hosts, found.out, found.spares) == (("a", "s", "c", "d"), ("b",), ("s",))
    assert found.out_for == {"b": Ground.HOST_GONE}
    found = decided("of two that were lost one is back")
    assert (found.hosts, found.out) == (("a", "s", "c", "d"), ("b",))
    two = of(attempt(outcome=HOST, host="b"), states=(gone("b"), gone("d")), spares=("x", "s", "t"))
    busy = {**two.hosts, "x": HostState("x", is_ready=False)}
    found = decide(situation(*two.attempts, spares=two.spares, hosts=busy))
    assert (found.hosts, found.spares) == (("a", "s", "c", "t"), ("s", "t"))


def test_a_host_that_is_back_comes_before_spares_and_grows_at_the_end() -> None:
    found = decide(of(attempt(hosts=("a", "c", "d")), spares=("s",)))
    assert (found.hosts, found.spares, found.ground) == (("a", "c", "d", "b"), (), Ground.HOSTS_BACK)
    found = decide(of(attempt(hosts=("a", "c", "d")), spares=("s",), states=(gone("b"),)))
    assert (found.hosts, found.spares) == (("a", "c", "d", "s"), ("s",))


def test_as_many_hosts_go_on_as_fit() -> None:
    lost = of(
        attempt(outcome=HOST, host="b"), states=(gone("b"),), policy={"min_hosts": 1}, fits=(1, 2), spares=()
    )
    found = decide(lost)
    assert (found.choice, found.hosts, found.out) == (FEWER, ("a", "c"), ("b",))


def test_devices_that_are_out_stay_out() -> None:
    found = decided("a code that asks for a reset, and a device that is free")
    assert found.devices_out == {"b": (1,)} and found.hosts == TEAM and found.code == RESET
    again = of(attempt(), devices_out={"b": (1,)}, states=(HostState("b", free_devices=0),))
    found = decide(again)
    assert (found.ground, found.devices_out) == (Ground.CRASH, {"b": (1,)})
    kept = decided("a device that fails again, and nobody to take its place")
    assert kept.devices_out == {} and kept.hosts == TEAM


def test_who_is_drained_does_not_come_back() -> None:
    lost = of(attempt(outcome=HOST, host="b"), states=(gone("b"),), spares=("s",), drained=("s",))
    assert decide(lost).ground is Ground.TOO_FEW_HOSTS
    drained = of(attempt(hosts=("a", "c", "d")), drained=("b",), fits=(3,), policy={"min_hosts": 3})
    assert decide(drained).hosts == ("a", "c", "d")


def test_times_until_which_nothing_is_started() -> None:
    held = decided("the device is still held")
    assert held.not_before == pytest.approx(attempt().ended + 10)
    assert decided("it is waited for").not_before == NOW + 600
    assert decided("a host does not answer, and may be there").not_before == NOW + 60
    assert decided("a crash").not_before == 0.0
    port = attempt(outcome=DEVICE, kind="network_port_down", host="b", device=1)
    assert decide(of(port)).not_before == port.ended + 15
    reached = CASES["a host that a launch could not reach answers again"][0]
    assert decide(reached).not_before == reached.last.ended + 10


def test_what_a_decision_rests_on() -> None:
    found = decided("as often as it may")
    assert (found.count, found.limit) == (2, 2)
    found = decided("three crashes without progress")
    assert (found.count, found.limit, found.step) == (3, 3, 13)
    found = decide(of(attempt(host="b", rank=5, device=1, step=20)))
    # Which step it was is told as everywhere else: the newest that any rank made, here 22.
    assert (found.host, found.rank, found.device, found.step, found.count) == ("b", 5, 1, 22, 1)
    found = decide(
        of(attempt(host="a", rank=1), faults=(fault("b", 1, SEPARATE, Level.DRAIN),), spares=("s",))
    )
    assert (found.host, found.rank, found.device, found.code) == ("b", None, 1, SEPARATE)
    assert found.faults[0].code == SEPARATE
    assert decided("it is waited for").out == ("b",)


def test_a_run_of_which_nothing_is_known_is_given_up() -> None:
    assert decide(of()).choice is GIVE_UP
    assert decide(of(attempt(hosts=()), wanted=(), hosts={})).choice is GIVE_UP
