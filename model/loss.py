"""The training loss of Bloom."""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

__all__ = ["LossCell"]


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
