"""Sequence parallelism, from "Reducing Activation Recomputation in Large Transformer Models" (2022).

Between the cut layers, in norms, dropouts and residuals, a rank of the model group has its part of the
sequence only. A cut layer is entered by an all-gather along the sequence and left by a reduce-scatter.

B batch, S sequence, s = S / parts, h hidden_size.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from model.parallel.collectives import Member, all_gather_of, reduce_scatter_of
from model.parallel.mesh import Groups, Place, Strategy

__all__ = ["GatherSequence", "ScatterSequence", "cut_sequence"]


class Parts(nn.Cell):
    """The two directions, each the other's gradient."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.parts = member.size
        self.all_gather = all_gather_of(member, ndim=3, axis=1)
        self.reduce_scatter = reduce_scatter_of(member, ndim=3, axis=1)

    def gather(self, x: Tensor) -> Tensor:
        """(B, s, h) of every rank -> (B, S, h)."""
        batch, length, hidden = x.shape
        table = self.all_gather(x)  # (B, parts, s, h)
        return ops.reshape(table, (batch, self.parts * length, hidden))

    def scatter(self, x: Tensor) -> Tensor:
        """(B, S, h), summed over the ranks -> (B, s, h), the own part."""
        batch, length, hidden = x.shape
        return self.reduce_scatter(ops.reshape(x, (batch, self.parts, length // self.parts, hidden)))


class GatherSequence(Parts):
    """The whole sequence enters a cut layer."""

    def construct(self, x: Tensor) -> Tensor:
        return self.gather(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (self.scatter(dout),)


class ScatterSequence(Parts):
    """The sum over a cut layer's parts leaves it, each rank with its part of the sequence."""

    def construct(self, x: Tensor) -> Tensor:
        return self.scatter(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (self.gather(dout),)


def cut_sequence(network: nn.Cell, strategy: Strategy, place: Place, groups: Groups) -> None:
    """Let the network, built for whole sequences, cut them; gradients of whole parameters are then parts.

    Nothing to do where there is no model group.
    """
    if groups.model is None:
        return
    member = Member(groups.model, place.mp, strategy.model_parallel)
    transformer = network.transformer
    transformer.sequence_parts = strategy.model_parallel
    network.copy = GatherSequence(member)
    if place.pp == 0:
        transformer.embedding.word_embedding.reduce = ScatterSequence(member)
    for block in transformer.blocks:
        for layer in (block.attention, block.output):
            layer.copy = GatherSequence(member)
            layer.projection.reduce = ScatterSequence(member)
