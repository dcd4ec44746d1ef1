"""The training loss of a language model: the weighted negative log likelihood of the labels."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from model.network.bloom import OwnIds
from model.parallel.mesh import ReduceFromModelGroup

__all__ = ["LossCell", "TokenLoss"]


class HeadLoss(nn.Cell):
    """The head and the loss on a whole vocabulary -> (weighted sum of negative log likelihoods, logits).

    x (n, h), table (V, h) of one type; labels (n,) and weights (n,) float32, which are data: they get no
    gradient. With a backward of its own, softmax minus one at the label: MindSpore's for the same steps takes
    several times as long on a CPU. The weights are multiplied into what has h columns, not V. The logits
    (n, V) float32 are a result for the backward pass alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.product = ops.MatMul(transpose_b=True)
        self.into_x, self.into_table = ops.MatMul(), ops.MatMul(transpose_a=True)
        self.log_softmax = ops.LogSoftmax(axis=-1)
        self.softmax = ops.Softmax(axis=-1)
        self.pick = ops.GatherD()
        self.add_at = ops.TensorScatterAdd()

    def construct(self, x: Tensor, table: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        logits = ops.cast(self.product(x, table), ms.float32)
        chosen = self.pick(self.log_softmax(logits), 1, ops.expand_dims(labels, -1))
        return -ops.reduce_sum(ops.reshape(chosen, (-1,)) * weights), logits

    def bprop(
        self, x: Tensor, table: Tensor, labels: Tensor, weights: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        count = labels.shape[0]
        rows = ops.arange(0, count, dtype=ms.int32)
        places = ops.stack((rows, ops.cast(labels, ms.int32)), -1)  # (n, 2)
        spread = self.add_at(self.softmax(out[1]), places, ops.full((count,), -1.0, dtype=ms.float32))
        spread = ops.cast(spread, x.dtype)
        factors = ops.cast(ops.expand_dims(weights * dout[0], -1), x.dtype)  # (n, 1)
        dx = self.into_x(spread, table) * factors
        dtable = self.into_table(spread, x * factors)
        return dx, dtable, ops.zeros_like(labels), ops.zeros_like(weights)


class TokenLoss(nn.Cell):
    """The weighted sum of the negative log likelihoods of the labels.

    x (B, S, h) after the last norm; labels (B, S) int32; weights (B, S) float32, which sum to 1 over the
    global batch.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # parameters keep the network's names
        self.network = network
        vocabulary = network.vocabulary
        self.parts = vocabulary.parts
        self.whole = HeadLoss()
        self.largest = ops.ReduceMax(keep_dims=True)
        self.pick = ops.GatherD()
        self.own_ids = OwnIds(vocabulary)
        self.own_row = Tensor(vocabulary.own_row())
        self.reduce = ReduceFromModelGroup(vocabulary.group)

    def construct(self, x: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        labels, weights = ops.reshape(labels, (-1,)), ops.reshape(weights, (-1,))
        if self.parts == 1:
            loss, _ = self.whole(*self.network.head_operands(x), labels, weights)
            return loss
        return ops.reduce_sum(self.of_part(self.network.own_head(x), labels) * weights)

    def of_part(self, logits: Tensor, labels: Tensor) -> Tensor:
        """No rank sees all logits: what travels is one row a part, and one of the labels' logits."""
        top = ops.stop_gradient(self.largest(logits, -1))
        own = ops.log(ops.reduce_sum(ops.exp(logits - top), -1)) + ops.reshape(top, (-1,))  # (n,)
        local, inside = self.own_ids(labels)
        chosen = ops.reshape(self.pick(logits, 1, ops.expand_dims(local, -1)), (-1,))
        chosen = chosen * ops.cast(inside, chosen.dtype)
        rows = self.reduce(ops.concat((ops.expand_dims(own, 0) * self.own_row, ops.expand_dims(chosen, 0))))
        sums, chosen = rows[: self.parts], rows[self.parts]  # (parts, n), (n,)
        top = ops.stop_gradient(self.largest(sums, 0))
        return ops.log(ops.reduce_sum(ops.exp(sums - top), 0)) + ops.reshape(top, (-1,)) - chosen


class LossCell(nn.Cell):
    """(tokens, labels, weights) -> the loss, by a network that is whole on its stage."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.transformer = network.transformer
        self.loss = TokenLoss(network)

    def construct(self, tokens: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return self.loss(self.transformer(tokens), labels, weights)
