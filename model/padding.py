"""Between a table with padding in memory and its shard, which holds it whole and without."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import ops

from model.parallel import Strategy, full_shape

__all__ = ["stored_shape", "stored_value"]


def stored_shape(name: str, shape: Sequence[int], strategy: Strategy) -> tuple[int, ...]:
    """The shape in the rank's shard: as in memory, but for a table with padding, which is whole there."""
    return full_shape(name, shape, strategy) if strategy.pads(name) else tuple(shape)


def stored_value(item: ms.Parameter, strategy: Strategy, group: str | None) -> ms.Parameter:
    """What the shard holds of a parameter; the model group comes here together, for a table with padding."""
    if not strategy.pads(item.name):
        return item
    parts = strategy.model_parallel
    index = comm.get_rank(group) if group else 0
    table = np.zeros((parts, *item.shape), np.float32)
    table[index] = item.float().asnumpy()
    table = ops.AllReduce(group=group)(ms.Tensor(table)).asnumpy() if group else table
    whole = table.reshape(-1, *item.shape[1:])[: strategy.vocab_size]
    return ms.Parameter(ms.Tensor(whole, item.dtype), name=item.name)
