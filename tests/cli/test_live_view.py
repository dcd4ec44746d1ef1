"""The live view and the plain report, drawn from records made by hand."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from orchestrator.cli.live_view import PlainReport, duration, live_view, progress_of
from orchestrator.cli.render_run import status_view
from orchestrator.control.run_record import Cause, HostView, RunRecord
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import End, EndKind
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.clock_offset import ClockOffset


def record(hosts: int, states: str = "running running", **progress: float) -> RunRecord:
    views = {}
    for host in range(1, hosts + 1):
        ranks = tuple(
            RankStatus(rank, index, index, RankState(state), progress=progress)
            for index, state in enumerate(states.split())
            for rank in [(host - 1) * 2 + index]
        )
        name = f"npu{host:03d}"
        views[name] = HostView(HostStatus("run", "job", name, 0.0, ranks))
    return RunRecord("run", "job", "finetune", hosts * 2, 0.0, RunState.RUNNING, "running", hosts=views)


def drawn(what: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_every_rank_has_a_cell_that_tells_without_colour() -> None:
    text = drawn(live_view(record(2, "running failed"), now=65.0))
    assert "run  running  4 ranks  1m 05s" in text
    assert "npu001 0● 1✗" in text and "npu002 2● 3✗" in text


def test_many_hosts_that_are_alike_share_a_row() -> None:
    text = drawn(live_view(record(64), now=0.0))
    assert "npu[001-064] ● 128 ranks running" in text
    assert len(text.splitlines()) < 6


def test_progress_is_that_of_the_slowest_rank_at_the_pace_since_the_first_report() -> None:
    made = record(1, step=11, total_steps=31, time=30.0, first={"step": 1, "time": 10.0}, loss=0.5)  # type: ignore[arg-type]
    progress = progress_of(made)
    assert progress is not None and progress.remaining == 40.0
    assert "step 11/31  loss 0.5000  40s left" in drawn(live_view(made, now=0.0))


def test_a_rank_that_makes_no_steps_any_more_has_no_speed_and_no_time_left() -> None:
    """Frozen, say; its host's clock is 100 s ahead of ours."""
    said = {"step": 11, "total_steps": 31, "time": 130.0, "first": {"step": 1, "time": 110.0}, "loss": 0.5}
    made = record(1, tokens_per_s=900.0, **said)  # type: ignore[arg-type]
    ahead = dataclasses.replace(made.hosts["npu001"], clock=ClockOffset(100.0, 0.1, 0.0))
    made = dataclasses.replace(made, hosts={"npu001": ahead})
    fresh = dataclasses.replace(made, updated=85.0)
    assert "900 tokens/s  40s left" in drawn(live_view(fresh, now=0.0))
    stale = drawn(live_view(dataclasses.replace(made, updated=330.0), now=0.0))
    assert "step 11/31  loss 0.5000  no new step seen for 5m 00s" in stale
    assert "left" not in stale and "tokens/s" not in stale


def test_that_nobody_watches_is_the_second_line() -> None:
    unwatched = dataclasses.replace(record(2), unwatched=1000.0)
    assert "nobody has watched this run since" in drawn(live_view(unwatched, now=0.0), 120).splitlines()[1]


def test_no_line_is_wider_than_the_terminal() -> None:
    text = drawn(live_view(record(12), now=0.0)) + drawn(status_view(record(3)))
    assert max(len(line) for line in text.splitlines()) <= 80


def test_status_names_the_cause() -> None:
    made = record(1, "stopped failed")
    cause = Cause("npu001", 1, End(EndKind.EXITED, exit_code=3, tail=("last words",)), 0.0)
    made = dataclasses.replace(made, cause=cause, victims=(0,))
    text = drawn(status_view(from_json(RunRecord, to_json(made))))
    assert "Cause: rank 1 on npu001 exited with code 3" in text and "last words" in text


def test_status_names_the_cause_that_an_earlier_version_wrote_down() -> None:
    earlier = {
        **to_json(record(1, "stopped failed")),
        "cause": {
            "host": "npu001",
            "label": "rank_1",
            "what": "exited with code 3",
            "time": 0.0,
            "tail": ["x"],
        },
        "victims": ["rank_0", "scheduler"],
    }
    text = drawn(status_view(from_json(RunRecord, earlier)))
    assert "Cause: rank 1 on npu001 exited with code 3" in text and "| x" in text
    assert "Ended because of it: rank 0, scheduler" in text and "--rank 1" in text


def test_the_plain_report_says_each_thing_once() -> None:
    out, now = io.StringIO(), [0.0]
    report = PlainReport(out, clock=lambda: now[0])
    for step in (1, 2, 3):
        report.show(record(1, step=step, total_steps=3, loss=1.0))
    now[0] = 6.0
    report.show(record(1, step=3, total_steps=3, loss=1.0))
    assert out.getvalue().splitlines() == ["run: running", "step 1/3  loss 1.0000", "step 3/3  loss 1.0000"]


def test_durations() -> None:
    assert [duration(s) for s in (7.9, 187, 7500, 93600)] == ["7s", "3m 07s", "2h 05m", "1d 02h"]
