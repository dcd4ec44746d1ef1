"""The layout of PyTorch's `.bin` files as `torch.save` writes a state_dict, without PyTorch.

Format (PyTorch since 1.6, `torch/serialization.py`, `caffe2/serialize/inline_container.cc`): a zip of stored
entries under one folder; the bytes of each storage begin at a multiple of 64, padded by a field `FB` of the
entry's header. Zip and its 64-bit fields: PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3.

The table of the state_dict is a pickle of protocol 2, written opcode by opcode: an OrderedDict of
`torch._utils._rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks)`, where the storage is
a persistent id, `("storage", type, key, device, elements)`. Its reader is `torch_reader`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.files.tensor_files import Checksum, FileLayout
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.files.torch_reader import STORAGE_TYPES
from orchestrator.core.errors import CheckpointError

__all__ = [
    "lay_out_torch",
    "write_torch_table",
]

_STORAGES = {dtype: name for name, dtype in STORAGE_TYPES.items()}
_EMPTY_TABLE = b"ccollections\nOrderedDict\n)R"  # GLOBAL, EMPTY_TUPLE, REDUCE
_FALSE = b"\x89"


def write_torch_table(specs: Sequence[Spec]) -> bytes:
    """data.pkl for these tensors; number N of them is all of the storage `N`, in C order.

    CheckpointError: a type that PyTorch's storages have no name for.
    """
    items = b"".join(_text(spec.name) + _tensor(spec, str(key)) for key, spec in enumerate(specs))
    return b"\x80\x02" + _EMPTY_TABLE + b"(" + items + b"u."  # PROTO 2, MARK … SETITEMS, STOP


def _tensor(spec: Spec, key: str) -> bytes:
    if spec.dtype not in _STORAGES:
        raise CheckpointError(f"{spec.name} is {spec.dtype}, which PyTorch has no storage for")
    strides = [math.prod(spec.dims[axis + 1 :]) for axis in range(len(spec.dims))]
    kind = f"ctorch\n{_STORAGES[spec.dtype]}\n".encode()
    place = _text(key) + _text("cpu") + _number(math.prod(spec.dims))
    storage = b"(" + _text("storage") + kind + place + b"tQ"  # TUPLE, BINPERSID
    view = _number(0) + _tuple(spec.dims) + _tuple(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + _FALSE + _EMPTY_TABLE + b"tR"


def _text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def _number(value: int) -> bytes:
    """BININT, or LONG1 where it is too large for it."""
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    return b"\x8a\x08" + value.to_bytes(8, "little")


def _tuple(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


_HOME = "archive"  # what torch.save calls it when it is given a stream
_ALIGNMENT = 64
_LOCAL, _LOCAL_CRC = struct.Struct("<4s5H3L2H"), 14
_CENTRAL, _CENTRAL_CRC = struct.Struct("<4s6H3L5H2L"), 16
_END = struct.Struct("<4s4H2LH")
_END64, _LOCATOR64 = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_OLD, _NEW = 20, 45  # the versions of zip that a reader must know, the second for 64-bit fields
_FIRST_DAY = 0x21  # 1980-01-01, the same file every time
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "look into the 64-bit field"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One member of the zip; `data` is None where the bytes are a tensor's, which come later."""

    name: bytes
    size: int
    data: bytes | None

    @property
    def crc(self) -> int:
        return zlib.crc32(self.data) if self.data is not None else 0

    @property
    def is_large(self) -> bool:
        return self.size >= _FULL32

    def local(self, offset: int) -> bytes:
        """The header before the data, so long that the data are aligned."""
        sizes = struct.pack("<2H2Q", 1, 16, self.size, self.size) if self.is_large else b""
        bare = offset + _LOCAL.size + len(self.name) + len(sizes) + 4
        padding = -bare % _ALIGNMENT
        extra = sizes + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        size = _FULL32 if self.is_large else self.size
        version = _NEW if self.is_large else _OLD
        fields = (version, 0, 0, 0, _FIRST_DAY, self.crc, size, size, len(self.name), len(extra))
        return _LOCAL.pack(b"PK\3\4", *fields) + self.name + extra

    def central(self, offset: int) -> bytes:
        """The entry of the directory at the end."""
        wide = ([self.size] * 2 if self.is_large else []) + ([offset] if offset >= _FULL32 else [])
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size = _FULL32 if self.is_large else self.size
        version = _NEW if wide else _OLD
        fields = (version, version, 0, 0, 0, _FIRST_DAY, self.crc, size, size, len(self.name), len(extra))
        place = (0, 0, 0, 0, min(offset, _FULL32))
        return _CENTRAL.pack(b"PK\1\2", *fields, *place) + self.name + extra


def lay_out_torch(specs: Sequence[Spec]) -> FileLayout:
    """The file of a state_dict of these tensors, each in a storage of its own.

    CheckpointError: a type that PyTorch's storages have no name for.
    """
    frames: list[tuple[int, bytes]] = []
    spans: list[tuple[tuple[int, int], ...]] = []
    sums: list[tuple[int, int, int, int]] = []
    directory: list[bytes] = []
    position = 0
    for entry in _entries(specs):
        header = entry.local(position)
        start = position + len(header)
        frames.append((position, header + (entry.data or b"")))
        if entry.data is None:
            spans.append(((start, entry.size),))
            sums.append((start, entry.size, position + _LOCAL_CRC, len(directory)))
        directory.append(entry.central(position))
        position = start + entry.size
    begins, at = [], position
    for item in directory:
        begins.append(at)
        at += len(item)
    tail = b"".join(directory) + _end(len(directory), position, at - position)
    checksums = (
        Checksum(start, size, (own, begins[number] + _CENTRAL_CRC)) for start, size, own, number in sums
    )
    return FileLayout(position + len(tail), (*frames, (position, tail)), tuple(spans), tuple(checksums))


def _entries(specs: Sequence[Spec]) -> Iterator[_Entry]:
    """In the order of torch.save; data.pkl must be the first, its folder names the archive."""
    for name, data in (("data.pkl", write_torch_table(specs)), ("byteorder", b"little")):
        yield _Entry(f"{_HOME}/{name}".encode(), len(data), data)
    for key, spec in enumerate(specs):
        yield _Entry(f"{_HOME}/data/{key}".encode(), spec.nbytes, None)
    yield _Entry(f"{_HOME}/version".encode(), 2, b"3\n")


def _end(count: int, start: int, size: int) -> bytes:
    """What closes the zip: how many entries there are and where their directory is."""
    wide = b""
    if count >= _FULL16 or start >= _FULL32:
        length = _END64.size - 12
        wide = _END64.pack(b"PK\6\6", length, _NEW, _NEW, 0, 0, count, count, size, start)
        wide += _LOCATOR64.pack(b"PK\6\7", 0, start + size, 1)
    few = min(count, _FULL16)
    return wide + _END.pack(b"PK\5\6", 0, 0, few, few, size, min(start, _FULL32), 0)
