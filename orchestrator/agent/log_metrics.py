"""Metrics of a worker that writes none: read from what it logs, and put where a bundled worker's are.

MindFormers logs to standard output and, the same, to `info.log` in a folder of its rank. The worker's output
is read; the file only where lines of MindFormers are in it and none in the output. Who was chosen stays: no
line counts twice.

At one look so much is read of a log, and the rest at the next ones. Of a log that grows faster than that the
middle is passed over: what was in it nobody knows, and nothing is put in its place. That it was is in the
metrics (`unseen_bytes`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Optional

from orchestrator.agent.mindformers_lines import LOGGED, MindFormersLines, is_told_by_mindformers
from orchestrator.core.paths import AttemptDir
from orchestrator.core.records import Manifest, Phase, WorkerSpec
from orchestrator.core.safe_open import open_safely, read_safely

__all__ = ["LogMetrics", "LogTail", "tokens_of_sample"]

_PER_LOOK = 1 << 20
_MOST_BEHIND = 16 << 20
_LONGEST_LINE = 1 << 16
# Of lines that may tell something so many are taken at a look, and of one that has ended the last so many.
_LINES, _LAST_LINES = 1000, 10_000
_LARGEST_YAML = 1 << 20
# Where MindFormers logs, below the folder of the attempt or that of the run, if it was not told where.
_FILE = ("log", "info.log")
_LENGTH = re.compile(r"^\s*(?:- )?seq_length:[ \t]*(.*?)[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_ANCHORED = re.compile(r"&(\w+) +(\d+)", re.ASCII)


class LogTail:
    """Reads what a log gains: whole lines, those that may be of MindFormers' logger.

    A file that was put in its place follows when it is at its end. Below the folder `below` no link is
    followed. What it has at the beginning is read from `start` on.
    """

    def __init__(self, path: Path, below: Path, start: int = 0) -> None:
        self._path, self._below, self._start = path, below, start
        self._file: Optional[BinaryIO] = None
        self._rest = b""
        self._is_cut = False  # the next line has lost its beginning
        self._waiting: List[bytes] = []
        self.unseen = 0
        """Bytes that were passed over, in all."""

    def lines(self, *, to_end: bool = False) -> List[str]:
        """What has come since the last time, at most so much as is read at a look, or else to its end."""
        if to_end or not self._waiting:
            self._take(_MOST_BEHIND if to_end else _PER_LOOK)
        if to_end:
            passed_over, found = self._waiting[:-_LAST_LINES], self._waiting[-_LAST_LINES:]
            self.unseen += sum(len(line) + 1 for line in passed_over)
            self._waiting = []
        else:
            found, self._waiting = self._waiting[:_LINES], self._waiting[_LINES:]
        return [line.decode("utf-8", "replace") for line in found]

    def _take(self, count: int) -> None:
        try:
            data = self._read(count)
        except OSError:
            self.close()
            return
        whole, separator, rest = (self._rest + data).rpartition(b"\n")
        found = whole.split(b"\n") if separator else []
        if found and self._is_cut:
            found, self._is_cut = found[1:], False
        if len(rest) > _LONGEST_LINE:
            rest, self._is_cut = b"", True
        self._rest = rest
        self._waiting += (line for line in found if LOGGED in line and len(line) <= _LONGEST_LINE)

    def close(self) -> None:
        """It goes on where it is, should it be read again."""
        if self._file is not None:
            self._start = self._file.tell()
            self._file.close()
        self._file, self._rest, self._is_cut = None, b"", False

    def _read(self, count: int) -> bytes:
        if self._file is None and not self._open():
            return b""
        assert self._file is not None
        size, place = os.fstat(self._file.fileno()).st_size, self._file.tell()
        if size < place:  # emptied, and written anew
            place, self._rest, self._is_cut = 0, b"", False
            self._file.seek(0)
        if size - place > _MOST_BEHIND:
            self.unseen += size - place - _PER_LOOK
            self._file.seek(size - _PER_LOOK)
            self._rest, self._is_cut = b"", True
        data = self._file.read(count)
        if not data and self._is_replaced():
            self.close()
            self._start = 0
            return self._read(count) if self._open() else b""
        return data

    def _open(self) -> bool:
        if not self._path.exists():
            return False
        self._file = os.fdopen(open_safely(self._path, self._below), "rb")
        self._file.seek(min(self._start, os.fstat(self._file.fileno()).st_size))
        return True

    def _is_replaced(self) -> bool:
        """Whether another file has its name, as where logs rotate."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        try:
            now = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        return (own.st_dev, own.st_ino) != (now.st_dev, now.st_ino)


class LogMetrics:
    """Of one worker that is MindFormers; made when it is started.

    `run` is the run's directory, in which it works.
    """

    def __init__(
        self,
        attempt: AttemptDir,
        run: Path,
        spec: WorkerSpec,
        manifest: Manifest,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._path = attempt.metrics(spec.rank)
        self._parser = MindFormersLines(
            spec.rank, manifest.world_size, clock(), tokens_of_sample(attempt.root / "mindformers.yaml")
        )
        log = attempt.log(spec.label)
        self._output = LogTail(log, log.parent, _size(log))
        name, file = _FILE
        places = ((run / "output" / name, run), (attempt.root / name, attempt.root))
        # It logs to the first until it has been told of the second: each line is in one of them. In a folder
        # of the run, attempts before may have written.
        self._files = [
            LogTail(folder / spec.label / file, below, _size(folder / spec.label / file))
            for folder, below in places
        ]
        # What is read, once that is known.
        self._chosen: List[LogTail] = []
        # What the files said when the output had said nothing yet.
        self._waiting: Optional[List[str]] = None
        self._phase = ""
        self._unseen = 0

    def look(self, *, to_end: bool = False) -> List[Dict[str, Any]]:
        """Put what is new into the metrics. What cannot be written there, for want of room say, is returned.

        `to_end`: it has ended, and all that it has logged is read.
        """
        found = self._parser.feed(self._lines(to_end), self._clock())
        self._note_phases(found)
        if not found:
            return []
        text = "".join(json.dumps(line) + "\n" for line in found)
        try:
            handle = open_safely(
                self._path, self._path.parent, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=0o644
            )
            with os.fdopen(handle, "ab") as file:
                file.write(text.encode())
        except OSError:
            return found
        return []

    def close(self) -> None:
        for tail in (self._output, *self._files):
            tail.close()

    def _lines(self, to_end: bool) -> List[str]:
        if self._chosen:
            return _all_of(self._chosen, to_end)
        lines = self._output.lines(to_end=to_end)
        if any(map(is_told_by_mindformers, lines)):
            self._choose([self._output])
            return lines
        said = _all_of(self._files, to_end)
        if self._waiting is None and any(map(is_told_by_mindformers, said)):
            self._waiting, said = said, []
            if not to_end:
                return []
        if self._waiting is None:
            return []
        # MindFormers writes a line to its output first: by now it would be there.
        said = self._waiting + said
        self._choose(self._files)
        return said

    def _choose(self, tails: List[LogTail]) -> None:
        self._chosen, self._waiting = tails, None
        for other in (self._output, *self._files):
            if other not in tails:
                other.close()

    def _note_phases(self, found: List[Dict[str, Any]]) -> None:
        """Say what was passed over, beside the phase that was the last one known."""
        self._phase = next((line["phase"] for line in reversed(found) if "phase" in line), self._phase)
        unseen = sum(tail.unseen for tail in self._chosen)
        if unseen > self._unseen:
            more, self._unseen = unseen - self._unseen, unseen
            where = self._phase or str(Phase.INIT)
            found.append({"phase": where, "unseen_bytes": more, "time": round(self._clock(), 3)})


def _all_of(tails: List[LogTail], to_end: bool) -> List[str]:
    return [line for tail in tails for line in tail.lines(to_end=to_end)]


def tokens_of_sample(config: Path) -> Optional[int]:
    """`seq_length` of a run's YAML, where all that it says of it is one number; else nobody knows."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        said = set(_LENGTH.findall(read_safely(config, config.parent, _LARGEST_YAML).decode()))
        anchors = {found[0]: (f"*{found[1]}", found[2]) for found in map(_ANCHORED.fullmatch, said) if found}
        aliases = dict(anchors.values())
        numbers = {anchors[each][1] if each in anchors else aliases.get(each, each) for each in said}
        text = numbers.pop() if len(numbers) == 1 else ""
        return int(text) if re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII) else None
    return None


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
