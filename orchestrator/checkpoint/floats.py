"""Floating-point types turned into one another while bytes pass by. Bits of bfloat16 are uint16 to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.checkpoint.tensor import Array
from orchestrator.errors import CheckpointError

__all__ = ["FLOATS", "converted", "target_type"]

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
