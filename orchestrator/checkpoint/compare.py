"""The comparison of two stored tensors: whether their bits are the same, how far their values are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.checkpoint.copy_plan import whole_region
from orchestrator.checkpoint.files.tensor_types import Array, Tensor
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.shard_index import StoredTensor

__all__ = ["Distance", "distance", "same_bits"]

# Divides every item size, so that a chunk holds whole elements of both types.
_ELEMENTS = 4 << 20


@dataclass(frozen=True, slots=True)
class Distance:
    """The largest absolute difference, the index of it, and how many elements differ at all.

    A NaN has no distance to a NaN, and an infinite one to anything else.
    """

    largest: float
    at: tuple[int, ...]
    differing: int


def same_bits(files: MappedFiles, path_a: str, a: StoredTensor, path_b: str, b: StoredTensor) -> bool:
    """True where the bytes are equal; both must be of one type and size."""
    region = whole_region(a.spec)
    pairs = zip(files.chunks(path_a, a, region), files.chunks(path_b, b, region), strict=True)
    # Comparing memoryviews themselves goes item by item.
    return all(
        np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)) for one, other in pairs
    )


def distance(files: MappedFiles, path_a: str, a: StoredTensor, path_b: str, b: StoredTensor) -> Distance:
    """Compare two tensors of one shape as float64 numbers, whatever their types."""
    region = whole_region(a.spec)
    chunks_a = files.chunks(path_a, a, region, _ELEMENTS * a.spec.item_size)
    chunks_b = files.chunks(path_b, b, region, _ELEMENTS * b.spec.item_size)
    largest, at, differing, start = 0.0, 0, 0, 0
    for chunk_a, chunk_b in zip(chunks_a, chunks_b, strict=True):
        gap = _gap(_numbers(a.spec.dtype, chunk_a), _numbers(b.spec.dtype, chunk_b))
        differing += int(np.count_nonzero(gap))
        where = int(np.argmax(gap))
        if gap[where] > largest:
            largest, at = float(gap[where]), start + where
        start += len(gap)
    index = tuple(int(number) for number in np.unravel_index(at, a.spec.dims)) if a.spec.dims else ()
    return Distance(largest, index, differing)


def _numbers(dtype: str, chunk: memoryview) -> Array:
    values: Array = Tensor((-1,), dtype, chunk).array()
    if dtype == "BFloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


def _gap(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        gap: Array = np.abs(a - b)
    # inf - inf is no number, and neither is anything with a NaN.
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    gap[np.isnan(gap)] = np.inf
    return gap
