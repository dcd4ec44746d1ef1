"""Tensors as checkpoints have them: shape, MindSpore's name of the type, raw bytes; and their conversion.

Floating-point types are turned into one another while bytes pass by. Bits of bfloat16 are uint16 to NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import ITEM_SIZES

__all__ = [
    "FLOATS",
    "Array",
    "Spec",
    "Tensor",
    "converted",
    "join_pieces",
    "target_type",
]

Array: TypeAlias = NDArray[Any]
Data: TypeAlias = bytes | memoryview

_NUMPY = {
    "Bool": np.dtype(np.bool_),
    "Int8": np.dtype("<i1"),
    "UInt8": np.dtype("<u1"),
    "Int16": np.dtype("<i2"),
    "UInt16": np.dtype("<u2"),
    "Int32": np.dtype("<i4"),
    "UInt32": np.dtype("<u4"),
    "Int64": np.dtype("<i8"),
    "UInt64": np.dtype("<u8"),
    "Float16": np.dtype("<f2"),
    "Float32": np.dtype("<f4"),
    "Float64": np.dtype("<f8"),
    # NumPy has no bfloat16: its bits travel as they are.
    "BFloat16": np.dtype("<u2"),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items() if name != "BFloat16"}


@dataclass(frozen=True, slots=True)
class Spec:
    """Name, shape and type of a tensor, without its values; `nbytes` of a `str` must be given."""

    name: str
    dims: tuple[int, ...]
    dtype: str
    text_bytes: int = 0

    @property
    def item_size(self) -> int:
        return ITEM_SIZES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.text_bytes if self.dtype == "str" else math.prod(self.dims) * self.item_size


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape, MindSpore's name of the type (`Float32`, `BFloat16`, `str`), little-endian bytes in C order."""

    dims: tuple[int, ...]
    dtype: str
    data: Data

    @classmethod
    def of(cls, value: Array | str, dtype: str | None = None) -> Tensor:
        """Take over an array, or a text; with `dtype="BFloat16"` a uint16 array holds the bits of one."""
        if isinstance(value, str):
            return cls((), "str", value.encode("utf-32-le"))
        if value.dtype.name == "bfloat16":
            value, dtype = value.view(np.uint16), "BFloat16"
        name = dtype or _NAMES.get(value.dtype.newbyteorder("<"), "")
        if name not in _NUMPY or _NUMPY[name].itemsize != value.dtype.itemsize:
            raise CheckpointError(
                f"an array of {value.dtype} cannot be stored{f' as {dtype}' if dtype else ''}"
            )
        # ascontiguousarray makes a vector of a scalar, so the shape is taken before.
        flat = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False)).reshape(-1)
        return cls(tuple(value.shape), name, flat.view(np.uint8).data)

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def spec(self, name: str) -> Spec:
        return Spec(name, self.dims, self.dtype, self.nbytes if self.dtype == "str" else 0)

    def array(self) -> Array:
        """The values; uint16 bits for `BFloat16`. A view of the bytes where their alignment allows it."""
        if self.dtype == "str":
            raise CheckpointError("a text is not an array")
        array: Array = np.frombuffer(self.data, _NUMPY[self.dtype]).reshape(self.dims)
        return array if array.flags.aligned else array.copy()

    def text(self) -> str:
        """The value of a `str`; CheckpointError where the tensor is none."""
        if self.dtype != "str":
            raise CheckpointError(f"a tensor of {self.dtype} is not a text")
        try:
            return bytes(self.data).decode("utf-32-le").rstrip("\0")
        except UnicodeDecodeError as error:
            raise CheckpointError("a text of the checkpoint is damaged") from error


def join_pieces(buffer: memoryview, pieces: Sequence[Sequence[int]]) -> Data:
    """The bytes of `[[offset, length], ...]`: a view of one piece, a copy of several."""
    views = [buffer[offset : offset + length] for offset, length in pieces]
    return views[0] if len(views) == 1 else b"".join(views)


# MindSpore's names of the types that `converted` reads, with NumPy's; the first three can also be written.
FLOATS: dict[str, np.dtype[Any]] = {
    "Float32": np.dtype("<f4"),
    "Float16": np.dtype("<f2"),
    "BFloat16": np.dtype("<u2"),
    "Float64": np.dtype("<f8"),
}


def target_type(dtype: str, wanted: str | None) -> str:
    """The type that values of `dtype` are written in: `wanted` for floats; all else stays what it is."""
    return wanted if wanted and dtype in FLOATS else dtype


def converted(data: memoryview, dtype: str, wanted: str, name: str) -> memoryview:
    """Values of `dtype` as bytes of `wanted`, rounded to the nearest, ties to even.

    CheckpointError where a finite value does not fit: float16 ends at 65504. `name` is for the message.
    """
    if dtype == wanted:
        return data
    values: Array = np.frombuffer(data, FLOATS[dtype])
    if dtype == "BFloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        result = _bfloat16(values) if wanted == "BFloat16" else values.astype(FLOATS[wanted])
    if wanted != "BFloat16" and FLOATS[wanted].itemsize < values.itemsize:
        _check_range(values, result, wanted, name)
    return result.view(np.uint8).data


def _bfloat16(values: Array) -> Array:
    """The upper halves of float32, rounded to nearest even on the integers that the bits are."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    # A carry out of a NaN's mantissa would make a number of it: NaNs are cut, and kept quiet.
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded >> 16).astype("<u2")


def _check_range(values: Array, result: Array, wanted: str, name: str) -> None:
    if np.isinf(result).any() and (np.isinf(result) & np.isfinite(values)).any():
        worst = float(np.abs(values[np.isfinite(values)]).max())
        raise CheckpointError(
            f"{name} holds {worst:g}, which {wanted} cannot hold", remedy="--dtype bfloat16 has the range"
        )
