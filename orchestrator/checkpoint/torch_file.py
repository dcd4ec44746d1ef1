"""PyTorch's `.bin` files without PyTorch: where each tensor's bytes are. Nothing of the file is run.

Format (PyTorch since 1.6, `torch/serialization.py`): a zip of stored entries under one folder, `data.pkl`
with the table of tensors, `data/<key>` with the bytes of each storage, `byteorder` with the word `little`.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from orchestrator.agent.ckpt_index import ITEM_SIZES
from orchestrator.checkpoint.shard import Held
from orchestrator.checkpoint.tensor import Spec
from orchestrator.checkpoint.torch_pickle import TorchTensor, read_torch_pickle
from orchestrator.errors import CheckpointError

__all__ = ["index_torch"]

_LONGEST_PICKLE = 256 << 20
_LOCAL_HEADER = 30
# The first bytes of the format before 1.6: a pickle of the number that marks it.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def index_torch(path: str | Path) -> dict[str, Held]:
    """The tensors of the file by name, in its order.

    CheckpointError: unreadable, truncated, foreign, in PyTorch's old format, or a pickle that asks for
    anything but tensors; it is never run. A tensor whose elements are not in C order is refused too.
    """
    where = str(path)
    try:
        with open(path, "rb") as file:
            _check_start(file, where)
            with zipfile.ZipFile(file) as archive:
                return _index(archive, file, where)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=where) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise _damaged(where, str(error)) from None


def _damaged(where: str, what: str) -> CheckpointError:
    return CheckpointError(f"is damaged or no PyTorch file: {what}", where=where, remedy="copy it again")


def _check_start(file: BinaryIO, where: str) -> None:
    start = file.read(len(_LEGACY))
    if start == _LEGACY:
        raise CheckpointError(
            "is in PyTorch's format from before version 1.6",
            where=where,
            remedy="load and save it once with a newer PyTorch",
        )
    if not start:
        raise CheckpointError("the file is empty", where=where)
    file.seek(0)


def _index(archive: zipfile.ZipFile, file: BinaryIO, where: str) -> dict[str, Held]:
    entries = {info.filename: info for info in archive.infolist()}
    tables = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(tables) != 1:
        raise _damaged(where, "there is no data.pkl in it")
    home = tables[0].removesuffix("data.pkl")
    if entries[tables[0]].file_size > _LONGEST_PICKLE:
        raise _damaged(where, f"its pickle has {entries[tables[0]].file_size} bytes")
    if f"{home}byteorder" in entries and archive.read(f"{home}byteorder").strip() != b"little":
        raise CheckpointError("was written on a big-endian machine", where=where)
    table = read_torch_pickle(archive.read(tables[0]), where)
    starts: dict[str, int] = {}
    held = {}
    for name, tensor in table.items():
        if not isinstance(name, str) or not isinstance(tensor, TorchTensor):
            raise CheckpointError(
                f"its entry {str(name)[:80]!r} is no tensor", where=where, remedy="save model.state_dict()"
            )
        info = entries.get(f"{home}data/{tensor.storage}")
        if info is None:
            raise _damaged(where, f"the bytes of {name} are missing")
        if tensor.storage not in starts:
            starts[tensor.storage] = _start(info, file, where)
        held[name] = _held(name, tensor, info, starts, where)
    return held


def _start(info: zipfile.ZipInfo, file: BinaryIO, where: str) -> int:
    """Where the entry's bytes begin: its local header may be longer than the directory says."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise _damaged(where, f"{info.filename} is compressed or encrypted")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\3\4":
        raise _damaged(where, f"{info.filename} has no header")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + _LOCAL_HEADER + lengths
    end = file.seek(0, 2)
    if start + info.file_size > end:
        raise _damaged(where, f"it ends inside {info.filename}")
    return start


def _held(
    name: str, tensor: TorchTensor, info: zipfile.ZipInfo, starts: Mapping[str, int], where: str
) -> Held:
    item = ITEM_SIZES[tensor.dtype]
    elements = math.prod(tensor.dims)
    if elements and tensor.strides != _c_strides(tensor.dims, tensor.strides):
        raise CheckpointError(
            f"{name} is not stored in C order", where=where, remedy="save it with .contiguous()"
        )
    if tensor.storage_elements * item != info.file_size:
        raise _damaged(where, f"the storage of {name} has {info.file_size} bytes")
    if tensor.offset + elements > tensor.storage_elements:
        raise _damaged(where, f"{name} reaches over the end of its storage")
    spec = Spec(name, tensor.dims, tensor.dtype)
    return Held(spec, ((starts[tensor.storage] + tensor.offset * item, spec.nbytes),))


def _c_strides(dims: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of C order; those of axes of one element may be anything."""
    expected, step = [], 1
    for size, stride in zip(reversed(dims), reversed(strides), strict=True):
        expected.append(stride if size == 1 else step)
        step *= size
    return tuple(reversed(expected))
