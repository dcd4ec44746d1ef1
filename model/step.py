"""One training step as one compiled graph: loss, gradients, all-reduce, clipping, update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from model.optimizer import AdamW, ClipByGlobalNorm

__all__ = ["LossCell", "TrainStep"]

# Gradients travel in flat buffers of at most this many values: one for a small network, and no second
# copy of all gradients at once for a large one.
BUCKET_VALUES = 32 * 1024 * 1024


class LossCell(nn.Cell):
    """The weighted sum of the negative log likelihoods of the labels.

    tokens, labels (B, S) int32; weights (B, S) float32, which sum to 1 over the global batch.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # parameters keep the network's names
        self.network = network
        self.log_softmax = ops.LogSoftmax(axis=-1)
        self.pick = ops.GatherD()

    def construct(self, tokens: Any, labels: Any, weights: Any) -> Any:
        chances = self.log_softmax(self.network.head(self.network.transformer(tokens)))  # (B*S, V)
        chosen = ops.reshape(self.pick(chances, 1, ops.reshape(labels, (-1, 1))), (-1,))
        return -ops.reduce_sum(chosen * ops.reshape(weights, (-1,)))


class SumOverReplicas(nn.Cell):
    """Sum a loss and the gradients over the data group, in few flat buffers."""

    def __init__(self, parameters: Sequence[ms.Parameter], group: str | None) -> None:
        super().__init__()
        self.active = group is not None
        self.all_reduce = ops.AllReduce(group=group) if group else ops.Identity()
        self.buckets = _buckets([item.size for item in parameters], BUCKET_VALUES)
        self.shapes = tuple(tuple(item.shape) for item in parameters)
        self.sizes = tuple(int(item.size) for item in parameters)

    def construct(self, loss: Any, grads: Any) -> Any:
        if not self.active:
            return loss, grads
        summed = ()
        lead = ops.reshape(loss, (1,))
        for start, stop in self.buckets:
            flat = (lead,)
            for index in range(start, stop):
                flat += (ops.cast(ops.reshape(grads[index], (-1,)), ms.float32),)
            # Every buffer starts with the last one's first value, which also keeps their order on all ranks.
            flat_sum = self.all_reduce(ops.concat(flat))
            lead = flat_sum[:1]
            if start == 0:
                loss = ops.reshape(lead, ())
            offset = 1
            for index in range(start, stop):
                piece = flat_sum[offset : offset + self.sizes[index]]
                summed += (ops.cast(ops.reshape(piece, self.shapes[index]), grads[index].dtype),)
                offset += self.sizes[index]
        return loss, summed


def _buckets(sizes: Sequence[int], limit: int) -> tuple[tuple[int, int], ...]:
    """Cut the list into runs [start, stop) of at most `limit` values, a larger tensor alone in its run."""
    buckets, start, held = [], 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > limit:
            buckets.append((start, index))
            start, held = index, 0
        held += size
    return (*buckets, (start, len(sizes)))


class TrainStep(nn.Cell):
    """(tokens, labels, weights, rate) -> (loss of the global batch, gradient norm); updates in place."""

    def __init__(
        self,
        network: nn.Cell,
        optimizer: AdamW,
        *,
        clip: float,
        data_group: str | None,
        model_group: str | None,
    ) -> None:
        super().__init__(auto_prefix=False)
        parameters = optimizer.parameters
        self.optimizer = optimizer
        self.loss_and_grads = ops.value_and_grad(LossCell(network), None, parameters)
        self.sum_over_replicas = SumOverReplicas(parameters, data_group)
        self.clip = ClipByGlobalNorm([item.name for item in parameters], clip, model_group)

    def construct(self, tokens: Any, labels: Any, weights: Any, rate: Any) -> Any:
        loss, grads = self.loss_and_grads(tokens, labels, weights)
        loss, grads = self.sum_over_replicas(loss, grads)
        grads, norm = self.clip(grads)
        loss = ops.depend(loss, self.optimizer(grads, rate))
        return loss, norm
