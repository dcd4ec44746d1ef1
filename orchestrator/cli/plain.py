"""A run as plain lines, for logs and pipes: one line per change, one per few seconds of progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from orchestrator.cli.progress import Progress, duration, progress_of
from orchestrator.monitor.record import RunRecord

__all__ = ["PlainReport", "progress_line"]

_EVERY = 5.0


def progress_line(progress: Progress) -> str:
    """`step 40/400  loss 3.214  1,204 tokens/s  12s left`"""
    total = f"/{progress.total_steps}" if progress.total_steps else ""
    parts = [f"step {progress.step}{total}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_s is not None:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.remaining is not None:
        parts.append(f"{duration(progress.remaining)} left")
    return "  ".join(parts)


class PlainReport:
    """Writes what has changed since the last call."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._said: dict[str, str] = {}
        self._last_progress = (0, -_EVERY)

    def show(self, record: RunRecord) -> None:
        self._say("run", f"{record.run_id}: {record.phase}")
        for name, view in record.hosts.items():
            if view.error or name in self._said:
                self._say(name, f"{name}: {view.error or 'reachable again'}")
        progress = progress_of(record)
        now = self._clock()
        if progress is None or progress.step == self._last_progress[0]:
            return
        if now - self._last_progress[1] >= _EVERY or record.state.is_terminal:
            self._last_progress = (progress.step, now)
            self._write(progress_line(progress))

    def _say(self, topic: str, text: str) -> None:
        if self._said.get(topic) != text:
            self._said[topic] = text
            self._write(text)

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()
