"""Tensor files, `.ckpt` and `.safetensors`: reading, writing, and where every byte of one will be.

The layout of a file is known before its first byte is written. The formats are described in
`orchestrator.formats.ckpt_index` and `orchestrator.formats.safetensors_index`. The safetensors library is not
used here but to test against: it does not tell where in a file a tensor lies, which is what reading parts of
shards on other hosts and writing each part at its place live on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.files.tensor_types import Array, Spec, Tensor, join_pieces
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import crc_matches, index_buffer, map_file
from orchestrator.formats.protobuf import bytes_field, varint, varint_field
from orchestrator.formats.safetensors_index import CODES, safetensors_entries
from orchestrator.formats.shard_sum import SummedFile, write_sum

__all__ = [
    "PIECE_LIMIT",
    "Checksum",
    "FileLayout",
    "Span",
    "lay_out_ckpt",
    "lay_out_safetensors",
    "read_ckpt",
    "read_safetensors",
    "write_ckpt",
    "write_safetensors",
]

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Checksum:
    """The crc32 of `length` bytes from `offset` on; it stands, four bytes little-endian, at each of `at`."""

    offset: int
    length: int
    at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileLayout:
    """`frames` are the format's own bytes, `(offset, bytes)`; `spans` each tensor's, `(offset, length)`.

    `checksums` are what the format wants to know of the tensors' bytes, when they are there.
    """

    size: int
    frames: tuple[tuple[int, bytes], ...]
    spans: tuple[tuple[Span, ...], ...]
    checksums: tuple[Checksum, ...] = ()


# MindSpore cuts parameters here, and its reader relies on no message being longer than 2 GB.
PIECE_LIMIT = 512 << 20
_LENGTH_WIRE = 2


def read_ckpt(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of the file, in its order, as views of the mapped file: values are read when used.

    CheckpointError: unreadable, truncated, foreign, or the file's own crc does not fit.
    """
    buffer = map_file(str(path))
    entries = list(index_buffer(buffer, str(path)))
    if not crc_matches(buffer):
        raise CheckpointError("the checksum does not fit: the file is damaged", where=str(path))
    # The views keep the mapping alive; it goes when the last tensor does.
    view = memoryview(buffer)
    return {
        entry["name"]: Tensor(tuple(entry["dims"]), entry["dtype"], join_pieces(view, entry["pieces"]))
        for entry in entries
    }


def write_ckpt(
    path: str | Path,
    tensors: Iterable[tuple[str, Array | Tensor | str]],
    *,
    piece_limit: int = PIECE_LIMIT,
    with_sum: bool = False,
) -> None:
    """Write a file that `mindspore.load_checkpoint` reads; atomic, mode 0600, one tensor in memory at a time.

    A tensor of more than `piece_limit` bytes is written in several pieces. `with_sum`: its checksum is put
    beside it, before it is there. CheckpointError: a type that has no name in the format, a name that occurs
    twice, a disk that is full.
    """
    seen = set[str]()
    with replacing(Path(path)) as file:
        output = SummedFile(file)
        write = output.write if with_sum else file.write
        for name, value in tensors:
            if name in seen:
                raise CheckpointError(f"{name} occurs twice", where=str(path))
            seen.add(name)
            tensor = value if isinstance(value, Tensor) else Tensor.of(value)
            data = memoryview(tensor.data)
            for start, stop in _cuts(tensor.nbytes, piece_limit):
                write(_frame(tensor.spec(name), stop - start))
                write(data[start:stop])
        if with_sum:
            write_sum(path, output.sum)


def lay_out_ckpt(specs: Sequence[Spec], piece_limit: int = PIECE_LIMIT) -> FileLayout:
    """Where `write_ckpt` puts tensors of these shapes."""
    frames: list[tuple[int, bytes]] = []
    spans: list[tuple[Span, ...]] = []
    position = 0
    for spec in specs:
        own = []
        for start, stop in _cuts(spec.nbytes, piece_limit):
            frame = _frame(spec, stop - start)
            frames.append((position, frame))
            own.append((position + len(frame), stop - start))
            position += len(frame) + stop - start
        spans.append(tuple(own))
    return FileLayout(position, tuple(frames), tuple(spans))


def _cuts(nbytes: int, limit: int) -> Iterator[tuple[int, int]]:
    step = max(limit - limit % 8, 8)
    for start in range(0, max(nbytes, 1), step):
        yield start, min(start + step, nbytes)


def _frame(spec: Spec, length: int) -> bytes:
    # The contents come last in the tensor and the tensor last in the value, so all else is a prefix.
    dims = (0,) if spec.dtype == "str" else spec.dims
    tensor = b"".join(varint_field(1, dim) for dim in dims) + bytes_field(2, spec.dtype.encode())
    tensor += varint(3 << 3 | _LENGTH_WIRE) + varint(length)
    value = bytes_field(1, spec.name.encode()) + varint(2 << 3 | _LENGTH_WIRE) + varint(len(tensor) + length)
    value += tensor
    return varint(1 << 3 | _LENGTH_WIRE) + varint(len(value) + length) + value


# MindSpore's own mark, which its reader and others look for.
_METADATA = {"format": "ms"}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor in the order of the data, as views of the mapped file.

    CheckpointError: unreadable, truncated, overlapping or gapped spans, a type MindSpore has no name for.
    """
    buffer = map_file(str(path))
    entries, _ = safetensors_entries(buffer, str(path))
    view = memoryview(buffer)
    return {
        entry["name"]: Tensor(tuple(entry["dims"]), entry["dtype"], join_pieces(view, entry["pieces"]))
        for entry in entries
    }


def write_safetensors(
    path: str | Path,
    tensors: Iterable[tuple[str, Array | Tensor]],
    *,
    metadata: Mapping[str, str] = _METADATA,
) -> None:
    """Write all tensors into one file; atomic, mode 0600. Arrays are not copied, but all must be at hand.

    CheckpointError: a text (the format has none), a name that occurs twice, a disk that is full.
    """
    ready = [(name, value if isinstance(value, Tensor) else Tensor.of(value)) for name, value in tensors]
    layout = lay_out_safetensors([tensor.spec(name) for name, tensor in ready], metadata)
    with replacing(Path(path)) as file:
        file.write(layout.frames[0][1])
        for _, tensor in ready:
            file.write(tensor.data)


def lay_out_safetensors(specs: Sequence[Spec], metadata: Mapping[str, str] = _METADATA) -> FileLayout:
    """Where `write_safetensors` puts tensors of these shapes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    lengths = []
    for spec in specs:
        if spec.dtype not in CODES:
            raise CheckpointError(f"{spec.name} is a text, which safetensors cannot hold")
        if spec.name in header:
            raise CheckpointError(f"{spec.name} cannot be stored: the name occurs twice or is reserved")
        span = [position, position + spec.nbytes]
        header[spec.name] = {"dtype": CODES[spec.dtype], "shape": list(spec.dims), "data_offsets": span}
        lengths.append((position, spec.nbytes))
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    spans = tuple(((start + offset, length),) for offset, length in lengths)
    return FileLayout(start + position, ((0, len(text).to_bytes(8, "little") + text),), spans)
