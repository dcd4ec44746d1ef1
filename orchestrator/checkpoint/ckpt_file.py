"""MindSpore's `.ckpt` files; the format is described in `orchestrator.agent.ckpt_index`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.agent.ckpt_index import crc_matches, index_buffer, map_file
from orchestrator.agent.wire import bytes_field, varint, varint_field
from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.tensor import Array, Spec, Tensor, join_pieces
from orchestrator.errors import CheckpointError

__all__ = ["PIECE_LIMIT", "lay_out_ckpt", "read_ckpt", "write_ckpt"]

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
) -> None:
    """Write a file that `mindspore.load_checkpoint` reads; atomic, mode 0600, one tensor in memory at a time.

    A tensor of more than `piece_limit` bytes is written in several pieces. CheckpointError: a type that has
    no name in the format, a name that occurs twice, a disk that is full.
    """
    seen = set[str]()
    with replacing(Path(path)) as file:
        for name, value in tensors:
            if name in seen:
                raise CheckpointError(f"{name} occurs twice", where=str(path))
            seen.add(name)
            tensor = value if isinstance(value, Tensor) else Tensor.of(value)
            data = memoryview(tensor.data)
            for start, stop in _cuts(tensor.nbytes, piece_limit):
                file.write(_frame(tensor.spec(name), stop - start))
                file.write(data[start:stop])


def lay_out_ckpt(specs: Sequence[Spec], piece_limit: int = PIECE_LIMIT) -> FileLayout:
    """Where `write_ckpt` puts tensors of these shapes."""
    frames: list[tuple[int, bytes]] = []
    places: list[tuple[tuple[int, int], ...]] = []
    position = 0
    for spec in specs:
        place = []
        for start, stop in _cuts(spec.nbytes, piece_limit):
            frame = _frame(spec, stop - start)
            frames.append((position, frame))
            place.append((position + len(frame), stop - start))
            position += len(frame) + stop - start
        places.append(tuple(place))
    return FileLayout(position, tuple(frames), tuple(places))


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
