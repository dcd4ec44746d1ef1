"""The curve of a run's metrics over all its attempts, by step.

Each attempt has a file of its own, `metrics/rank_<r>.jsonl` on the rank's host, a line of JSON a step. Where
several attempts have made a step the newest one's line counts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.control.attempts import plan_of_record
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord
from orchestrator.core.codec import DecodeError, parse
from orchestrator.core.ends import label_of
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, fleet_of

__all__ = ["curve_of", "joined", "rows_of"]

_MOST_BYTES = 1 << 28
_LONGEST_LINE = 1 << 16


def joined(attempts: Iterable[tuple[int, Iterable[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """One curve of those of several attempts, the oldest first, each row with its `attempt`; by step."""
    by_step: dict[int, dict[str, Any]] = {}
    for number, rows in attempts:
        by_step.update({row["step"]: {**row, "attempt": number} for row in rows})
    return [by_step[step] for step in sorted(by_step)]


def rows_of(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file that have a step; others, and one that is cut, are passed over."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        rest = rest if len(rest) <= _LONGEST_LINE else b"x"
        yield from filter(None, map(_row, lines))
    if (last := _row(rest)) is not None:
        yield last


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = parse(line)
    except DecodeError:
        return None
    is_step = isinstance(found, dict) and type(found.get("step")) is int and "phase" not in found
    return found if is_step else None


def curve_of(control: ControlDir, record: RunRecord, rank: int = 0) -> list[dict[str, Any]]:
    """What this rank has told of its steps in all attempts.

    Raises the errors of hosts, and UsageError where there is no such rank. An attempt whose host has nothing
    of it any more is left out.
    """
    curves: list[tuple[int, Sequence[Mapping[str, Any]]]] = []
    known = re.compile(re.escape(label_of(rank)) + r"\.jsonl")

    def rows(agent: Agent) -> list[dict[str, Any]]:
        told = agent.small_files(record.run_id, "metrics", known, total=_MOST_BYTES)
        return list(rows_of(data for name, data in told if name is not None))

    with contextlib.ExitStack() as stack:
        fleets: list[tuple[object, Fleet]] = []  # a host of several attempts is connected to once
        for attempt in record.attempts:
            plan = plan_of_record(control, record, attempt.number)
            names = {placement.host for placement in plan.placements if placement.rank == rank}
            if not names:
                continue
            place = ([host for host in plan.hosts if host.name in names], plan.ssh)
            fleet = next((open_ for other, open_ in fleets if other == place), None)
            if fleet is None:
                fleet = stack.enter_context(fleet_of(*place))
                fleets.append((place, fleet))
            fleet.address(address_of(record, attempt.number))
            answers = fleet.each(rows)
            gone = {name for name, error in answers.errors.items() if _is_gone(error)}
            answers.errors = {name: error for name, error in answers.errors.items() if name not in gone}
            curves += [(attempt.number, found) for found in answers.raise_on_error().values()]
    if not fleets:
        raise UsageError(f"run {record.run_id} has no rank {rank}")
    return joined(curves)


def _is_gone(error: Exception) -> bool:
    return isinstance(error, AgentError) and error.kind == "no_run"
