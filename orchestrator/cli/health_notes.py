"""The notes for people on how well a run goes: what its ranks do, who hangs, is silent or slow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.cli.sentences import clock_text, duration, ranks_text
from orchestrator.config.host_ranges import fold
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.run_record import RunRecord
from orchestrator.core.records import Phase
from orchestrator.core.states import RankState

__all__ = ["RunPhase", "health_notes", "phase_note", "phase_of"]

_DOES = {
    Phase.IMPORT: "importing modules",
    Phase.INIT: "setting up devices, groups and data",
    Phase.COMPILE: "compiling",
    Phase.SAVE: "saving a checkpoint",
    Phase.EVALUATE: "evaluating",
}
_MOST_RANKS = 5  # ranges of them in a line
_MOST_LINES = 2  # of findings of one kind, on a screen of 24
# That a hang has ended is said for so long.
_SAID_FOR = 300.0


@dataclass(frozen=True, slots=True)
class RunPhase:
    """What `ranks` of the `running` ranks do that make no steps just now, the most of them, since when."""

    phase: Phase
    ranks: int
    running: int
    since: float | None


def phase_of(record: RunRecord) -> RunPhase | None:
    """None where all that can be seen make steps, or tell nothing of phases."""
    if record.state.is_terminal:
        return None
    since: dict[Phase, list[float]] = {}
    counts: dict[Phase, int] = {}
    running = 0
    for view in record.hosts.values():
        for rank in view.ranks():
            if rank.state is not RankState.RUNNING:
                continue
            running += 1
            if rank.phase in _DOES:
                counts[rank.phase] = counts.get(rank.phase, 0) + 1
                if rank.phase_since is not None:
                    since.setdefault(rank.phase, []).append(view.ours(rank.phase_since))
    if not counts:
        return None
    phase = max(counts, key=lambda each: counts[each])
    return RunPhase(phase, counts[phase], running, min(since.get(phase, ()), default=None))


def phase_note(record: RunRecord, *, counting: bool = True) -> str:
    """`saving a checkpoint for 12s`; of a part of the ranks, `2 of 8 ranks: compiling …`; empty for steps."""
    found = phase_of(record)
    if found is None:
        return ""
    who = "" if found.ranks == found.running else f"{found.ranks} of {found.running} ranks: "
    long = ""
    if counting and found.since is not None:
        long = f" for {duration(record.updated - found.since)}"
    return f"{who}{_DOES[found.phase]}{long}"


def health_notes(record: RunRecord, *, counting: bool = True) -> list[str]:
    """What is not well, with what to do, and that it is well again. None of it is longer than a screen.

    `counting`: with seconds that go on, which are another text each time.
    """
    notes: list[str] = []
    if record.state.is_terminal:
        return notes
    for hang in record.health:
        if hang.kind is FindingKind.HANG:
            notes += _hang(hang, record, counting)
    for kind, (say, besides) in _SAY.items():
        found = [each for each in record.health if each.kind is kind and each.ranks]
        notes += [say(each) for each in found[:_MOST_LINES]]
        if left := tuple(rank for each in found[_MOST_LINES:] for rank in each.ranks):
            notes.append(f"{besides}: {ranks_text(left, _MOST_RANKS)}")
    recent = [each for each in record.recovered if record.updated - (each.ended or 0.0) < _SAID_FOR]
    return notes + [_recovered(each) for each in recent[-1:]]


def _hang(hang: Finding, record: RunRecord, counting: bool) -> Iterable[str]:
    long = f" (for {duration(record.updated - hang.since)})" if counting else ""
    does = f", while {_DOES[hang.phase]}" if hang.phase in _DOES else ""
    yield f"it hangs: no rank has made a new step since {clock_text(hang.since)}{long}{does}"
    if hang.ranks:
        where = f", in {hang.detail}" if hang.detail else ""
        yield f"  suspect: {_who(hang)}{where}"
    elif hang.detail:
        yield f"  all ranks are in {hang.detail}"
    if hang.blind:
        yield f"  nothing is known of {fold(hang.blind)}"
    if not hang.phases:
        yield "  (its workers tell no phases: a save or an evaluation looks the same)"
    yield f"  look: orchestrate diagnose {record.run_id}"


def _who(found: Finding) -> str:
    """`rank 3 on b (device 3)`"""
    host = f" on {found.host}" if found.host else ""
    device = "" if found.device is None else f" (device {found.device})"
    return f"{ranks_text(found.ranks, _MOST_RANKS)}{host}{device}"


def _silent(found: Finding) -> str:
    return f"{_who(found)}: no new step since {clock_text(found.since)}, while others make steps"


def _straggler(found: Finding) -> str:
    factor = f"{found.factor or 1:.1f}x"
    return f"{_who(found)}: computes {factor} as long as its peers since {clock_text(found.since)}"


def _recovered(hang: Finding) -> str:
    ended = hang.ended or hang.since
    return f"went on at {clock_text(ended)} after {duration(ended - hang.since)} without a step"


_SAY = {
    FindingKind.SILENT: (_silent, "silent as well"),
    FindingKind.STRAGGLER: (_straggler, "slow as well"),
}
