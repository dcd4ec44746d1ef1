"""What is told of a run that goes on by itself: decisions, the account of its time, how it is followed."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from orchestrator.cli import follow as following
from orchestrator.cli.account_lines import PARTS, account_line, run_account
from orchestrator.cli.attempt_notes import DecisionLog, restarts_by_itself
from orchestrator.cli.copy_notes import copies_note
from orchestrator.cli.decision_sentences import GROUNDS, decision_sentence, is_told
from orchestrator.cli.follow import interrupted
from orchestrator.cli.live_view import PlainReport
from orchestrator.cli.render_diagnosis import diagnosis_data, diagnosis_text
from orchestrator.cli.render_run import record_json, runs_table, status_view, summary_data
from orchestrator.cli.terminal import Console
from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.diagnose import Diagnosis
from orchestrator.control.run_record import AttemptRecord, RunRecord, read_record, write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.control.time_account import TimeAccount
from orchestrator.core.records import CopyStatus
from orchestrator.core.states import RunState
from orchestrator.simulation.scaled_plan import scaled_plan
from tests.cli.restarted import BEGUN, given_up, running, waiting


def drawn(what: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return out.getvalue()


@pytest.fixture(params=["en", "zh"])
def lang(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LC_ALL", {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}[request.param])
    return str(request.param)


WHOLE = Decision(
    Choice.REPLACE,
    Ground.DEVICE_OUT,
    1.0,
    ("a", "s1"),
    ("b",),
    ("s1",),
    {"c": (1, 2)},
    0.0,
    "b",
    3,
    5,
    "80E18402",
    120,
    1,
    3,
)


def test_every_ground_has_a_sentence_in_both_languages() -> None:
    assert set(GROUNDS) == set(Ground)
    for english, chinese in GROUNDS.values():
        assert english.isascii() and re.search("[\u4e00-\u9fff]", chinese)


@pytest.mark.parametrize("ground", Ground)
@pytest.mark.parametrize("choice", Choice)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_sentence_has_no_hole_whatever_is_known(ground: Ground, choice: Choice, language: str) -> None:
    for decision in (Decision(choice, ground), dataclasses.replace(WHOLE, choice=choice, ground=ground)):
        text = decision_sentence(decision, language)
        assert not re.search(r"None|[{}]|  |\(\)| [:,]|[:：]$", text), text
        assert len(text) < 160


def test_what_is_decided_in_words() -> None:
    assert decision_sentence(WHOLE) == (
        "goes on with s1 in the place of b, without device c:1-2: device 5 of b is faulty (80E18402) "
        "(restart 1 of 3)"
    )
    crash = dataclasses.replace(
        WHOLE, choice=Choice.AGAIN, ground=Ground.CRASH, devices_out={}, spares=(), out=()
    )
    assert decision_sentence(crash) == (
        "goes on with the same hosts: rank 3 on b failed at step 120 (restart 1 of 3)"
    )
    assert decision_sentence(crash, brief=True) == "goes on with the same hosts (restart 1 of 3)"
    missing = Decision(Choice.WAIT, Ground.HOSTS_MISSING, out=("npu003", "npu004"), not_before=BEGUN + 30.0)
    assert decision_sentence(missing, now=BEGUN + 40.0) == "waits: hosts are missing: npu[003-004]"
    assert decision_sentence(missing, now=BEGUN).startswith("waits until 20")
    used = Decision(Choice.GIVE_UP, Ground.MOST_ATTEMPTS, count=3, limit=3)
    assert decision_sentence(used) == "gives up: it has been restarted 3 times within its window"
    assert decision_sentence(used, "zh") == "放弃：在时间窗口内已重启 3 次"


def test_that_a_run_without_restarts_has_ended_is_not_told() -> None:
    assert not any(
        is_told(Decision(Choice.STOP, ground)) for ground in (Ground.DONE, Ground.STOPPED, Ground.NO_RESTART)
    )
    assert is_told(Decision(Choice.STOP, Ground.NOT_COVERED)) and not is_told(None)


@pytest.mark.parametrize("make", [running, waiting, given_up])
def test_status_fits_a_screen_of_80_by_24(make: object, lang: str) -> None:
    record: RunRecord = make()  # type: ignore[operator]
    lines = drawn(status_view(record)).splitlines()
    assert len(lines) <= 24 and max(map(cell_len, lines)) <= 80


def test_status_tells_how_attempts_ended_what_was_decided_and_where_the_time_went() -> None:
    assert drawn(status_view(running())).splitlines()[1:8] == [
        "attempt 1 failed at step 520 (20m 05s): rank 3 on npu002 was killed by signal 9",
        "  goes on with the same hosts (restart 1 of 3)",
        "attempt 2 failed at step 1300 (29m 50s): on npu002 was lost: it does not answer",
        "  goes on with npu009 in the place of npu002 (restart 2 of 3)",
        "attempt 3 is in force",
        "time 57m 32s: productive 85.7%, lost steps 1.2%, waiting 5.0%, restarting 0.4%,",
        "  saving 3.5%, starting 4.2%",
    ]
    text = drawn(status_view(waiting()))
    assert "waiting for hosts" in text and "  waits: hosts are missing: npu002\n" in text
    assert "Cause:" not in text and "is in force" not in text
    assert "gives up: the attempt before ended in the same way at step 1300" in drawn(status_view(given_up()))


def test_of_many_attempts_the_last_ones_are_told() -> None:
    record = running()
    many = [dataclasses.replace(record.attempts[0], number=number) for number in range(1, 12)]
    text = drawn(status_view(dataclasses.replace(record, attempts=(*many, record.attempts[-1]))))
    assert "8 attempts before: --json has all\n" in text
    assert "attempt 8 " not in text and "attempt 9 failed" in text and len(text.splitlines()) <= 24


def test_the_account_adds_up_in_words_and_in_data(lang: str) -> None:
    data = record_json(running())
    assert sum(data["account"].values()) == pytest.approx(3452.0)
    line = account_line(run_account(running()), lang)
    percents = [float(each) for each in re.findall(r"([\d.]+)%", line)]
    assert sum(percents) == pytest.approx(100.0)
    assert set(PARTS) == set(TimeAccount().parts()) == set(data["account"])


@pytest.mark.parametrize("parts", [(1.0, 1.0, 1.0), (1e-9, 1e6, 1.0), (1.0, 0.0, 0.0), (999.0, 0.4, 0.6)])
def test_the_shares_of_an_account_always_add_up_to_100(parts: tuple[float, float, float]) -> None:
    line = account_line(TimeAccount(parts[0], parts[1], parts[2]))
    assert sum(float(each) for each in re.findall(r"([\d.]+)%", line)) == pytest.approx(100.0)


def test_an_account_without_steps_is_no_line() -> None:
    assert account_line(TimeAccount(starting=12.0)) == ""


def test_decisions_are_data_with_their_sentence() -> None:
    first, second = record_json(waiting())["attempts"]
    assert first["decision"]["ground"] == "crash" and first["decision"]["count"] == 1
    assert second["decision"]["sentence"] == "waits: hosts are missing: npu002"
    assert summary_data(waiting())["decided"] == "waits: hosts are missing: npu002"
    assert "decided" not in summary_data(running())


def test_diagnose_has_decisions_and_account(lang: str) -> None:
    found = Diagnosis(given_up())
    data = diagnosis_data(found, lang)
    assert [each["attempt"] for each in data["decisions"]] == [1, 2]
    assert sum(data["account"].values()) == pytest.approx(3005.0)
    text = diagnosis_text(found, lang).plain
    assert {"en": "attempt 2: gives up: ", "zh": "第 2 次尝试: 放弃："}[lang] in text
    assert {"en": "Time 50m 05s: productive", "zh": "时间 50m 05s：有效训练"}[lang] in text


def test_who_follows_without_a_terminal_reads_decisions_as_lines_once() -> None:
    out = io.StringIO()
    report = PlainReport(out)
    for record in (waiting(), waiting(), running(), running()):
        report.show(record)
    lines = out.getvalue().splitlines()
    assert lines[:4] == [
        "attempt 1 failed at step 520 (20m 05s): rank 3 on npu002 was killed by signal 9",
        "  goes on with the same hosts (restart 1 of 3)",
        "attempt 2 failed at step 1300 (29m 50s): on npu002 was lost: it does not answer; not heard of "
        "since: npu001, npu002",
        "  waits: hosts are missing: npu002",
    ]
    assert "demo-20231114-221320-ab12 (attempt 2): waiting for hosts" in lines
    decided = "  goes on with npu009 in the place of npu002 (restart 2 of 3)"
    assert lines.index(decided) + 1 == lines.index("demo-20231114-221320-ab12 (attempt 3): running")
    assert len([line for line in lines if line.startswith("attempt ")]) == 2


def test_a_decision_that_was_told_is_told_again_when_it_is_another() -> None:
    log, record = DecisionLog(), waiting()
    assert len(log.news(record)) == 4 and log.news(record) == []
    assert log.news(running()) == ["  goes on with npu009 in the place of npu002 (restart 2 of 3)"]


def test_a_run_that_has_ended_tells_its_end_by_itself() -> None:
    """The summary says it; in the log are only ends after which it went on."""
    assert not any("gives up" in line for line in DecisionLog().news(given_up()))


def test_whose_attempt_it_is_that_a_ctrl_c_may_undo() -> None:
    by_hand = (AttemptRecord(1, "a"), AttemptRecord(2, "b"))
    assert restarts_by_itself(running()) and restarts_by_itself(waiting())
    assert not restarts_by_itself(dataclasses.replace(running(), attempts=by_hand))
    stopped = dataclasses.replace(by_hand[0], decision=Decision(Choice.GIVE_UP, Ground.SAME_STEP))
    assert not restarts_by_itself(dataclasses.replace(running(), attempts=(stopped, by_hand[1])))
    assert not restarts_by_itself(dataclasses.replace(running(), attempts=by_hand[:1]))


def test_how_far_copies_are_is_told_and_who_is_behind() -> None:
    record = running()

    def with_copies(*copies: CopyStatus | None) -> RunRecord:
        views = {}
        for (name, view), found in zip(record.hosts.items(), copies, strict=True):
            assert view.status is not None
            views[name] = dataclasses.replace(view, status=dataclasses.replace(view.status, copies=found))
        return dataclasses.replace(record, hosts=views)

    assert copies_note(record) == ""
    assert copies_note(with_copies(CopyStatus(400), CopyStatus(300, lag=1))) == (
        "copies: step 300 is on a second host"
    )
    late = with_copies(CopyStatus(400), CopyStatus(None, lag=4, error="no route\x1b to npu001"))
    assert copies_note(late) == (
        "copies: none of all hosts yet; npu009 up to 4 saves behind; npu009: no route\\x1b to npu001"
    )
    assert "copies: none of all hosts yet" in drawn(status_view(late))


def test_ctrl_c_leaves_a_run_that_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the next attempt's launch, which nobody at a terminal has asked for."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    plan = scaled_plan(Path(__file__).parents[2] / "jobs/demo.yaml", None, 2).plan
    control = make_control_dir(plan)
    record = dataclasses.replace(running(), run_id=plan.run_id, state=RunState.PREPARING, phase="connecting")
    write_record(control, record)
    assert interrupted(control) == 5
    assert "detached; the run goes on" in capsys.readouterr().err
    assert read_record(control).state is RunState.PREPARING


def test_ctrl_c_before_anything_is_shown_undoes_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its monitor is at work by then: a launch that is said to be interrupted must not go on."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    control = make_control_dir(scaled_plan(Path(__file__).parents[2] / "jobs/demo.yaml", None, 2).plan)
    monkeypatch.setattr(following, "Console", interrupt)
    assert following.follow(control) == 5
    assert "interrupted: undoing the launch" in capsys.readouterr().err


def test_runs_name_the_attempt_and_that_one_restarts() -> None:
    text = drawn(runs_table([running(), waiting()]))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"restarting .*attempt 2", text) and re.search(r"running .*attempt 3", text)
    assert RunState.RESTARTING.value in text
