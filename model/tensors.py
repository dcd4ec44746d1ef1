"""Between NumPy batches and the compiled graphs."""

from __future__ import annotations

from typing import Any, TypeAlias

import mindspore as ms
import numpy as np

from model.data import Batch

__all__ = ["Results", "scalar", "split", "tensors"]

# ((loss, norm, gradients) of the global batch, flags of numbers that were born not finite on this rank)
Results: TypeAlias = tuple[tuple[Any, Any, tuple[Any, ...]], list[Any]]


def scalar(value: float) -> ms.Tensor:
    return ms.Tensor(value, ms.float32)


def tensors(batch: Batch) -> tuple[ms.Tensor, ...]:
    """tokens, labels, weights."""
    arrays = (batch.tokens, batch.labels, batch.weights)
    return tuple(ms.Tensor(np.ascontiguousarray(array)) for array in arrays)


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as `parts` batches of equal size."""
    arrays = (np.split(array, parts) for array in (batch.tokens, batch.labels, batch.weights))
    return [Batch(*part) for part in zip(*arrays, strict=True)]
