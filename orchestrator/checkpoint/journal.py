"""The journal of a collection: what is in place already, so that one that broke off goes on where it was.

The file `.<output>.journal` is only ever appended to: a line of JSON per header and per finished segment. Its
lock is what keeps two collections from writing one output; its last header names the process that holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import mapped_errors, open_own
from orchestrator.core.codec import DecodeError, NewerFormat, Stored, from_json, loads, parse, to_json
from orchestrator.core.errors import CheckpointError

__all__ = ["Done", "Header", "Journal", "Key"]

# Number of the copy in the plan, and first byte of the segment in it.
Key = tuple[int, int]
Identity = tuple[int, ...]
# The key of a segment, and the fields of `Done`.
_ROW: Any = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished segment: its size on the host, the crc32 of what was written for it, and whose it was."""

    nbytes: int
    crc: int
    rank: int


@dataclass(frozen=True)
class Header(Stored):
    """What is collected; `signature` stands for the whole plan, `files` are each rank's file's identity.

    `at` is epoch and step. It is a line among others, without a format's number as long as that is 1.
    """

    signature: str
    source: str
    at: tuple[int, int]
    files: Mapping[int, Identity]

    @property
    def epoch(self) -> int:
        return self.at[0]

    @property
    def step(self) -> int:
        return self.at[1]


class Journal:
    """The journal of one output, locked; `earlier` is the header of a collection that broke off, if any."""

    def __init__(self, output: Path) -> None:
        """Make the folder, take the lock. CheckpointError where another collection has it, with its pid."""
        self.path = output.with_name(f".{output.name}.journal")
        self.done: dict[Key, Done] = {}
        self.earlier: Header | None = None
        self._lock = threading.Lock()
        self._output = output
        with mapped_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._claim(output)
            self._read()
            self._append({"pid": os.getpid()})

    def _claim(self, output: Path) -> int:
        while True:
            descriptor = open_own(self.path, flags=os.O_APPEND)
            if self._is_ours(descriptor, output):
                return descriptor
            os.close(descriptor)

    def _is_ours(self, descriptor: int, output: Path) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The owner before may have removed the file between our open and our lock.
            return os.lstat(self.path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            return False
        except BlockingIOError:
            holder = _holder(_content(descriptor))
            os.close(descriptor)
            raise CheckpointError(
                f"is being written by another collection{holder}",
                where=str(output),
                remedy="wait for it, or name another output",
            ) from None

    def _read(self) -> None:
        for line in _content(self._descriptor).splitlines():
            try:
                if line.startswith(b"["):
                    read, start, *values = from_json(_ROW, parse(line))
                    self.done[read, start] = Done(*values)
                elif b'"signature"' in line:
                    self._read_header(loads(Header, line))
            except NewerFormat as error:
                self.close()
                raise CheckpointError(
                    str(error), where=str(self.path), remedy="go on with that version, or remove the journal"
                ) from error
            except DecodeError:
                continue  # the last line may have been cut off

    def _read_header(self, header: Header) -> None:
        if self.earlier is None or self.earlier.signature != header.signature:
            self.done.clear()
        self.earlier = header

    def begin(self, header: Header) -> bool:
        """Go on with what fits `header`, if there is any; all else is forgotten.

        So is what came from a file that has changed since.
        """
        earlier = self.earlier
        if earlier is None or earlier.signature != header.signature:
            self.done.clear()
        else:
            changed = {
                rank
                for rank, identity in header.files.items()
                if rank in earlier.files and earlier.files[rank] != identity
            }
            self.done = {key: done for key, done in self.done.items() if done.rank not in changed}
            header = replace(header, files={**earlier.files, **header.files})
        self.earlier = header
        os.ftruncate(self._descriptor, 0)
        rows = [[*key, done.nbytes, done.crc, done.rank] for key, done in self.done.items()]
        self._append({"pid": os.getpid()}, to_json(header), *rows)
        return bool(self.done)

    def add(self, key: Key, done: Done) -> None:
        """Note a segment as in place."""
        with self._lock:
            self.done[key] = done
            self._append([*key, done.nbytes, done.crc, done.rank])

    def forget(self, key: Key) -> None:
        """A segment that is not in place after all; it is noted again once it is."""
        del self.done[key]

    def _append(self, *rows: object) -> None:
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        with mapped_errors(self._output):
            os.write(self._descriptor, text.encode())

    def close(self) -> None:
        """Give the lock back; the journal stays."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """All is in place, or nothing is worth keeping. The lock is held until `close`."""
        self.path.unlink(missing_ok=True)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _holder(content: bytes) -> str:
    pids = re.findall(rb'^\{"pid":([0-9]{1,10})\}$', content, re.MULTILINE)
    return f", process {int(pids[-1])}" if pids else ""
