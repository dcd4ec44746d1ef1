"""The scene of a failure: a case with what each rank's own lines say of it, and who is where. Pure.

A line that a rank's log has counts only for what it says of that rank. What it says of others is in
`diagnosis/accusations`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from orchestrator.core.ends import EndKind
from orchestrator.core.log_signatures import (
    Meaning,
    bare,
    last_exception,
    signature_of,
    telling_signature,
    tells_of_exceptions,
)
from orchestrator.core.signature_table import Signature
from orchestrator.core.states import RankState
from orchestrator.diagnosis.evidence import Case, Culprit, HostEvidence, LogLine, Proof, RankEvidence
from orchestrator.diagnosis.kernel_signatures import KernelFault, OomKill, kernel_faults, oom_kills

__all__ = ["RUN_LOG", "Said", "Scene", "Told", "code_in", "ended_by", "lines_of"]

# The log of what HCCL hears from others: what stands there is no error of the rank that wrote it.
RUN_LOG = "plog/run"
_FROM_SHELL = 128  # a shell ends with this and the number of the signal that ended its program
_MOST_LINES = 2000
# Longer than anybody waits for another by default, in seconds; and by how much a log's clock may be wrong.
_HOURS = 7200.0
_CLOCKS_DIFFER = 60.0
# Lists of ranks can be long.
_WIDTH = 4000
_CODE = re.compile(r"\b(E[A-Z0-9]\d{4})\b|\b(?:error[ _]code\D{0,5}|result ?= ?|ret\[|failed: )(\d{6})\b")


@dataclass(frozen=True, slots=True)
class Told:
    """What a rank's own lines say of it: the row of the table that decides, the line, and when that was."""

    row: Signature | None
    line: LogLine | None = None
    time: float | None = None
    exception: LogLine | None = None  # the last one, where no row fits

    @property
    def meaning(self) -> Meaning | None:
        return None if self.row is None else self.row.meaning

    @property
    def is_culprit(self) -> bool:
        """Whether it says outright that it failed by itself."""
        return self.row is not None and self.row.meaning is Meaning.CULPRIT and not self.row.is_soft


class Said(NamedTuple):
    """A line of a rank: as it is, without its colours, and what row fits it."""

    speaker: int
    line: LogLine
    text: str
    row: Signature | None


@dataclass(frozen=True)
class Scene:
    """A case, its ranks by number and by place, and what each has told."""

    case: Case

    @cached_property
    def ranks(self) -> Mapping[int, RankEvidence]:
        """The ranks in order, the scheduler first."""
        return {rank.rank: rank for rank in sorted(self.case.ranks, key=lambda rank: rank.rank)}

    @cached_property
    def by_place(self) -> Mapping[tuple[str, int], int]:
        """The rank on each device of each host."""
        return {
            (rank.host, rank.device): number for number, rank in self.ranks.items() if rank.device is not None
        }

    @cached_property
    def told(self) -> Mapping[int, Told]:
        """What each rank has told of itself."""
        found: dict[int, dict[str, list[Said]]] = {number: {} for number in self.ranks}
        for said in self.said:
            is_telling = said.line.source != RUN_LOG and (
                said.row is not None or tells_of_exceptions(said.text)
            )
            if is_telling and not _is_old(self.ranks[said.speaker], said.line):
                found[said.speaker].setdefault(said.line.source, []).append(said)
        return {number: _told(self.ranks[number], sources.values()) for number, sources in found.items()}

    @cached_property
    def is_alone(self) -> bool:
        """Whether the run has one rank only: whatever peer its log speaks of is none of the run's."""
        return len([number for number in self.ranks if number >= 0]) <= 1 >= self.case.world_size

    @cached_property
    def kills(self) -> Mapping[str, Sequence[OomKill]]:
        """The processes that each host's kernel has killed for want of memory."""
        return {name: oom_kills(host.kernel) for name, host in self.case.hosts.items()}

    @cached_property
    def faults(self) -> Mapping[str, Sequence[KernelFault]]:
        """The faults that each host's kernel tells of."""
        return {name: list(kernel_faults(host.kernel)) for name, host in self.case.hosts.items()}

    def host(self, name: str) -> HostEvidence:
        return self.case.hosts.get(name) or HostEvidence(name)

    def culprit(self, rank: int) -> Culprit:
        found = self.ranks[rank]
        return Culprit(found.host, rank, found.device)

    def at(self, address: str, device: str | int | None = None) -> Culprit | None:
        """Whom an address of a host or device means, with HCCL's device number where it is a host's."""
        address = address.strip()
        known = self.case.addresses.get(address)
        if known is None:
            known = (address, None) if address in self.by_host else None
        if known is None:
            return None
        host, number = known
        if number is None and device is not None and str(device).strip().isdecimal():
            number = int(device)
        return Culprit(host, None if number is None else self.by_place.get((host, number)), number)

    def by_rank(self, culprit: Culprit) -> int | None:
        """The rank that is meant, where it is known."""
        if culprit.rank is not None or culprit.device is None:
            return culprit.rank
        return self.by_place.get((culprit.host, culprit.device))

    def of_meaning(self, meaning: Meaning) -> list[int]:
        return [number for number, told in self.told.items() if told.meaning is meaning]

    @cached_property
    def victims(self) -> list[int]:
        """The ranks whose first error is that they have noticed another's end, or waited for it in vain."""
        return self.of_meaning(Meaning.VICTIM)

    @cached_property
    def said(self) -> list[Said]:
        """All lines of all ranks, with the rows of the table that fit them."""
        return [
            Said(number, line, bare(line.text, _WIDTH), signature_of(line.text))
            for number, rank in self.ranks.items()
            for line in lines_of(rank)
        ]

    @cached_property
    def by_host(self) -> Mapping[str, Sequence[RankEvidence]]:
        """The ranks of each host, and no rank of hosts that have none."""
        found: dict[str, list[RankEvidence]] = {name: [] for name in self.case.hosts}
        for rank in self.ranks.values():
            found.setdefault(rank.host, []).append(rank)
        return found

    @cached_property
    def silent(self) -> list[int]:
        """The ranks that had not ended, and say nothing that tells of a failure."""
        return [
            number
            for number, rank in self.ranks.items()
            if number >= 0 and self.told[number].row is None and rank.state in _UNENDED
        ]

    def proof(self, rank: int, line: LogLine | None) -> tuple[Proof, ...]:
        """The line as a proof; where there is none, how the rank ended."""
        where = self.ranks[rank]
        if line is not None:
            return (Proof(where.host, rank, line.source, line.text.strip()),)
        return (Proof(where.host, rank, "end", _end_text(where)),)


_UNENDED = frozenset(
    {RankState.STOPPED, RankState.RUNNING, RankState.STARTING, RankState.LOST, RankState.UNREACHABLE}
)


def lines_of(rank: RankEvidence) -> Sequence[LogLine]:
    """What there is of its logs: what was gathered, else what its supervisor has kept."""
    if rank.lines:
        return rank.lines[:_MOST_LINES]
    end = rank.end
    return [LogLine("worker", text) for text in (end.evidence or end.tail)] if end is not None else ()


def ended_by(rank: RankEvidence) -> int | None:
    """The signal that ended it, also where a shell tells of it by its exit code; None where none did."""
    end = rank.end
    if end is None or rank.state is not RankState.FAILED:
        return None
    if end.signal is not None:
        return end.signal
    code = (end.exit_code or 0) - _FROM_SHELL
    return code if code in _SIGNALS else None


_SIGNALS = frozenset(
    {
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
    }
)


def code_in(line: str) -> str:
    """The code of a line, as `EI0006` or `507015`; empty where it has none."""
    found = _CODE.search(line)
    return (found[1] or found[2]) if found is not None else ""


def _told(rank: RankEvidence, sources: Collection[Sequence[Said]]) -> Told:
    """Of its logs each tells its first error. Its own error counts before what it noticed of others, for of
    two logs nobody knows which was first; an error that may follow from another's failure comes last."""
    found = [told for telling in sources if (told := _first(rank, telling)).row is not None]
    ended = [_raised(telling) for telling in sources]
    return min(found, key=_order, default=Told(None, exception=next(filter(None, ended), None)))


def _raised(telling: Sequence[Said]) -> LogLine | None:
    text = last_exception(said.line.text for said in telling)
    return next((said.line for said in telling if text and said.line.text == text), None)


def _order(told: Told) -> tuple[int, int]:
    row, line = told.row, told.line
    assert row is not None and line is not None
    rank = {Meaning.CULPRIT: 4 if row.is_soft else 0, Meaning.BETWEEN: 2, Meaning.VICTIM: 3}[row.meaning]
    # Of two errors of its own the one of CANN lies deeper than what Python makes of it.
    return rank, 0 if line.source.startswith("plog") else 1


def _first(rank: RankEvidence, telling: Sequence[Said]) -> Told:
    lines = [said.line for said in (*telling[:60], *telling[60:][-4:])]
    row, text = telling_signature([line.text for line in lines])
    if row is None:
        return Told(None)
    line = next(line for line in lines if line.text.startswith(text))
    is_odd = line.time is None or (rank.time is not None and line.time > rank.time + _CLOCKS_DIFFER)
    return Told(row, line, rank.time if is_odd else line.time)


def _is_old(rank: RankEvidence, line: LogLine) -> bool:
    """Whether it was said so long before the end that the rank has got over it."""
    if line.time is None or rank.time is None or rank.state is not RankState.FAILED:
        return False
    return rank.time - line.time > _HOURS


def _end_text(rank: RankEvidence) -> str:
    """How a rank ended, in a few words that need no translation."""
    end = rank.end
    if end is None:
        return str(rank.state)
    if end.kind is EndKind.NOT_STARTED:
        return end.message
    number = ended_by(rank) if end.signal is None else end.signal
    if number is not None:
        return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"exit code {end.exit_code}" if end.exit_code is not None else str(end.kind.value)
