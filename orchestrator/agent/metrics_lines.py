"""The lines of a worker's metrics, as they come: what is new in its file, and what a line says.

A worker, or a program of the user's, may write there what it likes: a line of another form says nothing, and
of what says more than is asked for the newest counts. `core.records.Phase` has the form of lines that tell of
a phase; a line with a step tells of progress.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from orchestrator.core.codec import DecodeError, parse
from orchestrator.core.record_class import dataclass
from orchestrator.core.records import Phase
from orchestrator.core.safe_open import open_safely

__all__ = ["MetricsReader", "Said", "said_in"]

# Of so much at most is read at one look; of more, the end.
_MOST_BYTES = 1 << 16
_MOST_LINES = 512
_DEEPEST = 4
_LARGEST = 10**15
_MOST_WORDS, _LONGEST_WORD = 16, 64
_LONGEST_STEP = 1e6  # of seconds
_PHASES = {str(phase): phase for phase in Phase}


class MetricsReader:
    """Reads what a file of JSON lines has gained since the last look."""

    def __init__(self) -> None:
        # Of the file when it was last read: while it is the same, nothing is new.
        self._seen: Tuple[int, ...] = ()
        self._offset = 0

    def news(self, path: Path) -> List[Dict[str, Any]]:
        """The objects that have come, in their order; none where there is no such file.

        A last line without its end counts once it is whole.
        """
        try:
            found = os.stat(path)
        except OSError:
            return []
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen == self._seen:
            return []
        is_same = self._seen[:1] == seen[:1] and found.st_size >= self._offset
        self._offset = self._offset if is_same else 0
        self._seen = seen
        try:
            data = self._read(path)
        except OSError:
            return []
        return _objects(data)

    def _read(self, path: Path) -> bytes:
        """What is new, as whole lines."""
        with os.fdopen(open_safely(path, path.parent), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = max(self._offset, size - _MOST_BYTES)
            file.seek(start)
            data = file.read(_MOST_BYTES)
        if start > self._offset:  # in the middle of a line
            data = data.partition(b"\n")[2]
            start = size - len(data)
        whole, _, rest = data.rpartition(b"\n")
        if rest and _objects(rest):
            whole, rest = data, b""
        self._offset = start + len(data) - len(rest)
        return whole


def _objects(data: bytes) -> List[Dict[str, Any]]:
    found = []
    for line in data.splitlines()[-_MOST_LINES:]:
        try:
            value = parse(line)
        except DecodeError:
            continue
        if isinstance(value, dict):
            found.append({name: each for name, each in value.items() if _is_flat(each, _DEEPEST)})
    return found


def _is_flat(value: Any, depth: int) -> bool:
    """Whether no value lies deeper: what a program writes there goes through others' hands."""
    if not isinstance(value, (list, dict)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)


@dataclass(frozen=True)
class Said:
    """What a line says: of a phase, or of a step (`is_progress`), or of neither.

    In seconds: `compute`, and of a checkpoint that is whole `stall` and `write`, see `core.records.Phase`.
    """

    phase: Optional[Phase] = None
    step: Optional[int] = None
    time: Optional[float] = None
    can: Tuple[str, ...] = ()
    saved: Optional[int] = None
    stall: Optional[float] = None
    write: Optional[float] = None
    compute: Optional[float] = None
    is_progress: bool = False


def said_in(line: Mapping[str, Any]) -> Said:
    """What of a line can be counted with.

    A phase that is not known is none: beside a step such a word of a user's program means something else.
    Only in the phase of steps a line may tell of both.
    """
    word = line.get("phase")
    phase = _PHASES.get(word) if isinstance(word, str) else None
    step = _count(line.get("step"))
    saved = _count(line.get("saved")) if phase is not None else None
    tells_step = "step" in line and phase in (None, Phase.STEP)
    return Said(
        phase=phase,
        step=step,
        time=_number(line.get("time"), _LARGEST),
        can=_words(line.get("can")),
        saved=saved,
        stall=_number(line.get("stall_s"), _LONGEST_STEP) if saved is not None else None,
        write=_number(line.get("write_s"), _LONGEST_STEP) if saved is not None else None,
        compute=_number(line.get("compute_s"), _LONGEST_STEP) if tells_step else None,
        is_progress=tells_step or not ("phase" in line or "can" in line),
    )


def _count(value: Any) -> Optional[int]:
    return value if type(value) is int and 0 <= value < _LARGEST else None


def _number(value: Any, limit: float) -> Optional[float]:
    is_number = type(value) in (int, float) and 0 <= value < limit
    return float(value) if is_number else None


def _words(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    words = (word for word in value[:_MOST_WORDS] if isinstance(word, str))
    return tuple(word for word in words if 0 < len(word) <= _LONGEST_WORD and word.isidentifier())
