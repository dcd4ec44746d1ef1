"""Chaos: which rank of which host is chosen for a fault, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.control.chaos import ChosenFault, choose_fault
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import UsageError
from orchestrator.core.states import RunState
from tests.control.judged import rank, view

RECORD = RunRecord(
    run_id="r1",
    job="job",
    task="command",
    world_size=6,
    created=1.0,
    state=RunState.RUNNING,
    phase="running",
    hosts={
        "a": view("a", rank(0), rank(1)),
        "b": view("b", rank(2), rank(3)),
        "c": dataclasses.replace(view("c", rank(4), rank(5)), error="c: no route"),
    },
)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"kind": "kill"}, ChosenFault("kill", "b", 3)),
        ({"kind": "kill", "rank": 1}, ChosenFault("kill", "a", 1)),
        ({"kind": "freeze", "host": "b", "seconds": 30.0}, ChosenFault("freeze", "b", 2, 30.0)),
        ({"kind": "fill_disk", "host": "a"}, ChosenFault("fill_disk", "a")),
        ({"kind": "fill_disk", "rank": 2, "seconds": 5.0}, ChosenFault("fill_disk", "b", None, 5.0)),
    ],
    ids=["last", "rank", "host", "disk-of-host", "disk-of-rank"],
)
def test_the_rank_or_the_host_that_is_named_is_meant_else_the_last_rank_that_runs(
    asked: dict[str, Any], chosen: ChosenFault
) -> None:
    assert choose_fault(RECORD, **asked) == chosen


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (
            {"rank": 9},
            "rank 9 of r1 does not run (it has ranks 0-5; `orchestrate status` shows their states)",
        ),
        (
            {"rank": 4},
            "rank 4 of r1 does not run (it has ranks 0-5; `orchestrate status` shows their states)",
        ),
        ({"host": "c"}, "no rank of r1 runs on c (choose another host)"),
        ({"host": "d"}, "no host 'd' is in r1 (its hosts are a,b,c)"),
        ({"seconds": 3.0}, "what is killed is not brought back: --for is for freeze and fill-disk"),
    ],
    ids=["no-such-rank", "unseen-rank", "unseen-host", "no-such-host", "for-of-kill"],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, Any], refusal: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_fault(RECORD, "kill", **asked)
    assert str(caught.value) == refusal


def test_a_run_that_has_ended_cannot_be_hurt() -> None:
    ended = dataclasses.replace(RECORD, state=RunState.FAILED)
    with pytest.raises(UsageError, match="r1 has ended"):
        choose_fault(ended, "kill")


def test_a_run_without_workers_cannot_be_hurt() -> None:
    young = dataclasses.replace(RECORD, hosts={}, state=RunState.PREPARING, phase="connecting")
    with pytest.raises(UsageError, match="has no workers that run"):
        choose_fault(young, "freeze")
