"""A training that has gone on by itself, as its record tells at each of its moments."""

from __future__ import annotations

import dataclasses
from typing import Any

from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.run_record import AttemptRecord, Cause, HostView, RunRecord
from orchestrator.control.step_times import Spent
from orchestrator.core.ends import End, EndKind
from orchestrator.core.records import HostStatus, RankStatus
from orchestrator.core.states import RankState, RunState

__all__ = ["BEGUN", "given_up", "running", "waiting"]

BEGUN = 1_700_000_000.0
_CRASH = Cause("npu002", 3, End(EndKind.SIGNALLED, signal=9), BEGUN + 1200.0)
_GONE = Cause("npu002", None, End(EndKind.LOST, message="it does not answer"), BEGUN + 3000.0)


def _attempts() -> tuple[AttemptRecord, AttemptRecord]:
    first = AttemptRecord(
        1,
        "a",
        RunState.FAILED,
        BEGUN,
        BEGUN + 1205.0,
        _CRASH,
        first_step=1,
        last_step=520,
        hosts=("npu001", "npu002"),
        decision=Decision(
            Choice.AGAIN,
            Ground.CRASH,
            BEGUN + 1206.0,
            ("npu001", "npu002"),
            host="npu002",
            rank=3,
            step=520,
            count=1,
            limit=3,
        ),
        spent=Spent(BEGUN + 20.0, BEGUN + 60.0, 1, BEGUN + 1190.0, 520, 1038.0, 60.0),
        kept=500,
    )
    second = AttemptRecord(
        2,
        "b",
        RunState.FAILED,
        BEGUN + 1215.0,
        BEGUN + 3005.0,
        _GONE,
        first_step=501,
        last_step=1300,
        hosts=("npu001", "npu002"),
        decision=Decision(
            Choice.REPLACE,
            Ground.HOST_GONE,
            BEGUN + 3006.0,
            ("npu001", "npu009"),
            ("npu002",),
            ("npu009",),
            host="npu002",
            step=1300,
            count=2,
            limit=3,
        ),
        origin=(1, 500),
        spent=Spent(BEGUN + 1230.0, BEGUN + 1260.0, 501, BEGUN + 2880.0, 1300, 1560.0, 60.0),
        kept=1300,
    )
    return first, second


def _hosts(state: RankState, step: int, *names: str) -> dict[str, HostView]:
    views = {}
    for index, name in enumerate(names):
        ranks = tuple(
            RankStatus(
                2 * index + local,
                local,
                local,
                state,
                progress={
                    "step": step,
                    "total_steps": 4000,
                    "loss": 3.21,
                    "first": {"step": 1301, "time": BEGUN},
                },
            )
            for local in range(2)
        )
        views[name] = HostView(HostStatus("demo-20231114-221320-ab12", "demo", name, 0.0, ranks))
    return views


def _run(state: RunState, **fields: Any) -> RunRecord:
    return RunRecord("demo-20231114-221320-ab12", "demo", "pretrain", 4, BEGUN, state, **fields)


def running() -> RunRecord:
    """In its third attempt, with a spare in the place of a host that is gone."""
    spent = Spent(BEGUN + 3030.0, BEGUN + 3050.0, 1301, BEGUN + 3450.0, 1500, 400.0)
    third = AttemptRecord(3, "c", started=BEGUN + 3010.0, origin=(2, 1300), spent=spent)
    return _run(
        RunState.RUNNING,
        phase="running",
        updated=BEGUN + 3452.0,
        hosts=_hosts(RankState.RUNNING, 1500, "npu001", "npu009"),
        attempts=(*_attempts(), third),
    )


def waiting() -> RunRecord:
    """Its second attempt has ended, and there is no host for the third."""
    first, second = _attempts()
    decided = dataclasses.replace(
        second.decision or Decision(Choice.WAIT, Ground.HOSTS_MISSING),
        choice=Choice.WAIT,
        ground=Ground.HOSTS_MISSING,
        hosts=(),
        spares=(),
        not_before=BEGUN + 3600.0,
    )
    return _run(
        RunState.RESTARTING,
        phase="waiting for hosts",
        updated=BEGUN + 3100.0,
        ended=BEGUN + 3005.0,
        cause=_GONE,
        hosts=_hosts(RankState.FAILED, 1300, "npu001", "npu002"),
        attempts=(first, dataclasses.replace(second, decision=decided)),
    )


def given_up() -> RunRecord:
    """It has ended for good."""
    first, second = _attempts()
    decided = Decision(
        Choice.GIVE_UP, Ground.SAME_STEP, BEGUN + 3006.0, host="npu002", step=1300, count=2, limit=2
    )
    return _run(
        RunState.FAILED,
        phase="failed",
        updated=BEGUN + 3005.0,
        ended=BEGUN + 3005.0,
        exit_code=1,
        cause=_GONE,
        hosts=_hosts(RankState.FAILED, 1300, "npu001", "npu002"),
        attempts=(first, dataclasses.replace(second, decision=decided)),
    )
