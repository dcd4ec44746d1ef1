"""The newest iteration of MindFormers' "checkpoint 2.0" that is whole over all hosts; pure data.

The tracker is not believed: it is written last, and not at once, so it may be empty, late, or of a folder
from which a file has gone since.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.errors import CheckpointError
from orchestrator.core.iteration_answers import IterationList, IterationRow

__all__ = ["IterationChoice", "newest_iteration"]

_NUMBERED = re.compile(r"(?:.*-)?(model|opt)-(\d{7})-(\d{7})\.safetensors", re.ASCII)
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class IterationChoice:
    """The chosen iteration and the host of each of its files; what was passed over, with what it lacks."""

    iteration: int
    files: Mapping[str, str]
    passed_over: Mapping[int, str] = field(default_factory=dict)
    trackers: Mapping[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What was passed over, and trackers that say something else, a line each."""
        lines = [
            f"iteration {number} is newer but not whole, it lacks {why}"
            for number, why in self.passed_over.items()
        ]
        for host, said in self.trackers.items():
            if said != self.iteration:
                lines.append(f"{host}: the tracker says {said}: {self.iteration} was taken")
        return lines


def newest_iteration(
    listed: Mapping[str, IterationList], *, step: int | None = None, with_optimizer: bool = True
) -> IterationChoice:
    """The newest iteration whose files are all there and whole, or `step`. CheckpointError: there is none."""
    found: dict[int, dict[str, IterationRow]] = {}
    for host, each in listed.items():
        for row in each.iterations:
            found.setdefault(row.iteration, {})[host] = row
    trackers = {host: int(each.tracker) for host, each in listed.items() if each.tracker is not None}
    passed_over: dict[int, str] = {}
    for number in sorted(found, reverse=True):
        if step is not None and number != step:
            continue
        lacking = list(_lacking(found[number], with_optimizer))
        if not lacking:
            files = {str(name): host for host, row in found[number].items() for name in row.files}
            return IterationChoice(number, files, passed_over, trackers)
        passed_over[number] = ", ".join(lacking[:_MOST_NAMED]) + (
            " and others" if len(lacking) > _MOST_NAMED else ""
        )
    if not passed_over:
        said = f"no iteration {step} is saved" if step is not None else "no iteration is saved"
        raise CheckpointError(f"{said} on {', '.join(listed) or 'any host'}")
    number, why = next(iter(passed_over.items()))
    raise CheckpointError(f"no iteration is whole: {number} lacks {why}")


def _lacking(rows: Mapping[str, IterationRow], with_optimizer: bool) -> Iterator[str]:
    """What an iteration lacks over all hosts."""
    whole = {str(name) for row in rows.values() for name in row.files}
    named = [row.named for row in rows.values() if row.named is not None]
    if not any(row.common for row in rows.values()):
        yield "common.json"
    kinds = _numbers(whole, {str(name) for row in rows.values() for name in row.damaged})
    if not named and set(kinds.get("model", {})) != {1}:  # one rank alone writes none
        yield "metadata.json"
    if "model" not in kinds:
        yield "all files of weights"
    if with_optimizer and "opt" not in kinds:
        yield "all files of the optimizer"
    for kind, totals in kinds.items():
        yield from _incomplete(kind, totals, with_optimizer)
    for name in sorted({name for names in named for name in names} - whole):
        if _NUMBERED.fullmatch(name) is None or _kind(name) == "model" or with_optimizer:
            yield name


def _numbers(whole: set[str], damaged: set[str]) -> dict[str, dict[int, set[int]]]:
    """By kind and by how many files there are to be, the numbers of those that are whole."""
    kinds: dict[str, dict[int, set[int]]] = {}
    for name in sorted(whole | damaged):
        match = _NUMBERED.fullmatch(name)
        if match:
            present = kinds.setdefault(match[1], {}).setdefault(int(match[3]), set())
            present.update([int(match[2])] if name in whole else [])
    return kinds


def _incomplete(kind: str, totals: Mapping[int, set[int]], with_optimizer: bool) -> Iterator[str]:
    if kind == "opt" and not with_optimizer:
        return
    if len(totals) > 1:
        yield f"one saving: its {kind} files are of {' and '.join(map(str, sorted(totals)))}"
        return
    for total, present in totals.items():
        missing: Sequence[int] = [number for number in range(total) if number not in present]
        if missing:
            yield f"{kind} file {', '.join(map(str, missing[:8]))} of {total}"


def _kind(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else ""
