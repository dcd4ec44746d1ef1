"""The saves of one rank: while the steps wait, or behind them, from a snapshot in the host's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from model.phases import Phase, Phases, Saved
from model.weights.checkpoint import Progress, write_shard
from model.weights.snapshot import Snapshot
from orchestrator.checkpoint.files.tensor_types import Tensor

__all__ = ["Saver", "ShardFolder"]

_IN_FLIGHT = 1


@dataclass(frozen=True, slots=True)
class ShardFolder:
    """Where the shards of a rank go, how their names begin, and how many stay."""

    folder: Path
    prefix: str
    rank: int
    keep: int


class Saver:
    """Writes shards, and says in the metrics when one is whole.

    With a `snapshot` the steps wait only until it is taken; it is written by a thread, one at a time: a save
    waits for the one before. What the thread fails with is raised by `check`, or by whatever comes next. The
    device is read by who calls `save`, and by nobody else.
    """

    def __init__(
        self,
        home: ShardFolder,
        phases: Phases,
        snapshot: Snapshot | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[..., Path] = write_shard,
    ) -> None:
        self.last: Saved | None = None  # whole
        self.stall: float | None = None  # of the last save
        self._home, self._phases, self._snapshot = home, phases, snapshot
        self._clock, self._write_shard = clock, write
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._busy: Future[object] | None = self._thread.submit(snapshot.touch) if snapshot else None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written; where something failed already, its own failure says no more."""
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
        finally:
            self._thread.shutdown()

    def save(self, contents: Iterable[tuple[str, Tensor]], progress: Progress, *, is_last: bool) -> None:
        """Save what `contents` give, and wait until it is whole where no step follows (`is_last`).

        Raises CheckpointError: this save, or the one before, cannot be written.
        """
        begin = self._clock()
        self._phases.enter(Phase.SAVE, step=progress.step)
        if self._snapshot is None:
            self._write(contents, progress, begin, None)
        else:
            self.wait()
            taken = self._snapshot.take(contents)
            self.stall = self._clock() - begin
            write = partial(self._write, taken, progress, begin, self.stall)
            self._busy = self._thread.submit(write if is_last else lambda: self._phases.tell(write()))
            if is_last:
                self.wait()
        is_whole = is_last or self._snapshot is None
        self._phases.enter(Phase.STEP, saved=self.last if is_whole else None)

    def check(self) -> None:
        """Raise what the last save has failed with, if it is known by now."""
        if self._busy is not None and self._busy.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises what that failed with, once."""
        busy, self._busy = self._busy, None
        if busy is not None:
            busy.result()

    def settle(self) -> None:
        """As `wait`, for who reports another failure."""
        with suppress(Exception):
            self.wait()

    def _write(
        self,
        contents: Iterable[tuple[str, Tensor]],
        progress: Progress,
        begin: float,
        stall: float | None,
    ) -> Saved:
        home = self._home
        unfinished = 0 if self._snapshot is None else _IN_FLIGHT
        self._write_shard(
            home.folder, home.prefix, home.rank, contents, progress, home.keep, unfinished=unfinished
        )
        write = self._clock() - begin
        self.stall = write if stall is None else stall
        self.last = Saved(progress.step, self.stall, write)
        return self.last
