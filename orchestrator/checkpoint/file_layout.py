"""Where every byte of a checkpoint file will be, known before the first one is written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FileLayout", "Piece"]

Piece = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """`frames` are the format's own bytes, `(offset, bytes)`; `places` each tensor's, `(offset, length)`."""

    size: int
    frames: tuple[tuple[int, bytes], ...]
    places: tuple[tuple[Piece, ...], ...]
