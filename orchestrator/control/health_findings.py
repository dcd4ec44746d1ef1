"""What is not well in a run that goes on, as data: a hang, a rank that is silent, slow, stopped or blocked.

Sentences are made of it in `cli/health_notes`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from orchestrator.core.records import Phase

__all__ = ["Finding", "FindingKind"]


class FindingKind(enum.StrEnum):
    """What is not well."""

    HANG = "hang"  # no rank that can be seen makes steps; `ranks` are suspects, where any can be named
    SILENT = "silent"  # these make none while others do; without ranks: the host's supervisor
    STRAGGLER = "straggler"  # it computes longer than the others
    STOPPED = "stopped"  # by a signal or a debugger
    BLOCKED = "blocked"  # in the kernel, where no signal reaches it


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not well, `since` when (seconds since the epoch); `ended` once it is well again.

    `ranks` are those that it names, `host` and `device` where all of them are, else empty and None. `detail`
    is where their program is, of a hang: a frame of the suspects' stacks. `phase` is what they were doing,
    `seconds` after how long it was named; `factor` is by how much a straggler is slower than the median. Of a
    hang, `blind` are hosts that did not answer, of which nothing is known; `phases`: whether its workers tell
    what they do, so that it can be no save.
    """

    kind: FindingKind
    since: float
    ranks: tuple[int, ...] = ()
    host: str = ""
    device: int | None = None
    detail: str = ""
    phase: Phase | None = None
    seconds: float | None = None
    factor: float | None = None
    blind: tuple[str, ...] = ()
    phases: bool = True
    ended: float | None = None
