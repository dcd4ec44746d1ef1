"""What hosts find becomes one case: by our clock, with what the record last knew of hosts that are away."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.control.cause_history import History, history_of
from orchestrator.control.diagnose import Diagnosis, diagnose, with_health
from orchestrator.control.gather_evidence import Gathered, addresses_of, gather
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.run_record import AttemptRecord, HostView, RunRecord, read_record, write_record
from orchestrator.control.run_record import Cause as RecordedCause
from orchestrator.control.runs import make_control_dir
from orchestrator.core.ends import SCHEDULER, End, EndKind, StopKind, StopReason
from orchestrator.core.found_evidence import ChipHealth, FileSystem, FoundLine
from orchestrator.core.host_answers import RankStacks, Size
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import StallKind
from orchestrator.core.states import RankState, RunState
from orchestrator.diagnosis.evidence import Case, Cause, Certainty, Culprit, LogLine, Proof
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.fleet import Fleet
from tests.control.evident import FakeAgent, FakeFleet, found_of, plan_of, record_of, view_of
from tests.control.judged import START, rank, scheduler, status
from tests.control.recorded import Clock


def gathered(record: RunRecord, agents: dict[str, FakeAgent | None], **plan: Any) -> Gathered:
    return gather(record, plan_of(**plan), cast(Fleet, FakeFleet(agents)), now=lambda: START)


def two_hosts(**of_b: Any) -> dict[str, FakeAgent | None]:
    """Rank 2 on b has failed; a has ended for it."""
    first = status("a", rank(0, "stopped", time=START), rank(1, "stopped", time=START), phase="over")
    failed = rank(2, "failed", exit_code=1, time=START + 3, step=7)
    second = status("b", failed, rank(3, "stopped", time=START + 3), phase="over")
    lines = [FoundLine("ValueError: x", "worker", START + 2)]
    return {
        "a": FakeAgent("a", first, found_of()),
        "b": FakeAgent("b", second, found_of({"rank_2": lines}), **{"ahead": 3.0, **of_b}),
    }


def views() -> dict[str, HostView]:
    return {"a": view_of("a", rank(0), rank(1)), "b": view_of("b", rank(2), rank(3))}


def test_times_are_ours_whatever_a_hosts_clock_shows() -> None:
    case = gathered(record_of(views()), two_hosts()).case
    found = {each.rank: each for each in case.ranks}
    assert [each.time for each in case.ranks] == [START] * 4 and found[2].error == 0.0
    assert found[2].lines == (LogLine("worker", "ValueError: x", START - 1),)
    assert (found[2].host, found[2].device, found[2].state, found[2].step) == ("b", 0, RankState.FAILED, 7)
    assert case.world_size == 4 and not case.stopped_by_hand
    assert all(host.reachable and not host.unread for host in case.hosts.values())


def test_hosts_are_asked_for_their_own_ranks_and_devices() -> None:
    agents = two_hosts()
    gathered(record_of(views()), agents, ascend=True)
    asked = cast(FakeAgent, agents["b"]).asked
    assert asked["labels"] == ["rank_2", "rank_3"] and asked["devices"] == [0, 1]
    gathered(record_of(views()), agents)
    assert cast(FakeAgent, agents["b"]).asked["devices"] == []


def test_of_a_host_that_is_away_stands_what_was_last_known() -> None:
    end = End(EndKind.EXITED, START - 5, exit_code=1, tail=("last",), evidence=("EI0006: x", "last"))
    known = view_of(
        "b",
        dataclasses.replace(rank(2), state=RankState.FAILED, end=end),
        rank(3),
        error="no route",
        lost=True,
    )
    result = gathered(record_of({**views(), "b": known}), {**two_hosts(), "b": None})
    host, ranks = result.case.hosts["b"], {each.rank: each for each in result.case.ranks}
    assert not host.reachable and host.lost and "no route to host" in host.unread[0]
    assert "last contact" in host.unread[0] and set(result.errors) == {"b"}
    assert [line.text for line in ranks[2].lines] == ["EI0006: x", "last"]
    assert ranks[2].error == math.inf and ranks[2].state is RankState.FAILED
    assert ranks[3].state is RankState.LOST


def test_a_host_without_the_run_is_not_asked_twice() -> None:
    agents = {**two_hosts(), "b": FakeAgent("b", None, None)}
    case = gathered(record_of(views()), agents).case
    assert not case.hosts["b"].reachable and "no run r1" in case.hosts["b"].unread[0]


def test_what_a_host_has_found_of_itself() -> None:
    found = found_of(
        kernel=(FoundLine("Out of memory: Killed process 9 (python)", time=START + 1),),
        kills_in_groups=Size(1),
        kills_on_host=Size(4),
        memory_limit=Size(1 << 30),
        disks=(FileSystem("workdir", "/w", Size(0), Size(100), Size(7)),),
        chips=(
            ChipHealth(
                Size(0),
                ("Health Status : Alarm", "Error Code : 80C98001", "Error Information : node type=AIC"),
            ),
            ChipHealth(Size(1), failure="timeout"),
        ),
        unread=("the kernel's stored lines: x",),
    )
    found = dataclasses.replace(found, launched_boot_id="before")
    agents = two_hosts()
    agents["a"] = FakeAgent("a", status("a", rank(0), rank(1)), found, ahead=-2.0)
    host = gathered(record_of(views()), agents, ascend=True).case.hosts["a"]
    assert host.rebooted and host.supervisor_gone
    assert [(line.text[:13], line.time) for line in host.kernel] == [("Out of memory", START + 3)]
    assert (host.oom_kills, host.memory_limit) == (1, 1 << 30)
    assert [(disk.path, disk.free, disk.total, disk.free_inodes) for disk in host.disks] == [
        ("/w", 0, 100, 7)
    ]
    (device,) = host.devices
    assert (device.device, device.status, device.codes) == (0, "Alarm", ("80C98001",))
    assert host.unread[0] == "the kernel's stored lines: x" and "device 1" in host.unread[1]


def test_kills_that_no_line_tells_of_are_a_line_of_their_own() -> None:
    agents = two_hosts()
    agents["a"] = FakeAgent(
        "a", status("a", rank(0), rank(1)), found_of(kills_in_groups=Size(0), kills_on_host=Size(2))
    )
    host = gathered(record_of(views()), agents).case.hosts["a"]
    assert host.oom_kills == 0 and "grown by 2" in host.kernel[0].text
    agents["a"] = FakeAgent("a", status("a", rank(0)), found_of(kills_on_host=Size(2)))
    host = gathered(record_of(views()), agents).case.hosts["a"]
    assert host.oom_kills is None and "anywhere on the host" in host.kernel[0].text


def test_a_run_that_hangs_has_times_of_what_was_last_heard() -> None:
    said = status(
        "a",
        rank(0, progress={"step": 5, "time": START - 100}),
        rank(1, stalled_since=START - 200),
        scheduler=scheduler(),
    )
    agents = {"a": FakeAgent("a", said, found_of(supervisor_lives=True)), "b": two_hosts()["b"]}
    case = gathered(record_of(views(), RunState.RUNNING), agents).case
    times = {each.rank: each.time for each in case.ranks}
    assert times[0] == START - 100 and times[1] == START - 200 and SCHEDULER in times
    assert not case.hosts["a"].supervisor_gone
    assert next(each for each in case.ranks if each.rank == SCHEDULER).device is None


def test_a_supervisor_that_vanished_is_gone() -> None:
    stop = StopReason(StopKind.SUPERVISOR_GONE)
    agents = two_hosts()
    agents["a"] = FakeAgent("a", status("a", rank(0, "lost"), phase="over", stop=stop), found_of())
    assert gathered(record_of(views()), agents).case.hosts["a"].supervisor_gone


def test_a_stop_by_hand_is_known_as_such() -> None:
    agents = two_hosts()
    stop = StopReason.requested("enough")
    agents["a"] = FakeAgent("a", status("a", rank(0, "stopped"), phase="over", stop=stop), found_of())
    assert gathered(record_of(views(), RunState.STOPPED), agents).case.stopped_by_hand


def test_addresses_lead_to_hosts_and_devices() -> None:
    table = {
        "server_list": [
            {
                "server_id": "51.38.67.1",
                "device": [{"device_id": "0", "device_ip": "172.16.0.1", "rank_id": "0"}],
            },
            {
                "server_id": "51.38.67.2",
                "device": [{"device_id": "1", "device_ip": "172.16.0.2", "rank_id": "3"}],
            },
        ]
    }
    found = addresses_of(plan_of(table=json.dumps(table)))
    assert found["10.0.0.1"] == found["a"] == ("a", None) and found["51.38.67.2"] == ("b", None)
    assert found["192.168.1.2"] == ("b", 1) and found["172.16.0.1"] == ("a", 0)
    assert addresses_of(plan_of(table="[1]"))["b"] == ("b", None)


def test_an_address_that_several_have_is_nobodys() -> None:
    plan = plan_of()
    hosts = tuple(replace(host, address="127.0.0.1") for host in plan.hosts)
    assert "127.0.0.1" not in addresses_of(dataclasses.replace(plan, hosts=hosts, manifests={}))


# The history, and all of it together.


def recorded_run(
    root: Path, number: int, host: str = "b", *, sure: bool = True, local: int = 0
) -> ControlDir:
    """A run that has failed by a rank of this host."""
    plan = dataclasses.replace(plan_of(), run_id=f"old-{number}", created=START + number)
    control = make_control_dir(plan, root)
    first = 2 * (host == "b")
    cause = RecordedCause(host, first + local, End(EndKind.EXITED, START, exit_code=1), START, sure=sure)
    write_record(control, dataclasses.replace(record_of(views()), run_id=plan.run_id, cause=cause))
    return control


def test_how_often_it_was_the_cause_before(tmp_path: Path) -> None:
    recorded_run(tmp_path, 0, "a")
    recorded_run(tmp_path, 1, "b", local=1)
    recorded_run(tmp_path, 2, "b", sure=False)
    last = recorded_run(tmp_path, 3, "b")
    recorded_run(tmp_path, 4, "b").record.write_text("{")
    found = history_of(Culprit("b", 2, 0), without="this", root=tmp_path)
    assert (found.attempts, set(found.of_host), found.of_device) == (4, {"old-1", "old-3"}, ("old-3",))
    assert history_of(Culprit("b"), without=last.run_id, root=tmp_path).of_host == ("old-1",)
    assert history_of(None, without="this", root=tmp_path) == History()


def test_the_history_takes_a_bounded_time(tmp_path: Path) -> None:
    for number in range(3):
        recorded_run(tmp_path, number)
    clock = Clock()

    def passes() -> float:
        clock.now += 1.0
        return clock.now

    found = history_of(Culprit("b"), without="", root=tmp_path, seconds=1.5, clock=passes)
    assert found.attempts == 1


@pytest.mark.parametrize(
    ("state", "is_judged"),
    [
        (RunState.FAILED, True),
        (RunState.RUNNING, True),
        (RunState.SUCCEEDED, False),
        (RunState.PREPARING, False),
    ],
    ids=str,
)
def test_what_is_judged(tmp_path: Path, state: RunState, is_judged: bool) -> None:
    control = make_control_dir(plan_of(), tmp_path)
    seen: list[Case] = []

    def judge(case: Case) -> Cause:
        seen.append(case)
        return Cause("python_error", Certainty.SURE, Culprit("b", 2, 0))

    fleet = cast(Fleet, FakeFleet(two_hosts()))
    found = diagnose(control, plan_of(), fleet, judge, record=record_of(views(), state))
    assert bool(seen) == is_judged == (found.cause is not None)
    assert found.is_well == (state is RunState.PREPARING)


def test_a_run_of_which_nothing_is_known_to_be_wrong_is_well(tmp_path: Path) -> None:
    control = make_control_dir(plan_of(), tmp_path)
    fleet = cast(Fleet, FakeFleet(two_hosts()))
    found = diagnose(
        control,
        plan_of(),
        fleet,
        lambda case: Cause("unknown", Certainty.UNKNOWN),
        record=record_of(views(), RunState.RUNNING),
    )
    assert found.is_well


def test_a_clock_that_was_set_since_is_not_that_of_the_failure() -> None:
    """What happened is dated by the offset of then; a more exact measurement of the same clock is taken."""
    known = {**views(), "b": view_of("b", rank(2), rank(3), clock=ClockOffset(3.0, 0.2, START))}
    agents = two_hosts(ahead=-600.0)
    case = gathered(record_of(known), agents).case
    assert next(each for each in case.ranks if each.rank == 2).time == START
    assert "was set since, by -603.0 s" in case.hosts["b"].unread[0]
    rough = {**views(), "b": view_of("b", rank(2), rank(3), clock=ClockOffset(3.4, 0.5, START))}
    case = gathered(record_of(rough), two_hosts()).case
    assert next(each for each in case.ranks if each.rank == 2).error == 0.0 and not case.hosts["b"].unread


def test_a_run_that_stalls_is_not_well_though_nobody_is_blamed(tmp_path: Path) -> None:
    control = make_control_dir(plan_of(), tmp_path)
    stalled = {**views(), "a": view_of("a", rank(0, stalled=StallKind.NO_STEP), rank(1))}
    found = diagnose(
        control,
        plan_of(),
        cast(Fleet, FakeFleet(two_hosts())),
        lambda case: Cause("unknown", Certainty.UNKNOWN, suspects=(Culprit("a"),)),
        record=record_of(stalled, RunState.RUNNING),
    )
    assert not found.is_well


def finding(kind: FindingKind, *ranks: int, **fields: Any) -> Finding:
    return Finding(kind, START, ranks, **fields)


UNKNOWN = Cause("unknown", Certainty.UNKNOWN)
BEHIND = Cause(
    "rank_stuck", Certainty.LIKELY, Culprit("a", 1, 1), (Proof("a", 1, "steps", "step 4, others 5"),)
)
TOLD = Cause("rank_stuck", Certainty.LIKELY, Culprit("a", 1, 1), (Proof("b", 2, "worker", "EI0002: x"),))


@pytest.mark.parametrize(
    ("health", "judged", "kind", "certainty", "who"),
    [
        (
            (finding(FindingKind.BLOCKED, 2), finding(FindingKind.HANG, 0)),
            UNKNOWN,
            "blocked_in_kernel",
            "likely",
            2,
        ),
        ((finding(FindingKind.HANG, 3, detail="a.py:7"),), BEHIND, "rank_stuck", "likely", 3),
        ((finding(FindingKind.HANG),), UNKNOWN, "hang", "unknown", None),
        ((finding(FindingKind.HANG, 3),), TOLD, "rank_stuck", "likely", 1),
        ((finding(FindingKind.STOPPED, 3),), BEHIND, "process_stopped", "likely", 3),
        ((finding(FindingKind.SILENT, 3),), UNKNOWN, "rank_stuck", "likely", 3),
        ((finding(FindingKind.SILENT, host="b"),), UNKNOWN, "supervisor_silent", "likely", None),
        ((finding(FindingKind.STRAGGLER, 3),), BEHIND, "rank_stuck", "likely", 1),
        (
            (finding(FindingKind.HANG, 3),),
            Cause("disk_full", Certainty.SURE, Culprit("b")),
            "disk_full",
            "sure",
            None,
        ),
        ((finding(FindingKind.HANG, 3),), Cause("stopped", Certainty.SURE), "rank_stuck", "likely", 3),
    ],
    ids=[
        "blocked",
        "odd-one",
        "nobody",
        "logs-first",
        "stopped",
        "silent",
        "supervisor",
        "straggler",
        "sure",
        "stopped-by-hand",
    ],
)
def test_what_the_monitor_has_seen_counts_where_logs_do_not_say_it(
    health: tuple[Finding, ...], judged: Cause, kind: str, certainty: str, who: int | None
) -> None:
    found = with_health(judged, record_of(views(), RunState.RUNNING, health=health))
    assert (found.kind, str(found.certainty)) == (kind, certainty)
    assert (found.culprit.rank if found.culprit is not None else None) == who
    if judged is UNKNOWN:
        assert found.proofs[0].source == "monitor"


def test_whom_the_monitor_names_is_no_victim_of_itself() -> None:
    stopped = Cause("stopped", Certainty.SURE, victims=(0, 1, 2, 3))
    found = with_health(stopped, record_of(views(), RunState.STOPPED, health=(finding(FindingKind.HANG, 3),)))
    assert found.culprit is not None and found.culprit.rank == 3
    assert found.victims == (0, 1, 2)


def test_a_rank_that_is_a_step_behind_says_nothing_of_a_run_that_goes_on() -> None:
    record = record_of(views(), RunState.RUNNING)
    assert Diagnosis(record, BEHIND).is_well and not Diagnosis(record, TOLD).is_well
    hangs = dataclasses.replace(record, health=(finding(FindingKind.HANG),))
    assert not Diagnosis(hangs, BEHIND).is_well


def test_attempts_before_count_also_those_of_this_run(tmp_path: Path) -> None:
    control = recorded_run(tmp_path, 1)
    record = read_record(control)
    first = AttemptRecord(1, "", RunState.FAILED, START, START, cause=record.cause)
    write_record(control, dataclasses.replace(record, attempts=(first, AttemptRecord(2))))
    found = history_of(Culprit("b", 2, 0), without="old-1", root=tmp_path)
    assert (found.attempts, found.of_host, found.of_device) == (1, ("old-1",), ("old-1",))


def test_stacks_are_asked_for_where_a_run_goes_on_and_nobody_is_sure(tmp_path: Path) -> None:
    def stack(function: str) -> RankStacks:
        return RankStacks(
            "faulthandler", f'Thread 0x1 (most recent call first):\n  File "a.py", line 7 in {function}'
        )

    control = make_control_dir(plan_of(), tmp_path)
    first = FakeAgent(
        "a", status("a", rank(0), rank(1)), found_of(), stacks={"0": stack("f"), "1": stack("g")}
    )
    fleet = cast(Fleet, FakeFleet({"a": first, "b": two_hosts()["b"]}))

    def asked(state: RunState, cause: Cause) -> list[tuple[int, ...]]:
        record = record_of(views(), state)
        found = diagnose(control, plan_of(), fleet, lambda case: cause, record=record)
        return [group.ranks for group in found.stacks_now]

    assert asked(RunState.RUNNING, UNKNOWN) == [(0,), (1,)]
    assert (
        asked(RunState.FAILED, UNKNOWN) == asked(RunState.RUNNING, Cause("disk_full", Certainty.SURE)) == []
    )
