"""The live view and the plain report, drawn from records made by hand."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from typing import Any

import pytest
from rich.console import RenderableType

from orchestrator.cli.live_view import PlainReport, duration, live_view, progress_line, progress_of
from orchestrator.cli.render_report import print_report
from orchestrator.cli.render_run import record_json, runs_table, status_view, summary_data
from orchestrator.cli.terminal import Console
from orchestrator.control.run_record import Cause, HostView, RunRecord, failed_launch
from orchestrator.control.status_fold import folded
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.push import Digest, Mark
from orchestrator.core.records import HostStatus, ProcessId, RankStatus, StallKind
from orchestrator.core.states import RankState, RunState
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.preflight.report import Level, Report, Result


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


def drawn(what: RenderableType, width: int = 80, *, soft_wrap: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, soft_wrap=soft_wrap).print(what)
    return out.getvalue()


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
    assert fresh.hosts["npu001"].status is not None
    first, second = fresh.hosts["npu001"].status.ranks
    stopped = dataclasses.replace(first, stalled=StallKind.STOPPED, stalled_since=131.0)
    status = dataclasses.replace(fresh.hosts["npu001"].status, ranks=(stopped, second))
    stalled = dataclasses.replace(fresh, hosts={"npu001": dataclasses.replace(ahead, status=status)})
    assert "no new step seen for 55s" in drawn(live_view(stalled, now=0.0))


def with_progress(made: RunRecord, *progresses: dict[str, Any]) -> RunRecord:
    """The record in which the ranks, in their order, are so far."""
    left, hosts = iter(progresses), {}
    for name, view in made.hosts.items():
        assert view.status is not None
        ranks = tuple(dataclasses.replace(rank, progress=next(left)) for rank in view.status.ranks)
        hosts[name] = dataclasses.replace(view, status=dataclasses.replace(view.status, ranks=ranks))
    return dataclasses.replace(made, hosts=hosts)


@pytest.mark.parametrize(
    ("steps", "step", "loss"),
    [
        pytest.param([(11, None), (11, 0.5), (11, None), (11, 0.7)], 11, 0.5, id="all alike"),
        pytest.param([(10, None), (12, 0.4), (11, None), (11, 0.5)], 10, 0.5, id="the slowest tells none"),
        pytest.param([(11, None), (11, None), (11, None), (11, None)], 11, None, id="nobody tells one"),
        pytest.param([(9, 0.9), (50, 0.1), (9, None), (50, None)], 9, 0.9, id="the slowest tells one"),
    ],
)
def test_the_loss_is_of_the_slowest_rank_that_tells_one(
    steps: list[tuple[int, float | None]], step: int, loss: float | None
) -> None:
    """Of a digest one rank of a host has its numbers, whichever reports first; the others have their step."""
    line = {"total_steps": 31, "time": 30.0, "first": {"step": 1, "time": 10.0}}
    numbers = [{"step": made} if own is None else {"step": made, "loss": own} for made, own in steps]
    progress = progress_of(with_progress(record(2), *({**line, **each} for each in numbers)))
    assert progress is not None and (progress.step, progress.loss) == (step, loss)


def test_pushed_digests_give_a_loss_a_speed_and_the_time_left() -> None:
    """From before the first step on; the second of the host's ranks is the one that tells its numbers."""
    made = record(1)
    view = made.hosts["npu001"]
    mark = Mark(ProcessId(1, 2, "boot"), 7)
    status = view.status
    for number in range(1, 4):
        numbers = {"step": 10 * number, "total_steps": 100, "loss": 1.0 / number, "time": 20.0 * number}
        numbers |= {"tokens_per_s": 900.0, "first": {"step": 10, "time": 20.0}}
        digest = Digest(7, 20.0 * number + 1.0, 10 * number, 10 * number, rank=1, numbers=numbers)
        status, _, is_missing = folded(status, mark, digest)
        assert not is_missing
    view = dataclasses.replace(view, status=status)
    shown = progress_line(progress_of(dataclasses.replace(made, updated=62.0, hosts={"npu001": view})))  # type: ignore[arg-type]
    assert shown == "step 30/100  loss 0.3333  900 tokens/s  2m 20s left"


def test_who_stands_still_is_shown_in_every_view() -> None:
    made = with_progress(record(2), *[{"step": 4, "total_steps": 9}] * 4)
    view = made.hosts["npu002"]
    assert view.status is not None
    ranks = view.status.ranks
    stopped = dataclasses.replace(ranks[1], stalled=StallKind.STOPPED, stalled_since=1100.0)
    view = dataclasses.replace(
        view,
        status=dataclasses.replace(view.status, ranks=(ranks[0], stopped)),
        clock=ClockOffset(100.0, 0.1, 0.0),
    )
    made, before = dataclasses.replace(made, hosts={**made.hosts, "npu002": view}), made
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1000.0))
    line = f"rank 3 on npu002: stopped by a signal or a debugger since {since}"
    assert line in drawn(live_view(made, now=0.0)).splitlines()
    assert line in drawn(status_view(made)).splitlines()
    out = io.StringIO()
    report = PlainReport(out, clock=lambda: 0.0)
    for each in (before, made, made, before):
        report.show(each)
    said = out.getvalue().splitlines()
    assert said == ["run: running", "step 4/9", line, "all ranks go on again"]


def test_a_host_that_does_not_answer_is_named_once() -> None:
    """An error says itself of which host it is."""
    made = record(2)
    view = dataclasses.replace(made.hosts["npu002"], error="npu002: the connection broke")
    out = io.StringIO()
    PlainReport(out, clock=lambda: 0.0).show(dataclasses.replace(made, hosts={**made.hosts, "npu002": view}))
    assert "npu002: the connection broke" in out.getvalue().splitlines()


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


def test_a_long_line_of_the_cause_goes_on_behind_its_beginning() -> None:
    """The rest of a traceback's line stood at the left edge, as if it were ours."""
    long = '  File "/data/orchestrate/runs/finetune_65b-20261127-051724-8c0f/train.py", line 45, in <module>'
    cause = Cause("npu001", 1, End(EndKind.EXITED, exit_code=3, tail=(long,)), 0.0)
    made = dataclasses.replace(record(1, "stopped failed"), cause=cause, state=RunState.FAILED)
    lines = drawn(status_view(made)).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("  |   File"))
    assert lines[start + 1].startswith("    ") and lines[start + 1].rstrip().endswith("<module>")
    assert all(len(line) <= 80 for line in lines)


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


def failed_at_512_ranks(hosts: int = 64) -> RunRecord:
    """Rank 37 has failed with long last words; all others were stopped for it."""
    end = End(EndKind.EXITED, exit_code=1, tail=tuple(f"line {n} " + "x" * 30 * n for n in range(20)))
    why = StopReason(StopKind.WORKER_FAILED, host="npu004", rank=37, end=end)
    views = {}
    for host in range(hosts):
        ranks = tuple(
            RankStatus(
                rank,
                rank % 8,
                rank % 8,
                RankState.FAILED if rank == 37 else RankState.STOPPED,
                end=end if rank == 37 else End(EndKind.STOPPED, reason=why),
                progress={"step": 100 + rank % 3, "total_steps": 1000, "loss": 1.5},
            )
            for rank in range(host * 8, host * 8 + 8)
        )
        name = f"npu{host:03d}"
        views[name] = HostView(HostStatus("run", "job", name, 0.0, ranks, phase="over"))
    made = RunRecord(
        "run", "job", "finetune", hosts * 8, 0.0, RunState.FAILED, "failed", ended=9.0, hosts=views
    )
    victims = tuple(rank for rank in range(hosts * 8) if rank % 2 == 0)
    return dataclasses.replace(made, ended=9.0, cause=Cause("npu004", 37, end, 0.0), victims=victims)


def test_the_status_of_512_ranks_fits_a_screen_and_begins_with_the_cause() -> None:
    """It had 1,019 lines, the cause last."""
    lines = drawn(status_view(failed_at_512_ranks())).splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert lines[1].startswith("Cause: rank 37 on npu004 exited with code 1")
    table = [line.split() for line in lines[-3:]]
    assert table[1][:6] == ["1", "✗", "failed", "101", "37", "npu004"]
    assert table[2][:6] == ["511", "■", "stopped", "100-102", "0-36,38-511", "npu[000-063]"]
    every = drawn(status_view(failed_at_512_ranks(), every_rank=True)).splitlines()
    assert len(every) > 512


def test_ranks_that_were_stopped_for_the_cause_name_it_in_a_word() -> None:
    """Each had the whole sentence, in two lines, and in another form on the host of the cause."""
    end, why = End(EndKind.SIGNALLED, signal=9), StopKind.WORKER_FAILED
    reasons = [StopReason(why, "b", 3, end), StopReason(why, "b", 3), StopReason(why, "a", 1, end)]
    made = record(1, "stopped stopped")
    view = made.hosts["npu001"]
    assert view.status is not None
    ranks = tuple(
        RankStatus(rank, rank, rank, RankState.STOPPED, end=End(EndKind.STOPPED, reason=reason))
        for rank, reason in enumerate(reasons)
    )
    hosts = {"npu001": dataclasses.replace(view, status=dataclasses.replace(view.status, ranks=ranks))}
    failed = dataclasses.replace(made, hosts=hosts, state=RunState.FAILED, cause=Cause("b", 3, end, 0.0))
    rows = drawn(status_view(failed, every_rank=True), width=120).splitlines()[-3:]
    assert [row.split("stopped", 1)[1].strip() for row in rows] == [
        "because of rank 3",
        "because of rank 3",
        "rank 1 on a was killed by signal 9",  # whom the supervisor blamed, and the cause does not
    ]
    assert "orchestrate diagnose run" in drawn(status_view(failed))


def test_the_status_of_many_hosts_that_each_tell_something_else_fits_a_screen() -> None:
    made = record(64)
    views = {name: dataclasses.replace(view, error=f"away {name}") for name, view in made.hosts.items()}
    made = dataclasses.replace(made, hosts=views)
    for view in (status_view(made), live_view(made, now=0.0)):
        lines = drawn(view).splitlines()
        assert len(lines) < 24 and any("more hosts" in line or "others" in line for line in lines)


def test_a_launch_that_came_to_nothing_has_no_rows_of_ranks() -> None:
    """The errors were below 24 empty rows."""
    made = record(24)
    made = dataclasses.replace(made, hosts={name: HostView() for name in made.hosts})
    failed = failed_launch(made, ["npu[001-024]: mindspore is not installed"], 4)
    assert drawn(status_view(failed)).splitlines()[1:] == ["npu[001-024]: mindspore is not installed"]


def test_what_has_ended_has_no_time_left() -> None:
    made = record(1, step=11, total_steps=31, time=30.0, first={"step": 1, "time": 10.0})  # type: ignore[arg-type]
    assert "left" in drawn(live_view(made))
    views = {
        name: dataclasses.replace(view, status=dataclasses.replace(view.status, phase="over"))
        for name, view in made.hosts.items()
        if view.status is not None
    }
    made = dataclasses.replace(made, state=RunState.FAILED, ended=9.0, hosts=views)
    assert "left" not in drawn(live_view(made))


@pytest.mark.parametrize("name", ["demo", "finetune_65b", "x" * 50, "y" * 70])
def test_the_runs_fit_80_columns_and_no_name_is_cut(name: str) -> None:
    made = [
        dataclasses.replace(record(64, step=1200, total_steps=50000), run_id=f"{name}-20261126-21054{n}-ab12")
        for n in range(3)
    ]
    lines = drawn(runs_table(made, 80), soft_wrap=True).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= max(80, len(made[0].run_id))
    assert all(any(line.startswith(each.run_id) for line in lines) for each in made)
    assert sum("running" in line and "1200/50000" in line for line in lines) == 3
    assert lines.index(next(line for line in lines if made[2].run_id in line)) < lines.index(
        next(line for line in lines if made[0].run_id in line)
    )


def test_a_summary_is_on_top_of_the_data() -> None:
    data = record_json(failed_at_512_ranks(8))
    assert next(iter(data)) == "summary" and data["state"] == "failed"
    summary = data["summary"]
    assert (summary["step"], summary["total_steps"], summary["loss"]) == (100, 1000, 1.5)
    assert summary["cause"] == "rank 37 on npu004 exited with code 1"
    assert len(json.dumps(summary_data(failed_at_512_ranks()))) < 4000


@pytest.mark.parametrize("count", [2, 12, 64])
def test_a_check_fits_a_screen_with_what_is_wrong_at_its_end(
    count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    hosts = [f"npu{number:03d}" for number in range(count)]
    checks = [(f"check {n}", [Result(host, Level.OK, f"of {host}") for host in hosts]) for n in range(30)]
    levels = [Level.FAIL, *[Level.WARN] * (count - 1)]
    wrong = [Result(host, level, f"why {host}", "mend") for host, level in zip(hosts, levels, strict=True)]
    print_report(Report([*checks, ("last", wrong)], {}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert "FAIL" in lines[-4] and "npu000" in lines[-4] and lines[-1].startswith(f"{count} hosts: 1 FAIL")
    assert any(line == f"{count - 6} more findings: `--all` shows them" for line in lines) == (count > 6)
    assert lines[0].startswith("ok: check 0, check 1")
    print_report(Report([*checks, ("last", wrong)], {}), every=True)
    assert capsys.readouterr().out.count("of npu") == 30 * count


def test_of_many_failures_none_is_hidden_by_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    levels = [Level.WARN] * 9 + [Level.FAIL] * 8
    found = [Result(f"h{n}", level, f"why {n}") for n, level in enumerate(levels)]
    print_report(Report([("some", found)], {}))
    printed = capsys.readouterr().out
    assert (printed.count("WARN  why"), printed.count("FAIL  why")) == (0, 6)
    assert "11 more findings" in printed
