"""A run's spares as people see them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.cli.follow import _records
from orchestrator.cli.render_plan import plan_data, print_plan
from orchestrator.cli.render_run import record_json, status_view
from orchestrator.cli.spare_notes import spare_warnings, spares_line
from orchestrator.control.run_record import RunRecord
from orchestrator.control.spare_view import SpareState, SpareView
from orchestrator.core.states import RunState
from orchestrator.plan.make_plan import make_plan
from tests.cli.test_live_view import drawn, record
from tests.config.support import inventory, job
from tests.plan.test_spare_hosts import HOSTS, JOB

BUSY = "1 of its 8 devices are free, and 8 are wanted"
SPARES = {
    "n13": SpareView(SpareState.READY, 1.0, devices=(0, 1)),
    "n14": SpareView(SpareState.READY, 2.0, devices=(0, 1)),
    "n15": SpareView(SpareState.UNFIT, 3.0, BUSY),
    "n16": SpareView(SpareState.AWAY, 4.0, "connection refused"),
}


def _with(spares: Mapping[str, SpareView]) -> RunRecord:
    return dataclasses.replace(record(2), spares=spares)


def test_status_has_them_in_a_line() -> None:
    line = f"spares  n[13-14] ready, n15 unfit: {BUSY}, n16 away: connection refused"
    assert spares_line(_with(SPARES)) == line
    shown = drawn(status_view(_with(SPARES)), 200).splitlines()
    assert line in [each.rstrip() for each in shown]
    narrow = drawn(status_view(_with(SPARES))).splitlines()
    assert all(len(each) <= 80 for each in narrow)
    first = next(index for index, each in enumerate(narrow) if each.startswith("spares  "))
    assert narrow[first + 1].startswith("        ")


def test_of_a_run_without_spares_or_that_is_over_there_is_no_line() -> None:
    assert spares_line(_with({})) == ""
    assert spares_line(dataclasses.replace(_with(SPARES), state=RunState.FAILED)) == ""


def test_json_has_them() -> None:
    told = json.loads(json.dumps(record_json(_with(SPARES))["spares"]))
    assert told["n13"] == {"state": "ready", "since": 1.0, "why": "", "devices": [0, 1]}
    assert told["n15"]["why"] == BUSY


def test_those_that_are_no_good_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert spare_warnings(_with(SPARES)) == [f"spare n15 unfit: {BUSY}", "spare n16 away: connection refused"]
    records = [_with({}), _with(SPARES), _with(SPARES)]
    monkeypatch.setattr("orchestrator.api.watch", lambda run: iter(records))
    assert len(list(_records(None, False, True))) == 3  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        f"orchestrate: warning: spare n15 unfit: {BUSY}",
        "orchestrate: warning: spare n16 away: connection refused",
    ]


def test_a_dry_run_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS))
    assert plan_data(plan)["spares"] == ["n3", "n4"]
    print_plan(plan)
    shown = capsys.readouterr().out
    assert "spares n[3-4], which are checked and prepared at launch" in shown
    assert "note: hosts: all leaves out n[3-4]" in shown
