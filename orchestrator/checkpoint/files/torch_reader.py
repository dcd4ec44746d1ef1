"""PyTorch's `.bin` files without PyTorch: where each tensor's bytes are. Nothing of the file is run.

Format (PyTorch since 1.6, `torch/serialization.py`): a zip of stored entries under one folder, `data.pkl`
with the table of tensors, `data/<key>` with the bytes of each storage, `byteorder` with the word `little`.

The table is a pickle, which is read as data: an interpreter of the few opcodes that PyTorch's own files are
made of. The only globals are the words of `_REBUILDERS` and the names of storage types, and what they stand
for is built here; all else is refused. Sources: Python's `pickletools`, and PyTorch 2.x, `torch/_utils.py`.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.shard_index import StoredTensor
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import ITEM_SIZES

__all__ = [
    "STORAGE_TYPES",
    "TorchTensor",
    "index_torch",
    "read_torch_pickle",
]

# PyTorch's name of a storage -> MindSpore's name of the type.
STORAGE_TYPES = {
    "FloatStorage": "Float32",
    "HalfStorage": "Float16",
    "BFloat16Storage": "BFloat16",
    "DoubleStorage": "Float64",
    "LongStorage": "Int64",
    "IntStorage": "Int32",
    "ShortStorage": "Int16",
    "CharStorage": "Int8",
    "ByteStorage": "UInt8",
    "BoolStorage": "Bool",
}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor as a view of a storage; offset, sizes and strides count elements."""

    storage: str
    dtype: str
    storage_elements: int
    offset: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


class _Refused(ValueError):
    pass


_MARK = object()


def read_torch_pickle(data: bytes, where: str) -> dict[Any, Any]:
    """The table that the pickle holds; CheckpointError where it asks for anything but tensors in tables."""
    try:
        result = _Machine().run(data)
    except _Refused as error:
        raise CheckpointError(
            f"is refused: {error}", where=where, remedy="only tables of tensors are read; nothing was run"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError) as error:
        raise CheckpointError(f"its pickle is damaged: {error}", where=where) from None
    if not isinstance(result, dict):
        raise CheckpointError("holds no table of tensors", where=where, remedy="save model.state_dict()")
    return result


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _PUSHED:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise _Refused(f"the pickle has the opcode {opcode.name}")
        raise ValueError("it has no end")

    def since_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise ValueError("a mark is missing")

    def top(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global without a name")
        known = (module, name) in _REBUILDERS or (module == "torch" and name in STORAGE_TYPES)
        if not known:
            raise _Refused(f"the pickle names {module}.{name}")
        self.stack.append(_Global(module, name))

    def persistent(self) -> None:
        kind, storage, key, _, elements = self.stack.pop()
        if kind != "storage" or not isinstance(storage, _Global) or storage.name not in STORAGE_TYPES:
            raise _Refused("a persistent id is no storage of a known type")
        if not isinstance(key, str) or not _is_count(elements):
            raise ValueError("a storage without key or size")
        self.stack.append(_Storage(key, STORAGE_TYPES[storage.name], elements))

    def call(self) -> None:
        function, arguments = self.top(2)
        if not isinstance(function, _Global) or (function.module, function.name) not in _REBUILDERS:
            raise _Refused("the pickle calls what is no rebuilder of tensors")
        if not isinstance(arguments, tuple):
            raise ValueError("a call without arguments")
        self.stack.append(_REBUILDERS[function.module, function.name](*arguments))

    def build(self) -> None:
        # The only state in such files is a state_dict's `_metadata`: versions of modules, nothing of tensors.
        target, _ = self.top(2)
        if not isinstance(target, dict):
            raise _Refused("the pickle sets the state of what is no table")
        self.stack.append(target)

    def set_items(self, items: list[Any]) -> None:
        table = self.stack[-1]
        # Texts only: to hash a tuple that is nested deep enough would overflow the interpreter's own stack.
        if not isinstance(table, dict) or len(items) % 2 or not all(isinstance(k, str) for k in items[::2]):
            raise ValueError("items for what is no table of names")
        table.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _rebuild_table(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise _Refused("the pickle fills a table while it makes it")
    return {}


def _rebuild_tensor(storage: Any, offset: Any, dims: Any, strides: Any, *_: Any) -> TorchTensor:
    if not isinstance(storage, _Storage) or not isinstance(dims, tuple) or not isinstance(strides, tuple):
        raise ValueError("a tensor without storage, shape or strides")
    counts = all(_is_count(n) for n in (offset, *dims, *strides))
    if not counts or len(dims) != len(strides) or len(dims) > 32:
        raise ValueError("a tensor of impossible shape or strides")
    return TorchTensor(storage.key, storage.dtype, storage.elements, offset, dims, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> TorchTensor:
    if not isinstance(tensor, TorchTensor):
        raise ValueError("a parameter without a tensor")
    return tensor


_REBUILDERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _rebuild_table,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}

# Opcodes that push their argument: numbers and texts.
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda machine, names: machine.named(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.named(*machine.top(2)),
    "BINPERSID": lambda machine, _: machine.persistent(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.top(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.top(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.top(3))),
    "SETITEM": lambda machine, _: machine.set_items(machine.top(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(machine.top(1)),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
}


_LONGEST_PICKLE = 256 << 20
_LOCAL_HEADER = 30
# The first bytes of the format before 1.6: a pickle of the number that marks it.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def index_torch(path: str | Path) -> dict[str, StoredTensor]:
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


def _index(archive: zipfile.ZipFile, file: BinaryIO, where: str) -> dict[str, StoredTensor]:
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
) -> StoredTensor:
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
    return StoredTensor(spec, ((starts[tensor.storage] + tensor.offset * item, spec.nbytes),))


def _c_strides(dims: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of C order; those of axes of one element may be anything."""
    expected, step = [], 1
    for size, stride in zip(reversed(dims), reversed(strides), strict=True):
        expected.append(stride if size == 1 else step)
        step *= size
    return tuple(reversed(expected))
