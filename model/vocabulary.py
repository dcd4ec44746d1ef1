"""The vocabulary, cut over the model group: the embedding's table, the gathering of logits.

Where the group's size does not divide the vocabulary, the last parts end in padding: rows of zeros that no id
names and whose logits are hidden. `parallel.cut` adds them, and no checkpoint has them.

n positions, c rows of this rank, V the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import nn, ops

from model.collectives import Member, all_gather_of
from model.config import BloomConfig
from model.device import dtype_of
from model.layers import parameter
from model.parallel import Groups, Place, ReduceFromModelGroup, Strategy

__all__ = ["GatherLogits", "OwnIds", "Vocabulary", "WordEmbedding"]

# The logit of padding. Finite: a product with 0 must stay 0.
HIDDEN = -1e9


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """This rank's rows of the table: `rows` from `first` on, of `size` in all."""

    size: int
    parts: int
    index: int
    group: str | None

    @staticmethod
    def of(config: BloomConfig, strategy: Strategy, place: Place, groups: Groups) -> Vocabulary:
        return Vocabulary(config.vocab_size, strategy.model_parallel, place.mp, groups.model)

    @property
    def rows(self) -> int:
        return -(-self.size // self.parts)

    @property
    def first(self) -> int:
        return self.index * self.rows

    def padding(self) -> np.ndarray:
        """(1, c) float32: HIDDEN for rows beyond the vocabulary, 0 for all others."""
        beyond = np.arange(self.first, self.first + self.rows) >= self.size
        return np.where(beyond, np.float32(HIDDEN), np.float32(0))[None]

    def own_row(self) -> np.ndarray:
        """(parts, 1) float32: 1 for this rank's part."""
        return np.eye(self.parts, dtype=np.float32)[:, self.index : self.index + 1]


class OwnIds(nn.Cell):
    """ids -> (ids counted from this rank's first row, 0 where it is another's; whether it is this rank's)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.first, self.rows = vocabulary.first, vocabulary.rows

    def construct(self, ids: Any) -> Any:
        local = ids - self.first
        inside = ops.logical_and(local >= 0, local < self.rows)
        return local * ops.cast(inside, local.dtype), inside


class WordEmbedding(nn.Cell):
    """A table of one row a token, cut by rows over the model group; (B, S) ids -> (B, S, h)."""

    def __init__(self, config: BloomConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        shape = (vocabulary.rows, config.hidden_size)
        self.embedding_table = parameter(shape, dtype_of(config.embedding_init_type), "embedding_table")
        self.gather = ops.Gather()
        self.is_cut = vocabulary.parts > 1
        self.own_ids = OwnIds(vocabulary)
        self.reduce = ReduceFromModelGroup(vocabulary.group)

    def construct(self, ids: Any) -> Any:
        if not self.is_cut:
            return self.gather(self.embedding_table, ids, 0)
        local, inside = self.own_ids(ids)
        rows = self.gather(self.embedding_table, local, 0)
        return self.reduce(rows * ops.expand_dims(ops.cast(inside, rows.dtype), -1))


class GatherFromModelGroup(nn.Cell):
    """(n, c) of every rank -> (n, parts, c) on every rank; backward, each takes its own part."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.index = member.index
        self.all_gather = all_gather_of(member, ndim=2, axis=1)

    def construct(self, x: Any) -> Any:
        return self.all_gather(x)

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return (dout[:, self.index],)


class GatherLogits(nn.Cell):
    """(n, c) of every rank -> (n, V) on every rank, without padding."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.is_cut = vocabulary.parts > 1
        self.gather = GatherFromModelGroup(Member(vocabulary.group, vocabulary.index, vocabulary.parts))
        self.size = vocabulary.size

    def construct(self, logits: Any) -> Any:
        if not self.is_cut:
            return logits
        return ops.reshape(self.gather(logits), (logits.shape[0], -1))[:, : self.size]
