"""Several short sequences in one row, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["Packer"]

OPEN_ROWS = 64


class Packer:
    """Best fit: each sequence goes to the open row that it leaves least room in.

    A sequence is never cut apart here; it must not be longer than a row. Rows come out joined, unfilled.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._open: list[tuple[int, list[np.ndarray]]] = []  # (room left, what is in it)

    def add(self, sequence: np.ndarray) -> Iterator[np.ndarray]:
        """Take one sequence in; gives the row that had to be closed for it, if any."""
        fitting = [index for index, (room, _) in enumerate(self._open) if room >= len(sequence)]
        if fitting:
            best = min(fitting, key=lambda index: self._open[index][0])
            room, held = self._open[best]
            held.append(sequence)
            self._open[best] = (room - len(sequence), held)
            if room == len(sequence):
                yield self._close(best)
            return
        if len(self._open) == OPEN_ROWS:
            yield self._close(min(range(OPEN_ROWS), key=lambda index: self._open[index][0]))
        self._open.append((self.length - len(sequence), [sequence]))

    def rest(self) -> Iterator[np.ndarray]:
        """The rows that are still open."""
        while self._open:
            yield self._close(0)

    def _close(self, index: int) -> np.ndarray:
        _, held = self._open.pop(index)
        return np.concatenate(held)
