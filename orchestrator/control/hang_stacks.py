"""The stacks of a hang: those of all ranks, folded into groups that are alike, and whose are unlike others'.

Ranks that hang together wait in the same collective; who does not is why. Stacks are alike when the main
thread is in the same functions: addresses, threads, numbers of lines and folders differ without meaning. They
come as CPython's `faulthandler` and as py-spy write them, or, where neither could be had, from the kernel.
What a host says is a stranger's: all of it is bounded here, and shown with control characters made visible.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.core.host_answers import RankStacks
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.core.visible_text import visible

__all__ = ["Frame", "StackFold", "StackGroup", "frames_of", "suspects", "told_stacks"]

# `  File "/x/train.py", line 88 in load` (faulthandler), `    load (train.py:88)` (py-spy).
_FAULTHANDLER = re.compile(r'\s+File "(?P<file>[^"]{1,1000})", line (?P<line>\d{1,9}) in (?P<name>.{1,200})')
_PY_SPY = re.compile(r"\s+(?P<name>\S.{0,200}) \((?P<file>[^()]{1,1000}):(?P<line>\d{1,9})\)")
_THREAD = re.compile(r"(?:Current thread|Thread) (?:0x)?[0-9a-fA-F]+")
# The outermost functions of a program's main thread; those of other threads are `_bootstrap`.
_MAIN = frozenset({"<module>", "_run_code", "_run_module_as_main"})
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-fA-F]{8,16}\b|\d+")
# In what ranks wait for each other, by the names of functions and files.
_WAITS = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier|broadcast|hccl|gloo|mpi_|collective|p2p|"
    r"(?:^|_)(?:send|recv|receive)(?:$|_)",
    re.IGNORECASE,
)
# Where a program waits says less than who has it wait.
_LIBRARY = frozenset(
    {
        "threading.py",
        "selectors.py",
        "socket.py",
        "queue.py",
        "connection.py",
        "subprocess.py",
        "popen_fork.py",
    }
)
_MOST_LINES, _LONGEST_LINE, _LONGEST_WORD = 500, 400, 40
_MOST_FRAMES = 64  # the innermost
_MOST_TOLD = 1 << 22  # characters of the whole file
_LONGEST_DETAIL = 120


# The functions of a stack with their files, the innermost first.
_Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One call; `file` is its last name, `line` 0 where none is known (of the kernel)."""

    name: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f" ({self.file}:{self.line})" if self.file else ""
        return f"{self.name}{where}"


@dataclass(frozen=True, slots=True)
class StackGroup:
    """Ranks whose stacks are alike: of the first of them the main thread's frames, the innermost first."""

    ranks: tuple[int, ...]
    how: str
    frames: tuple[Frame, ...]
    text: str
    state: str

    @property
    def waits(self) -> bool:
        """Whether they wait for other ranks, as far as names tell."""
        return any(_WAITS.search(frame.name) or _WAITS.search(frame.file) for frame in self.frames)

    @property
    def where(self) -> str:
        """The frame that tells most, in a line."""
        own = [frame for frame in self.frames if frame.file not in _LIBRARY]
        frame = next(iter(own or self.frames), None)
        return "" if frame is None else visible(str(frame))[:_LONGEST_DETAIL]


def frames_of(stacks: RankStacks) -> tuple[Frame, ...]:
    """The frames of a rank's main thread, the innermost first; of one that tells none, the kernel's words."""
    threads = [thread for thread in _threads(_lines(stacks.text)) if thread]
    for thread in threads:
        if thread[-1].name in _MAIN:
            return thread[:_MOST_FRAMES]
    if threads:
        return threads[-1][:_MOST_FRAMES]
    if stacks.how != "kernel":
        return ()
    words = (_NUMBERS.sub("#", line.strip()) for line in _lines(stacks.state or stacks.text))
    return tuple(Frame(line) for line in words if line)[:_MOST_FRAMES]


class StackFold:
    """Groups of ranks with the same stacks, made as these come. Of a group one text is kept, while there is
    room: what a thousand hosts tell is not."""

    def __init__(self) -> None:
        self._ranks: dict[_Key, list[int]] = {}
        self._first: dict[_Key, tuple[tuple[Frame, ...], RankStacks]] = {}
        self._room = _MOST_TOLD

    def add(self, rank: int, stacks: RankStacks) -> None:
        frames = frames_of(stacks)
        key = _key_of(frames)
        ranks = self._ranks.setdefault(key, [])
        ranks.append(rank)
        if len(ranks) == 1:
            text, state = ("\n".join(_lines(each)) for each in (stacks.text, stacks.state))
            self._room -= len(text) + len(state)
            kept = (
                RankStacks(stacks.how[:_LONGEST_WORD], text, state)
                if self._room > 0
                else RankStacks(stacks.how[:_LONGEST_WORD])
            )
            self._first[key] = (frames, kept)

    def is_like(self, other: StackFold) -> bool:
        """Whether every rank is in the same functions as there; of who waits for others it is in which call,
        for within it many look again and again whether they have come."""
        return self._places() == other._places()

    def _places(self) -> dict[int, _Key]:
        """Where each rank is."""
        return {rank: _waited_in(key) for key, ranks in self._ranks.items() for rank in ranks}

    def tells_of(self, ranks: Collection[int]) -> bool:
        """Whether it says of just these ranks where they are, of one at least by its program's own word."""
        known = [rank for key, those in self._ranks.items() if key for rank in those]
        is_told = any(first.how != "kernel" for frames, first in self._first.values() if frames)
        return is_told and len(known) == len(ranks) and set(known) == set(ranks)

    def groups(self) -> list[StackGroup]:
        """The largest first, of equal ones that with the lowest rank."""
        found = []
        for key, ranks in self._ranks.items():
            frames, first = self._first[key]
            found.append(StackGroup(tuple(sorted(ranks)), first.how, frames, first.text, first.state))
        return sorted(found, key=lambda group: (-len(group.ranks), group.ranks[0]))


def suspects(groups: Sequence[StackGroup]) -> tuple[int, ...]:
    """Ranks that are unlike the others: outside of what the others wait in, else a minority.

    Where in the same call they wait is no difference: within it each looks again and again whether the others
    have come. Empty where all are alike, or where nobody can say who is unlike whom. Of a rank that could not
    tell its stacks (`kernel`) it is not known where it is: it is never unlike others that could.
    """
    known = [group for group in groups if group.how != "kernel" and group.frames]
    known = known or [group for group in groups if group.frames]
    if len(known) < 2:
        return ()
    outside = [group for group in known if not group.waits]
    if outside and len(outside) < len(known):
        return _ranks_of(outside)
    places: dict[_Key, list[int]] = {}
    for group in known:
        places.setdefault(_waited_in(_key_of(group.frames)), []).extend(group.ranks)
    alike = max(places.values(), key=len)
    others = [rank for ranks in places.values() if ranks is not alike for rank in ranks]
    return tuple(sorted(others)) if len(others) < len(alike) else ()


def told_stacks(groups: Sequence[StackGroup], silent: Iterable[str], when: str) -> str:
    """The text that is kept: a paragraph for each group, and the hosts that told nothing; bounded."""
    parts = [f"Stacks of the ranks at {when}: those that are alike once.\n"]
    if names := sorted(silent):
        parts.append(f"No stacks came from {visible(', '.join(names))[:_LONGEST_LINE]}.\n")
    room = _MOST_TOLD
    for group in groups:
        count = "1 rank" if len(group.ranks) == 1 else f"{len(group.ranks)} ranks"
        lines = [f"{count}: {fold_numbers(group.ranks)} (from {visible(group.how)})", ""]
        lines += [visible(line) for line in (*_lines(group.text), *_lines(group.state))]
        part = "\n" + "\n".join(lines).rstrip() + "\n"
        if len(part) > room:
            parts.append("\nThere are more, for which there is no room here.\n")
            break
        room -= len(part)
        parts.append(part)
    return "".join(parts)


def _key_of(frames: Iterable[Frame]) -> _Key:
    return tuple((frame.name, frame.file) for frame in frames)


def _waited_in(key: _Key) -> _Key:
    """Of who waits the frames down to the outermost call in which it does."""
    waits = [number for number, frame in enumerate(key) if any(map(_WAITS.search, frame))]
    return key[waits[-1] :] if waits else key


def _lines(text: str) -> list[str]:
    return [line[:_LONGEST_LINE] for line in text.splitlines()[:_MOST_LINES]]


def _threads(lines: Iterable[str]) -> Iterator[tuple[Frame, ...]]:
    """The frames of each thread, in the order in which they were told."""
    frames: list[Frame] = []
    for line in lines:
        found = _FAULTHANDLER.match(line) or _PY_SPY.match(line)
        if found:
            name, file = found["name"].strip(), found["file"].rpartition("/")[2]
            frames.append(Frame(name, file, int(found["line"])))
        elif _THREAD.match(line):
            yield tuple(frames)
            frames = []
    yield tuple(frames)


def _ranks_of(groups: Iterable[StackGroup]) -> tuple[int, ...]:
    return tuple(sorted(rank for group in groups for rank in group.ranks))
