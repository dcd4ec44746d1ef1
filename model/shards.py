"""Rows into several MindRecord files, each written by a process of its own."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.encoding import as_row
from model.pool import processes, result_of

if TYPE_CHECKING:
    from model.mindrecord import RowWriter

__all__ = ["Shards"]

# How far the encoders may be ahead of a writer: it also takes seconds to start.
BLOCKS_AHEAD = 32


class Shards:
    """The files of one data set. Blocks of rows go to them in turn, so that they come out equally long."""

    def __init__(self, paths: Sequence[Path], length: int, eos: int, workers: int) -> None:
        self._row = (length, eos)
        self._stack = contextlib.ExitStack()
        self._writers: list[tuple[Executor, str]] = []
        for path in paths:
            executor = self._stack.enter_context(processes(min(1, workers), _nothing, ()))
            self._writers.append((executor, str(path)))
        self._turns = itertools.cycle(self._writers)
        # At once, because MindSpore takes seconds to import.
        self._waiting: deque[Future[Any]] = deque(
            executor.submit(_open, path) for executor, path in self._writers
        )

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exception: object) -> None:
        for executor, _ in self._writers:
            executor.shutdown(wait=False, cancel_futures=True)
        self._stack.close()

    def write(self, sequences: Sequence[np.ndarray]) -> None:
        """Append rows to the file whose turn it is; waits where the writers do not keep up."""
        executor, path = next(self._turns)
        # Unfilled, as they are a fraction of the rows on their way to the other process.
        flat, lengths = np.concatenate(sequences), [len(sequence) for sequence in sequences]
        self._waiting.append(executor.submit(_write, path, flat, lengths, self._row))
        while len(self._waiting) > BLOCKS_AHEAD * len(self._writers):
            result_of(self._waiting.popleft())

    def commit(self) -> list[int]:
        """Finish every file; gives their numbers of rows."""
        ends = [executor.submit(_commit, path) for executor, path in self._writers]
        for future in self._waiting:
            result_of(future)
        return [result_of(future) for future in ends]


_writers: dict[str, RowWriter] = {}  # of this process


def _nothing() -> None:
    pass


def _open(path: str) -> None:
    # Late: this module is also imported where nothing is written, and MindSpore takes seconds.
    from model.mindrecord import RowWriter

    _writers[path] = RowWriter(Path(path))


def _write(path: str, flat: np.ndarray, lengths: list[int], row: tuple[int, int]) -> None:
    sequences = np.split(flat, np.cumsum(lengths)[:-1])
    _writers[path].write(np.stack([as_row(sequence, *row) for sequence in sequences]))


def _commit(path: str) -> int:
    writer = _writers.pop(path)
    if writer.rows:
        writer.commit()
    return writer.rows
