"""The pickle inside a PyTorch file as it is written: the table of a state_dict, opcode by opcode.

Protocol 2, as `torch.save` writes it: an OrderedDict of `torch._utils._rebuild_tensor_v2(storage, offset,
sizes, strides, requires_grad, hooks)`, where the storage is a persistent id, `("storage", type, key, device,
elements)`. Its reader is `torch_pickle`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from orchestrator.checkpoint.tensor import Spec
from orchestrator.checkpoint.torch_pickle import STORAGE_TYPES
from orchestrator.errors import CheckpointError

__all__ = ["write_torch_table"]

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
