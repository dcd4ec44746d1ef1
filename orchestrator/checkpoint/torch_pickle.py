"""The pickle inside a PyTorch file, read as data: nothing that it names is imported, nothing is called.

An interpreter of the few opcodes that PyTorch's own files are made of. The only globals are the words of
`_REBUILDERS` and the names of storage types, and what they stand for is built here. All else is refused.
Sources: Python's `pickletools`, and PyTorch 2.x, `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import CheckpointError

__all__ = ["STORAGE_TYPES", "TorchTensor", "read_torch_pickle"]

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
