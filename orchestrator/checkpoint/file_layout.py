"""Where every byte of a checkpoint file will be, known before the first one is written."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Checksum", "FileLayout", "Piece"]

Piece = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Checksum:
    """The crc32 of `length` bytes from `offset` on; it stands, four bytes little-endian, at each of `at`."""

    offset: int
    length: int
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """`frames` are the format's own bytes, `(offset, bytes)`; `places` each tensor's, `(offset, length)`.

    `checksums` are what the format wants to know of the tensors' bytes, when they are there.
    """

    size: int
    frames: tuple[tuple[int, bytes], ...]
    places: tuple[tuple[Piece, ...], ...]
    checksums: tuple[Checksum, ...] = ()
