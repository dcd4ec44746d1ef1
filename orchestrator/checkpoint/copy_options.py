"""The options of a copy, the reports on its way, and the limit of its rate."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SEGMENT", "CopyOptions", "FreeSpace", "RateLimit", "Report"]

# Large enough for a disk and a wire, small enough that a few per stream take little memory.
SEGMENT = 4 << 20
FreeSpace = Callable[[Path], int]


def _free_space(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How bytes are moved.

    `rate` is bytes a second at most, for all streams together. `segment_bytes` are read, checked and written
    as one, `batch_bytes` asked for at once, by `streams_per_host` streams. `durable`: an output under its
    final name is on the disk and survives a power cut. `via_hosts`: files of hosts are read by these hosts,
    also where they are visible here. `free` tells the bytes that may be written to the disk of a folder.
    """

    rate: int | None = None
    streams_per_host: int = 2
    segment_bytes: int = SEGMENT
    batch_bytes: int = 64 << 20
    durable: bool = True
    via_hosts: bool = False
    free: FreeSpace = _free_space


def _silent(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Report:
    """Whom a copy tells how far it is.

    `progress` gets `(bytes done, bytes in all)`, from many threads but never twice at once; `say` what a
    person should know meanwhile.
    """

    progress: Callable[[int, int], None] = _silent
    say: Callable[[str], None] = _silent


class RateLimit:
    """So many bytes a second, for all streams together; None is no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int, stop: threading.Event) -> None:
        """Return when so many bytes more are in order, or at once when `stop` is set."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + nbytes / self._rate
            pause = self._free_at - now
        stop.wait(pause)
