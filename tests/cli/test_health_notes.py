"""How well a run goes, in every view: phases, hangs with suspects, who is slow, no stale number."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from typing import Any

import pytest

from orchestrator.cli.health_notes import health_notes, phase_note
from orchestrator.cli.live_view import PlainReport, live_view, progress_of
from orchestrator.cli.render_run import record_json, runs_table, status_view
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.records import Phase, StallKind
from orchestrator.core.states import RunState
from orchestrator.hosts.clock_offset import ClockOffset
from tests.cli.test_live_view import drawn, record

NOW = 100_000.0
PROGRESS = {
    "step": 11,
    "total_steps": 31,
    "time": NOW - 5,
    "first": {"step": 1, "time": NOW - 25},
    "loss": 0.5,
}


def clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def made(hosts: int = 2, *, phases: str = "", since: float = NOW - 70, **fields: Any) -> RunRecord:
    """A run that a monitor watches, whose ranks are in these phases, a letter each."""
    run = record(hosts, tokens_per_s=900.0, **{**PROGRESS, **fields.pop("progress", {})})
    names = {"s": Phase.STEP, "c": Phase.COMPILE, "v": Phase.SAVE, "e": Phase.EVALUATE, "i": Phase.IMPORT}
    left, views = iter(phases), {}
    for name, view in run.hosts.items():
        assert view.status is not None
        ranks = tuple(
            dataclasses.replace(rank, phase=names.get(next(left, "")), phase_since=since)
            for rank in view.status.ranks
        )
        views[name] = dataclasses.replace(view, status=dataclasses.replace(view.status, ranks=ranks))
    return dataclasses.replace(
        run, hosts=views, **{"updated": NOW, "watched": time.time(), "step_interval": 2.0, **fields}
    )


HANG = Finding(
    FindingKind.HANG, NOW - 250, (3,), "npu002", 1, "load_batch (data.py:41)", Phase.STEP, seconds=60.0
)


def said(run: RunRecord) -> list[str]:
    """What `attach` and `launch` print where there is no terminal."""
    out = io.StringIO()
    PlainReport(out, clock=lambda: 0.0).show(run)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("phases", "note"),
    [
        pytest.param("ssss", "", id="steps"),
        pytest.param("", "", id="none"),
        pytest.param("cccc", "compiling for 1m 10s", id="compile"),
        pytest.param("vvvv", "saving a checkpoint for 1m 10s", id="save"),
        pytest.param("eeee", "evaluating for 1m 10s", id="evaluate"),
        pytest.param("iiii", "importing modules for 1m 10s", id="import"),
        pytest.param("vsss", "1 of 4 ranks: saving a checkpoint for 1m 10s", id="one"),
        pytest.param("vvec", "2 of 4 ranks: saving a checkpoint for 1m 10s", id="most"),
    ],
)
def test_the_phase_of_the_run_is_said(phases: str, note: str) -> None:
    run = made(phases=phases)
    assert phase_note(run) == note
    for view in (live_view(run, now=NOW), status_view(run)):
        assert not note or note in drawn(view).splitlines()
    assert not note or note.partition(" for ")[0] in said(run)
    does = record_json(run)["summary"]["doing"]
    assert (does is None) is (not note) and (does is None or does["since"] == NOW - 70)


def test_the_phase_is_since_our_time() -> None:
    run = made(phases="cccc", since=NOW + 90)
    ahead = ClockOffset(100.0, 0.1, 0.0)
    hosts = {name: dataclasses.replace(view, clock=ahead) for name, view in run.hosts.items()}
    assert phase_note(dataclasses.replace(run, hosts=hosts)) == "compiling for 10s"


def test_before_the_first_step_the_phase_is_what_is_waited_for() -> None:
    run = made(phases="cccc")
    views = {}
    for name, view in run.hosts.items():
        assert view.status is not None
        ranks = tuple(dataclasses.replace(rank, progress={}) for rank in view.status.ranks)
        views[name] = dataclasses.replace(view, status=dataclasses.replace(view.status, ranks=ranks))
    text = drawn(live_view(dataclasses.replace(run, hosts=views), now=NOW))
    assert "compiling for 1m 10s" in text and "waiting for the first step" in text


def test_a_hang_is_shown_with_its_suspect_and_what_to_do() -> None:
    run = made(health=(HANG,), progress={"time": NOW - 250})
    for view in (live_view(run, now=NOW), status_view(run)):
        lines = drawn(view).splitlines()
        begins = lines.index(f"it hangs: no rank has made a new step since {clock(NOW - 250)} (for 4m 10s)")
        assert lines[begins + 1] == "  suspect: rank 3 on npu002 (device 1), in load_batch (data.py:41)"
        assert lines[begins + 2] == "  look: orchestrate diagnose run"
        assert "step 11/31  loss 0.5000  no new step seen for 4m 10s" in drawn(view)
        assert "tokens/s" not in drawn(view) and " left" not in drawn(view)
    data = json.loads(json.dumps(record_json(run)))
    assert data["health"][0]["kind"] == "hang" and data["health"][0]["ranks"] == [3]
    summary = data["summary"]
    assert (summary["tokens_per_s"], summary["seconds_left"], summary["seconds_without_step"]) == (
        None,
        None,
        250.0,
    )
    assert any("suspect: rank 3" in line for line in summary["not_well"])


def test_no_rate_is_shown_of_a_run_that_hangs_however_short() -> None:
    """Before anybody knows how far apart its steps are."""
    progress = progress_of(made(health=(HANG,), progress={"time": NOW - 12}))
    assert progress is not None and progress.idle == 12
    assert progress.tokens_per_s is None and progress.remaining is None


def test_a_hang_of_which_less_is_known_says_so() -> None:
    alike = dataclasses.replace(
        HANG, ranks=(), host="", device=None, detail="all_reduce (c.py:1)", blind=("npu001",), phases=False
    )
    notes = health_notes(made(health=(alike,)))
    assert notes[1:4] == [
        "  all ranks are in all_reduce (c.py:1)",
        "  nothing is known of npu001",
        "  (its workers tell no phases: a save or an evaluation looks the same)",
    ]
    saves = dataclasses.replace(HANG, phase=Phase.SAVE)
    assert health_notes(made(health=(saves,)))[0].endswith("(for 4m 10s), while saving a checkpoint")


def test_the_plain_report_says_a_hang_once_and_that_it_went_on() -> None:
    out = io.StringIO()
    report = PlainReport(out, clock=lambda: 0.0)
    hung = made(health=(HANG,))
    ended = dataclasses.replace(HANG, ended=NOW - 20)
    for run in (made(), hung, dataclasses.replace(hung, updated=NOW + 5), made(recovered=(ended,)), made()):
        report.show(run)
    lines = out.getvalue().splitlines()
    assert [line for line in lines if "hangs" in line] == [
        f"it hangs: no rank has made a new step since {clock(NOW - 250)}"
    ]
    assert lines.count("  look: orchestrate diagnose run") == 1
    assert f"went on at {clock(NOW - 20)} after 3m 50s without a step" in lines


def test_that_a_hang_has_ended_is_said_for_a_while() -> None:
    ended = dataclasses.replace(HANG, ended=NOW - 200)
    assert health_notes(made(recovered=(ended,)))
    assert health_notes(made(recovered=(dataclasses.replace(ended, ended=NOW - 400),))) == []


def test_who_is_slow_or_silent_is_named_with_host_and_device() -> None:
    slow = Finding(FindingKind.STRAGGLER, NOW - 60, (2,), "npu002", 0, factor=1.62)
    silent = Finding(FindingKind.SILENT, NOW - 90, (0, 1), "npu001")
    assert health_notes(made(health=(slow, silent))) == [
        f"rank 0-1 on npu001: no new step since {clock(NOW - 90)}, while others make steps",
        f"rank 2 on npu002 (device 0): computes 1.6x as long as its peers since {clock(NOW - 60)}",
    ]


def test_a_screen_of_24_lines_holds_all_of_it() -> None:
    slow = [Finding(FindingKind.STRAGGLER, NOW, (n,), f"npu{n:03d}", 1, factor=2.0) for n in range(30)]
    silent = [Finding(FindingKind.SILENT, NOW, (40 + n,), f"npu{n:03d}") for n in range(30)]
    hang = dataclasses.replace(
        HANG, ranks=tuple(range(0, 200, 2)), host="", device=None, blind=("npu009",), phases=False
    )
    run = made(64, health=(hang, *slow, *silent), phases="v" * 128)
    for view in (live_view(run, now=NOW), status_view(run)):
        lines = drawn(view).splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80


def test_that_its_supervisor_saw_no_step_is_for_the_monitor_to_judge() -> None:
    """In a long save, or where a line comes in a hundred steps, it is no news."""
    run = made(phases="ssss")
    view = run.hosts["npu002"]
    assert view.status is not None
    idle = dataclasses.replace(view.status.ranks[0], stalled=StallKind.NO_STEP, stalled_since=NOW - 90)
    status = dataclasses.replace(view.status, ranks=(idle, view.status.ranks[1]))
    run = dataclasses.replace(run, hosts={**run.hosts, "npu002": dataclasses.replace(view, status=status)})
    assert "no new step" not in drawn(status_view(run))
    unwatched = dataclasses.replace(run, unwatched=NOW - 10)
    assert "rank 2 on npu002: no new step since" in drawn(status_view(unwatched))


@pytest.mark.parametrize(
    ("age", "interval", "is_stale"),
    [
        pytest.param(5.0, 2.0, False, id="fresh"),
        pytest.param(11.0, 2.0, True, id="overdue"),
        pytest.param(150.0, 100.0, False, id="a line in a hundred steps"),
        pytest.param(310.0, 100.0, True, id="a line in a hundred steps, overdue"),
        pytest.param(50.0, None, False, id="pace not known"),
        pytest.param(70.0, None, True, id="pace not known, overdue"),
    ],
)
def test_a_rate_and_the_time_left_are_shown_while_steps_come_as_expected(
    age: float, interval: float | None, is_stale: bool
) -> None:
    progress = progress_of(made(progress={"time": NOW - age}, step_interval=interval))
    assert progress is not None
    assert (progress.idle is not None) is is_stale
    assert (progress.tokens_per_s is None) is is_stale and (progress.remaining is None) is is_stale


def test_a_run_that_has_ended_is_not_said_to_hang() -> None:
    run = made(health=(HANG,), phases="vvvv")
    over = dataclasses.replace(run, state=RunState.FAILED, ended=NOW)
    assert health_notes(over) == [] and phase_note(over) == ""
    assert record_json(over)["health"]  # it is in the data


def test_findings_are_kept_and_records_of_before_have_none() -> None:
    run = made(health=(HANG,), recovered=(dataclasses.replace(HANG, ended=NOW),))
    again = from_json(RunRecord, to_json(run))
    assert (again.health, again.recovered, again.step_interval) == (run.health, run.recovered, 2.0)
    earlier = {
        key: value
        for key, value in to_json(run).items()
        if key not in ("health", "recovered", "step_interval")
    }
    assert from_json(RunRecord, earlier).health == ()


def test_the_list_of_runs_says_who_hangs() -> None:
    run = dataclasses.replace(made(health=(HANG,)), run_id="demo-1")
    lines = drawn(runs_table([run], 80)).splitlines()
    assert time.strftime("hangs since %m-%d %H:%M", time.localtime(HANG.since)) in lines[1]
    over = dataclasses.replace(run, state=RunState.FAILED, ended=NOW)
    assert "hangs" not in drawn(runs_table([over], 80))
