"""A run's spares in lines for people."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.config.host_ranges import fold
from orchestrator.control.run_record import RunRecord
from orchestrator.control.spare_view import SpareState

__all__ = ["spare_warnings", "spares_line"]

_WRONG = (SpareState.AWAY, SpareState.UNFIT)


def spares_line(record: RunRecord) -> str:
    """`spares  n[13-14] ready, n15 unfit: …`; empty where there are none, or the run is over."""
    if not record.spares or record.state.is_terminal:
        return ""
    return f"spares  {', '.join(_folded(record, SpareState))}"


def spare_warnings(record: RunRecord) -> list[str]:
    """The spares that could not take the place of a host now, a line each."""
    return [f"spare {text}" for text in _folded(record, _WRONG)]


def _folded(record: RunRecord, states: Iterable[SpareState]) -> list[str]:
    alike: dict[tuple[SpareState, str], list[str]] = {}
    for name, view in record.spares.items():
        alike.setdefault((view.state, view.why), []).append(name)
    wanted = tuple(states)
    return [
        f"{fold(names)} {state}{f': {why}' if why else ''}"
        for (state, why), names in alike.items()
        if state in wanted
    ]
