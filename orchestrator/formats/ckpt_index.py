"""What a MindSpore `.ckpt` file holds and where, without reading the tensors.

Format (MindSpore's checkpoint.proto): a file is a run of `value = 1 {tag = 1, tensor = 2 {dims = 1,
tensor_type = 2, tensor_content = 3}}`. A parameter above 512 MB is several values in a row with one tag and
the full dims each, whose contents are to be joined. A scalar has no dims, in older files dims [0]. The file
may end in `crc_num` and ten big-endian bytes: the crc32 of everything before.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from typing import Any

from orchestrator.core.errors import CheckpointError
from orchestrator.formats import protobuf as wire

__all__ = ["ITEM_SIZES", "crc_matches", "has_crc", "index_buffer", "index_ckpt", "map_file"]

ITEM_SIZES = {
    "Bool": 1,
    "Int8": 1,
    "UInt8": 1,
    "Int16": 2,
    "UInt16": 2,
    "Float16": 2,
    "BFloat16": 2,
    "Int32": 4,
    "UInt32": 4,
    "Float32": 4,
    "Int64": 8,
    "UInt64": 8,
    "Float64": 8,
    "str": 4,
}

TRAILER = b"crc_num"
TRAILER_SIZE = 17
# NumPy's own limit of axes, and a bound that keeps a damaged dimension from becoming an allocation.
_MOST_AXES = 32
_MOST_ELEMENTS = 1 << 48
# Looking at a value's header maps 64 KB around it. After so many the pages are given back: memory is not to
# grow with the number of tensors.
_KEPT = 256
# A layout that is larger is not kept: it is that of a file of very many, very small tensors.
_LARGEST_LAYOUT = 4 << 20

Entry = dict[str, Any]


def index_ckpt(path: str) -> Iterator[Entry]:
    """The tensors of a file in its order: `{"name", "dims", "dtype", "pieces": [[offset, length], ...]}`.

    A scalar has dims []. CheckpointError: unreadable, truncated, foreign, damaged, or of an unknown type;
    what came before it is not to be relied on. One by one: all of a large file at once are many megabytes.
    """
    with map_file(path) as buffer:
        yield from index_buffer(buffer, path)


def map_file(path: str) -> mmap.mmap:
    """The whole file, mapped for reading; CheckpointError where it cannot be, or is empty."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError("the file is empty", where=path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error


def index_buffer(buffer: wire.Buffer, path: str) -> Iterator[Entry]:
    """Like `index_ckpt`, of bytes already at hand; `path` is for the messages."""
    known = _Layout.last
    if known.is_of(buffer):
        yield from ({**entry, "pieces": list(entry["pieces"])} for entry in known.entries)
        return
    try:
        yield from _join_pieces(buffer, _Layout(len(buffer)))
    except (wire.WireError, _BadValue) as error:
        raise CheckpointError(
            f"is damaged or no MindSpore checkpoint: {error}",
            where=path,
            remedy="copy or save it again",
        ) from error


class _BadValue(ValueError):
    pass


class _Layout:
    """The layout of a file that was read: its size, and all bytes before, between and behind the contents.

    Ranks that hold slices of the same shapes write files of one layout. Where these bytes are the same, the
    file need not be understood again, which takes thirty times as long.
    """

    last: _Layout

    def __init__(self, size: int) -> None:
        self.entries: list[Entry] = []
        self._size = size
        self._frames: list[tuple[int, bytes]] = []
        self._position = 0

    def add(self, buffer: wire.Buffer, content: int, length: int) -> None:
        """What lies between the content before and this one."""
        self._frames.append((self._position, bytes(buffer[self._position : content])))
        self._position = content + length

    def close(self, buffer: wire.Buffer) -> None:
        """All of the file has been read: from now on others are compared with it."""
        self._frames.append((self._position, bytes(buffer[self._position :])))
        if sum(len(frame) for _, frame in self._frames) <= _LARGEST_LAYOUT:
            _Layout.last = self

    def is_of(self, buffer: wire.Buffer) -> bool:
        """Whether this is the layout of the file, too."""
        if len(buffer) != self._size:
            return False
        for count, (offset, frame) in enumerate(self._frames, 1):
            if buffer[offset : offset + len(frame)] != frame:
                return False
            _give_back(buffer, count)
        return True


_Layout.last = _Layout(-1)


def _give_back(buffer: wire.Buffer, count: int) -> None:
    if count % _KEPT == 0 and isinstance(buffer, mmap.mmap):
        buffer.madvise(mmap.MADV_DONTNEED)


def _join_pieces(buffer: wire.Buffer, layout: _Layout) -> Iterator[Entry]:
    entry: Entry | None = None
    seen = set()
    for count, field in enumerate(wire.fields(buffer, 0, _content_size(buffer)), 1):
        _give_back(buffer, count)
        if field.number != 1 or field.wire_type != wire.LENGTH:
            raise _BadValue(f"unexpected field {field.number} at byte {field.start}")
        name, dims, dtype, piece = _value(buffer, field)
        layout.add(buffer, *piece)
        if entry and entry["name"] == name:
            _append_piece(entry, dims, dtype, piece)
            continue
        if name in seen:
            raise _BadValue(f"{name} occurs twice")
        seen.add(name)
        if entry:
            layout.entries.append(_checked(entry))
            yield entry
        entry = {"name": name, "dims": dims, "dtype": dtype, "pieces": [piece]}
    if entry:
        layout.entries.append(_checked(entry))
        yield entry
    layout.close(buffer)


def _content_size(buffer: wire.Buffer) -> int:
    size = len(buffer)
    has_trailer = bytes(buffer[max(0, size - TRAILER_SIZE) : size - TRAILER_SIZE + len(TRAILER)]) == TRAILER
    return size - TRAILER_SIZE if has_trailer else size


def has_crc(buffer: wire.Buffer) -> bool:
    """Whether the file carries a checksum of its own."""
    return _content_size(buffer) != len(buffer)


def crc_matches(buffer: wire.Buffer) -> bool:
    """True where the file's own checksum is right, or where it carries none."""
    covered = _content_size(buffer)
    if covered == len(buffer):
        return True
    with memoryview(buffer) as view:
        return zlib.crc32(view[:covered]) == int.from_bytes(view[covered + len(TRAILER) :], "big")


def _append_piece(entry: Entry, dims: list[int], dtype: str, piece: list[int]) -> None:
    if dims != entry["dims"] or dtype != entry["dtype"]:
        raise _BadValue(f"the pieces of {entry['name']} do not agree on shape and type")
    entry["pieces"].append(piece)


def _value(buffer: wire.Buffer, value: wire.Field) -> tuple[str, list[int], str, list[int]]:
    name: str | None = None
    tensor: wire.Field | None = None
    for field in wire.fields(buffer, value.start, value.stop):
        if field.wire_type != wire.LENGTH:
            raise _BadValue(f"unexpected field {field.number} at byte {field.start}")
        if field.number == 1:
            name = _text(buffer, field)
        elif field.number == 2:
            tensor = field
        elif field.number == 3:
            raise _BadValue(f"{name} is a map parameter, which is not supported")
    if name is None or tensor is None:
        raise _BadValue(f"a value without name or tensor at byte {value.start}")
    return (name, *_tensor(buffer, tensor, name))


def _tensor(buffer: wire.Buffer, tensor: wire.Field, name: str) -> tuple[list[int], str, list[int]]:
    dims: list[int] = []
    dtype: str | None = None
    content: wire.Field | None = None
    for field in wire.fields(buffer, tensor.start, tensor.stop):
        if field.number == 1:
            dims += wire.integers(buffer, field)
        elif field.number == 2 and field.wire_type == wire.LENGTH:
            dtype = _text(buffer, field)
        elif field.number == 3 and field.wire_type == wire.LENGTH:
            content = field
        if len(dims) > _MOST_AXES:
            raise _BadValue(f"{name} has more than {_MOST_AXES} dimensions")
    if dtype is None or content is None:
        raise _BadValue(f"{name} has no type or no content")
    if dtype not in ITEM_SIZES:
        raise _BadValue(f"{name} is of type {dtype}, which is not supported")
    return dims, dtype, [content.start, content.stop - content.start]


def _text(buffer: wire.Buffer, field: wire.Field) -> str:
    if field.stop - field.start > 4096:
        raise _BadValue(f"a name of {field.stop - field.start} bytes at byte {field.start}")
    try:
        return bytes(buffer[field.start : field.stop]).decode("utf-8")
    except UnicodeDecodeError:
        raise _BadValue(f"a name that is no text at byte {field.start}") from None


def _checked(entry: Entry) -> Entry:
    name, dims, item = entry["name"], entry["dims"], ITEM_SIZES[entry["dtype"]]
    have = sum(length for _, length in entry["pieces"])
    if entry["dtype"] == "str":
        if have % item:
            raise _BadValue(f"{name} is a text of {have} bytes, not whole characters")
        entry["dims"] = []
        return entry
    if dims == [0] and have == item:
        entry["dims"] = dims = []
    elements, bound = 1, 1
    for dim in dims:
        elements *= dim
        bound *= max(dim, 1)
        if dim < 0 or bound > _MOST_ELEMENTS:
            raise _BadValue(f"{name} has the shape {dims}")
    if elements * item != have:
        raise _BadValue(f"{name} of shape {dims} needs {elements * item} bytes and has {have}")
    return entry
