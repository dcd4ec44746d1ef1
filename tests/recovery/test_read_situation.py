"""What a situation is made of: records of attempts and their ends, what devices tell, decisions of before."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run_terms import Restart
from orchestrator.control.attempts import came_to_nothing, next_record
from orchestrator.control.decisions import Choice, Decision, DeviceFault, Ground, Level, Outcome
from orchestrator.control.next_attempt import put_next_in_force
from orchestrator.control.run_record import Cause, Refused, RunRecord, read_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.codec import dumps, loads
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.records import Attempt, StallKind
from orchestrator.core.states import RankState, RunState
from orchestrator.diagnosis import evidence
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.recovery.decide import decide
from orchestrator.recovery.read_situation import Now, host_states, situation_of
from orchestrator.recovery.situation import HostState, PastAttempt
from tests.control.judged import rank, view
from tests.recovery.ended import fault
from tests.simulation.simulated import plan_of

HOSTS = ("h0", "h1", "h2")
END = 1000.0


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    made = plan_of(tmp_path, hosts=3)
    hosts = tuple(replace(host, name=name) for host, name in zip(made.hosts, HOSTS, strict=True))
    return dataclasses.replace(made, hosts=hosts, restart=Restart(max=5), task="pretrain")


def failed(cause: Cause | None, step: int = 40, **fields: Any) -> RunRecord:
    """The record of a run of two ranks a host that failed at this step."""
    views = {
        name: view(name, *(rank(2 * at + own, progress={"step": step}) for own in (0, 1)), phase="over")
        for at, name in enumerate(HOSTS)
    }
    given = {"hosts": views, "cause": cause, "ended": END, "exit_code": 1, "state": RunState.FAILED}
    return RunRecord("r1", "job", "pretrain", 6, 1.0, **{**given, **fields})


def crash(host: str = "h1", rank: int | None = 3, **fields: Any) -> Cause:
    given = {"kind": EndKind.SIGNALLED, "signal": signal.SIGSEGV.value, "step": 41}
    sure = fields.pop("sure", True)
    return Cause(host, rank, End(**{**given, **fields}), END - 1, sure=sure)


def exited(code: int, *lines: str) -> Cause:
    return crash(kind=EndKind.EXITED, signal=None, exit_code=code, tail=lines)


def now(record: RunRecord, **fields: Any) -> Now:
    return Now(**{"time": END + 1, "hosts": host_states(record), **fields})


def last_of(plan: LaunchPlan, record: RunRecord, **fields: Any) -> PastAttempt:
    return situation_of(record, plan, now(record, **fields)).last


def lost(record: RunRecord, name: str) -> RunRecord:
    gone = dataclasses.replace(record.hosts[name], error="timed out", lost=True)
    return dataclasses.replace(record, hosts={**record.hosts, name: gone})


TRACEBACK = ("Traceback (most recent call last):", "ValueError: no such file")
HELD = "EJ0001: Failed to initialize the HCCP process. Reason: Maybe the last training process is running."


@pytest.mark.parametrize(
    ("cause", "outcome", "kind", "key"),
    [
        (crash(), Outcome.CRASH, "crashed", "crashed"),
        (crash(signal=9), Outcome.CRASH, "killed", "killed"),
        (crash(signal=15), Outcome.CRASH, "terminated", "terminated"),
        (exited(3), Outcome.CRASH, "", "exit:3"),
        (exited(1, *TRACEBACK), Outcome.CRASH, "program_error", "program_error"),
        (exited(1, HELD), Outcome.DEVICE, "device_in_use", "device_in_use"),
        (
            crash(kind=EndKind.NOT_STARTED, signal=None, exit_code=127),
            Outcome.CRASH,
            "not_started",
            "not_started",
        ),
        (crash(sure=False), Outcome.CRASH, "", "signal:11"),
        (crash(kind=EndKind.HANG, signal=None, sure=False), Outcome.HANG, "hang", "hang"),
        (
            crash(kind=EndKind.LOST, signal=None, reason=StopReason(StopKind.SUPERVISOR_GONE)),
            Outcome.HOST,
            "supervisor_gone",
            "supervisor_gone@h1",
        ),
        (None, Outcome.CRASH, "", ""),
    ],
)
def test_how_an_end_counts(
    plan: LaunchPlan, cause: Cause | None, outcome: Outcome, kind: str, key: str
) -> None:
    found = last_of(plan, failed(cause))
    assert (found.outcome, found.kind, found.key) == (outcome, kind, key)
    if cause is not None:
        assert (found.host, found.rank, found.device, found.sure) == ("h1", 3, 1, cause.sure)


def test_a_lost_host_is_the_hosts_failure(plan: LaunchPlan) -> None:
    record = lost(failed(crash(kind=EndKind.LOST, signal=None, message="timed out")), "h1")
    found = situation_of(record, plan, now(record))
    assert (found.last.outcome, found.last.key) == (Outcome.HOST, "host_lost@h1")
    assert found.hosts["h1"] == HostState("h1", answers=False, is_gone=True)
    crashed = lost(failed(crash()), "h1")  # it was lost while the run was being ended
    assert last_of(plan, crashed).outcome is Outcome.CRASH


def test_states_that_are_no_failures(plan: LaunchPlan) -> None:
    assert last_of(plan, failed(None, state=RunState.SUCCEEDED)).outcome is Outcome.DONE
    assert last_of(plan, failed(None, state=RunState.STOPPED)).outcome is Outcome.STOPPED
    nothing = failed(
        None, hosts={name: dataclasses.replace(view(name), status=None) for name in HOSTS}, exit_code=4
    )
    found = last_of(plan, nothing)
    assert (found.outcome, found.exit_code, found.by_hand) == (Outcome.LAUNCH, 4, True)


def test_of_those_that_made_no_first_step_nobody_is_named(plan: LaunchPlan) -> None:
    late = End(EndKind.NO_FIRST_STEP, END, missing=(2, 3), expected=6, seconds=60.0)
    found = last_of(plan, failed(Cause("h1", 2, late, END)))
    assert (found.outcome, found.host, found.rank, found.sure) == (Outcome.HANG, "", None, False)
    one = dataclasses.replace(late, missing=(2,))
    found = last_of(plan, failed(Cause("h1", 2, one, END)))
    assert (found.outcome, found.host, found.rank, found.sure) == (Outcome.HANG, "h1", 2, False)


def test_a_host_whose_process_is_in_state_d_is_stuck() -> None:
    record = failed(crash())
    stuck = view("h1", rank(2, stalled=StallKind.BLOCKED, stuck=True), rank(3, "failed"), phase="stopping")
    record = dataclasses.replace(record, hosts={**record.hosts, "h1": stuck})
    assert host_states(record)["h1"].is_stuck and not host_states(record)["h0"].is_stuck


def test_the_evidence_of_all_hosts_knows_better(plan: LaunchPlan) -> None:
    culprit = evidence.Culprit("h2", 4, 0)
    memory = evidence.Cause("host_out_of_memory", evidence.Certainty.SURE, culprit)
    found = last_of(plan, failed(crash(sure=False)), verdict=memory)
    assert (found.host, found.rank, found.kind, found.sure) == ("h2", 4, "host_out_of_memory", True)
    likely = dataclasses.replace(memory, certainty=evidence.Certainty.LIKELY)
    found = last_of(plan, failed(crash(sure=False)), verdict=likely)
    assert (found.host, found.rank, found.kind, found.sure) == ("h2", 4, "", False)
    assert last_of(plan, failed(crash()), verdict=likely).host == "h1"
    nobody = dataclasses.replace(memory, culprit=None, certainty=evidence.Certainty.UNKNOWN)
    assert last_of(plan, failed(crash()), verdict=nobody).host == "h1"
    broken = evidence.Cause("disk_fault", evidence.Certainty.SURE, culprit)
    found = last_of(plan, failed(crash()), verdict=broken)
    assert (found.outcome, found.key) == (Outcome.HOST, "disk_fault@h2")


def test_evidence_is_judged_and_its_devices_are_heard(plan: LaunchPlan) -> None:
    """A rank was killed by its kernel for want of memory, and a device is in alarm."""
    killed = End(EndKind.SIGNALLED, END, signal=9)
    ranks = (
        evidence.RankEvidence(2, "h1", 0, RankState.RUNNING, pid=41),
        evidence.RankEvidence(3, "h1", 1, RankState.FAILED, killed, END, pid=42),
    )
    oom = "Out of memory: Killed process 42 (python) total-vm:1kB, anon-rss:1kB"
    alarm = evidence.DeviceHealth(0, "Alarm", ("80E18402",))
    host = evidence.HostEvidence("h1", kernel=(evidence.KernelLine(oom),), devices=(alarm,))
    record = failed(crash(signal=9))
    known = now(record).by_evidence(evidence.Case(ranks, {"h1": host}, 6))
    found = situation_of(record, plan, known)
    assert (found.last.kind, found.last.sure) == ("host_out_of_memory", True)
    assert [(each.host, each.device, each.level) for each in found.faults] == [("h1", 0, Level.DRAIN)]
    assert decide(found).ground is Ground.TOO_FEW_HOSTS


def test_a_crash_on_a_device_that_tells_of_a_fault_is_the_devices(plan: LaunchPlan) -> None:
    told = [fault("h1", 1, "80E01801", Level.AGAIN)]
    assert last_of(plan, failed(crash()), faults=told).outcome is Outcome.DEVICE
    assert last_of(plan, failed(exited(1, *TRACEBACK)), faults=told).outcome is Outcome.CRASH
    elsewhere = [fault("h1", 0, "80E01801", Level.AGAIN)]
    assert last_of(plan, failed(crash()), faults=elsewhere).outcome is Outcome.CRASH


# Several attempts.


def going_on(
    plan: LaunchPlan, record: RunRecord, decision: Decision | None, *, kept: int | None = None
) -> tuple[LaunchPlan, RunRecord]:
    """Plan and record of the attempt after this one, which has failed too."""
    last = dataclasses.replace(record.attempts[-1], decision=decision)
    record = dataclasses.replace(record, attempts=(*record.attempts[:-1], last))
    number = last.number
    origin = (number, kept) if kept is not None else plan.origin
    following = dataclasses.replace(plan, attempt=Attempt(number + 1, f"t{number + 1}"), origin=origin)
    begun = next_record(record, following, END + 5)
    views = {name: record.hosts[name] for name in HOSTS}
    over = dataclasses.replace(
        begun, state=RunState.FAILED, cause=crash(), ended=END + 100 * number, hosts=views, exit_code=1
    )
    return following, loads(RunRecord, dumps(over))


def chain(plan: LaunchPlan, *decisions: Decision | None) -> tuple[LaunchPlan, RunRecord]:
    record = failed(crash())
    for decision in decisions:
        plan, record = going_on(plan, record, decision)
    return plan, record


AGAIN = Decision(Choice.AGAIN, Ground.CRASH, END, hosts=HOSTS, host="h1", rank=3, device=1)


def test_attempts_of_before_are_remembered(plan: LaunchPlan) -> None:
    second, record = going_on(plan, failed(crash()), AGAIN, kept=30)
    found = situation_of(record, second, now(record, kept=None))
    first, last = found.attempts
    assert (first.number, first.outcome, first.kind, first.step) == (1, Outcome.CRASH, "crashed", 41)
    assert (first.origin, first.last_step, first.kept) == (0, 40, 30)
    assert (first.host, first.rank, first.device, first.hosts) == ("h1", 3, 1, HOSTS)
    assert (last.number, last.origin, last.kept, last.by_hand) == (2, 30, None, False)
    assert found.wanted == HOSTS and found.keeps and found.policy.max == 5
    third, record = going_on(second, record, AGAIN)
    found = situation_of(record, third, now(record, kept=44))
    assert [(each.origin, each.kept) for each in found.attempts] == [(0, 30), (30, None), (30, 44)]
    assert decide(found).ground is Ground.SAME_STEP


def test_what_a_person_started_counts_anew(plan: LaunchPlan) -> None:
    last, record = chain(plan, AGAIN, None)
    found = situation_of(record, last, now(record))
    assert [each.by_hand for each in found.attempts] == [True, False, True]
    assert decide(found).choice is Choice.AGAIN
    given_up = Decision(Choice.GIVE_UP, Ground.SAME_STEP, END)
    last, record = chain(plan, AGAIN, given_up)
    assert situation_of(record, last, now(record)).last.by_hand
    stopped = dataclasses.replace(failed(crash(), state=RunState.STOPPED))
    last, record = going_on(plan, stopped, AGAIN)  # somebody stopped it before that was carried out
    assert situation_of(record, last, now(record)).last.by_hand


def test_a_restart_that_came_to_nothing_is_an_attempt(plan: LaunchPlan) -> None:
    second, record = chain(plan, AGAIN)
    last = dataclasses.replace(record.attempts[-1], decision=AGAIN)
    refused = Refused(3, ("no way",), 3, record.ended or 0.0, count=2)
    record = dataclasses.replace(record, attempts=(record.attempts[0], last), refused=refused)
    found = situation_of(record, second, now(record))
    assert [each.outcome for each in found.attempts] == [Outcome.CRASH] * 2 + [Outcome.LAUNCH] * 2
    assert [each.number for each in found.attempts] == [1, 2, 3, 3] and found.last.exit_code == 3
    assert decide(found).ground is Ground.CANNOT_START
    by_hand = dataclasses.replace(
        record, attempts=(record.attempts[0], dataclasses.replace(last, decision=None))
    )
    assert situation_of(by_hand, second, now(record)).since_by_hand[0].outcome is Outcome.LAUNCH
    waits = dataclasses.replace(last, decision=Decision(Choice.WAIT, Ground.HOSTS_MISSING, END))
    waited = dataclasses.replace(record, attempts=(record.attempts[0], waits))
    found = situation_of(waited, second, now(record))
    assert [each.by_hand for each in found.attempts] == [True, False, False, False]
    assert found.last.hosts == HOSTS
    old = dataclasses.replace(record, refused=dataclasses.replace(refused, number=2))
    assert situation_of(old, second, now(record)).last.outcome is Outcome.CRASH


def test_launches_that_come_to_nothing_are_counted(plan: LaunchPlan, tmp_path: Path) -> None:
    control = make_control_dir(plan, tmp_path)
    record = dataclasses.replace(read_record(control), state=RunState.FAILED, ended=9.0, exit_code=1)
    for count in (1, 2, 3):
        following = dataclasses.replace(plan, attempt=Attempt(2, f"t{count}"))
        put_next_in_force(control, record, following, 10.0)
        record = came_to_nothing(control, read_record(control), ["no"], 3, 11.0)
        assert record.refused is not None and record.refused.count == count


def out(ground: Ground, *told: DeviceFault, time: float = END, **fields: Any) -> Decision:
    """A decision by which a spare came in the place of h1."""
    hosts = ("h0", "s", "h2")
    given: Mapping[str, Any] = {"hosts": hosts, "out": ("h1",), "out_for": {"h1": ground}, "faults": told}
    return Decision(Choice.REPLACE, ground, time, **{**given, **fields})


RELEASED = [fault("h1", 1, "81078603", Level.AGAIN, repeats=4, time=END)]


@pytest.mark.parametrize(
    ("decision", "later", "drained", "suspected"),
    [
        (out(Ground.HOST_GONE), 10.0, False, False),
        (out(Ground.HOST_STUCK), 10.0, False, False),
        (out(Ground.HOST_FAULT), 10.0, False, True),
        (out(Ground.HOST_FAULT), 86_401.0, False, False),
        (out(Ground.DEVICE_OUT), 10.0, False, True),
        (out(Ground.DEVICE_OUT, fault("h1", 1, "80E18402", Level.DRAIN)), 10**7, True, False),
        (out(Ground.DEVICE_OUT, fault("h1", 1, "80E01801", Level.AGAIN, repeats=1)), 10**7, True, False),
        (out(Ground.DEVICE_OUT, *RELEASED), 172_799.0, True, False),
        (out(Ground.DEVICE_OUT, *RELEASED), 172_800.0, False, False),
    ],
)
def test_how_long_a_host_is_out(
    plan: LaunchPlan, decision: Decision, later: float, drained: bool, suspected: bool
) -> None:
    last, record = chain(plan, decision)
    found = situation_of(record, last, now(record, time=END + later))
    assert ("h1" in found.drained, "h1" in found.suspects) == (drained, suspected)
    assert found.taken_out == {"h1": END}
    back = dataclasses.replace(AGAIN, time=END + 1)
    last, record = chain(plan, decision, back)  # it has come in again
    found = situation_of(record, last, now(record, time=END + later))
    assert (found.taken_out, found.drained, found.suspects) == ({}, (), ())


def test_a_suspect_comes_in_when_nobody_else_can(plan: LaunchPlan) -> None:
    last, record = chain(plan, out(Ground.HOST_FAULT))
    gone = {"h1": HostState("h1"), "h0": HostState("h0"), "h2": HostState("h2")}
    gone["s"] = HostState("s", answers=False, is_gone=True)
    views = {name: record.hosts["h0"] for name in ("h0", "s", "h2")}
    away = crash("s", None, kind=EndKind.LOST, signal=None, reason=StopReason(StopKind.SUPERVISOR_GONE))
    record = dataclasses.replace(record, hosts=views, cause=away)
    found = decide(situation_of(record, last, now(record, hosts=gone)))
    assert (found.choice, found.hosts) == (Choice.REPLACE, ("h0", "h1", "h2"))
    gone["t"] = HostState("t")
    spare = replace(last.hosts[0], name="t")
    found = decide(situation_of(record, dataclasses.replace(last, spares=(spare,)), now(record, hosts=gone)))
    assert (found.hosts, found.spares) == (("h0", "t", "h2"), ("t",))


def test_devices_that_are_out_and_what_they_told(plan: LaunchPlan) -> None:
    told = fault("h1", 1, "80E01801", Level.AGAIN, time=END)
    first = dataclasses.replace(AGAIN, faults=(told,), devices_out={"h0": (0,)})
    last, record = chain(plan, first)
    again = dataclasses.replace(told, time=END + 50)
    found = situation_of(record, last, now(record, faults=[again]))
    assert found.history == (told,) and found.faults[0].repeats == 1
    assert found.devices_out == {"h0": (0,)} and found.last.outcome is Outcome.DEVICE
    spare = replace(plan.hosts[0], name="s")
    given = situation_of(
        record,
        dataclasses.replace(last, spares=(spare,)),
        now(record, faults=[again], hosts={**host_states(record), "s": HostState("s")}),
    )
    decision = decide(given)
    assert (decision.ground, decision.hosts) == (Ground.DEVICE_OUT, ("h0", "s", "h2"))
    assert decision.devices_out == {"h0": (0,), "h1": (1,)}


def test_a_device_is_used_again_when_its_code_releases_it(plan: LaunchPlan) -> None:
    decision = dataclasses.replace(AGAIN, faults=tuple(RELEASED), devices_out={"h1": (1,)})
    last, record = chain(plan, decision)
    assert situation_of(record, last, now(record, time=END + 172_799)).devices_out == {"h1": (1,)}
    assert situation_of(record, last, now(record, time=END + 172_800)).devices_out == {}


def test_of_a_program_that_saves_as_it_likes_nothing_is_known(plan: LaunchPlan) -> None:
    command = dataclasses.replace(plan, task="command")
    record = failed(crash())
    assert not situation_of(record, command, now(record)).keeps
    assert situation_of(record, command, now(record, kept=5)).keeps
    assert situation_of(record, command, now(record, kept=0)).keeps
    # Of MindFormers' older versions phases are known, and no save.
    own = dataclasses.replace(plan, task="mindformers")
    assert not situation_of(record, own, now(record, kept=0)).keeps
    assert situation_of(record, own, now(record, kept=5)).keeps
