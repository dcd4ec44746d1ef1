"""Records of runs of any size, and how they go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState, RunState
from tests.control.judged import rank, status


def control_in(folder: Path, name: str = "r1") -> ControlDir:
    control = ControlDir(folder / "runs" / name)
    control.make(1)
    return control


def run_of(hosts: int = 2, state: RunState = RunState.RUNNING, **fields: Any) -> RunRecord:
    """A run of two ranks a host, all of which run."""
    views = {f"h{number}": view(number) for number in range(hosts)}
    return RunRecord("r1", "job", "train", 2 * hosts, 1.0, state, hosts=views, **fields)


def view(number: int, **fields: Any) -> HostView:
    ranks = (rank(2 * number, progress={"step": 1}), rank(2 * number + 1, progress={"step": 1}))
    return HostView(status(f"h{number}", *ranks), last_contact=1.0, **fields)


def with_view(record: RunRecord, name: str, **fields: Any) -> RunRecord:
    changed = dataclasses.replace(record.hosts[name], **fields)
    return dataclasses.replace(record, hosts={**record.hosts, name: changed})


def with_rank(record: RunRecord, name: str, **fields: Any) -> RunRecord:
    """The record in which the first rank of a host is another."""
    said = record.hosts[name].status
    assert said is not None
    first = dataclasses.replace(said.ranks[0], **fields)
    return with_view(record, name, status=dataclasses.replace(said, ranks=(first, *said.ranks[1:])))


def stepped(record: RunRecord, step: int) -> RunRecord:
    """The record when the first rank of every host is at this step."""
    for name in record.hosts:
        record = with_rank(record, name, progress={"step": step})
    return record


def failed(record: RunRecord, name: str) -> RunRecord:
    return with_rank(record, name, state=RankState.FAILED)
