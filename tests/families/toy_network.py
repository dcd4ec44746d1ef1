"""The toy's network in MindSpore, from the parts that Bloom's has: no positions, a causal mask, ReLU."""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.network.bloom import GatherLogits, Vocabulary, WordEmbedding, parameter
from model.parallel.mesh import CopyToModelGroup, Groups, Place, ReduceFromModelGroup, Strategy
from orchestrator.checkpoint.cut.network_cut import stage_blocks
from tests.families.toy import ToyConfig

__all__ = ["ToyNetwork"]


class Norm(nn.Cell):
    """x / rms(x) * weight."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.weight = parameter((config.hidden_size,), ms.float32, "weight", 1.0)

    def construct(self, x: Any) -> Any:
        return x * ops.rsqrt(ops.reduce_mean(x * x, -1).expand_dims(-1) + 1e-6) * self.weight


class Product(nn.Cell):
    """x @ weight, or its transpose; (…, in) -> (…, out)."""

    def __init__(self, shape: tuple[int, int], transpose: bool, reduce: nn.Cell | None = None) -> None:
        super().__init__()
        self.weight = parameter(shape, ms.float32, "weight")
        self.matmul = ops.MatMul(transpose_b=transpose)
        self.out_size = shape[0] if transpose else shape[1]
        self.reduce = reduce or nn.Identity()

    def construct(self, x: Any) -> Any:
        out = self.matmul(ops.reshape(x, (-1, x.shape[-1])), self.weight)
        return self.reduce(ops.reshape(out, (*x.shape[:-1], self.out_size)))


class Attention(nn.Cell):
    def __init__(self, config: ToyConfig, parts: int, group: str | None) -> None:
        super().__init__()
        hidden, self.size = config.hidden_size, config.head_size
        self.heads, self.kv_heads = config.num_heads // parts, config.num_kv_heads // parts
        self.copy = CopyToModelGroup(group)
        self.wq = Product((hidden // parts, hidden), True)
        self.wk = Product((config.kv_size // parts, hidden), True)
        self.wv = Product((config.kv_size // parts, hidden), True)
        self.projection = Product((hidden // parts, hidden), False, ReduceFromModelGroup(group))
        self.scale = 1 / math.sqrt(self.size)
        later = np.triu(np.full((config.seq_length,) * 2, -1e4, np.float32), 1)
        self.later = ms.Tensor(later)

    def split(self, x: Any, heads: int) -> Any:
        batch, length, _ = x.shape
        return ops.transpose(ops.reshape(x, (batch, length, heads, self.size)), (0, 2, 1, 3))

    def construct(self, x: Any) -> Any:
        x = self.copy(x)
        batch, length, _ = x.shape
        times = self.heads // self.kv_heads
        q = self.split(self.wq(x), self.heads)
        k = ops.repeat_elements(self.split(self.wk(x), self.kv_heads), times, 1)
        v = ops.repeat_elements(self.split(self.wv(x), self.kv_heads), times, 1)
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * self.scale + self.later[:length, :length]
        out = ops.transpose(ops.matmul(ops.softmax(scores, -1), v), (0, 2, 1, 3))
        return self.projection(ops.reshape(out, (batch, length, -1)))


class Mlp(nn.Cell):
    def __init__(self, config: ToyConfig, parts: int, group: str | None) -> None:
        super().__init__()
        inner, hidden = config.ffn_size // parts, config.hidden_size
        self.copy = CopyToModelGroup(group)
        self.up = Product((inner, hidden), True)
        self.projection = Product((inner, hidden), False, ReduceFromModelGroup(group))

    def construct(self, x: Any) -> Any:
        return self.projection(ops.relu(self.up(self.copy(x))))


class Block(nn.Cell):
    def __init__(self, config: ToyConfig, parts: int, group: str | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(config), Norm(config)
        self.attention, self.output = Attention(config, parts, group), Mlp(config, parts, group)

    def construct(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.output(self.norm2(x))


class Embedding(nn.Cell):
    def __init__(self, config: ToyConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.word_embedding = WordEmbedding(config, vocabulary)

    def construct(self, ids: Any) -> Any:
        return self.word_embedding(ids)


class Transformer(nn.Cell):
    def __init__(self, config: ToyConfig, strategy: Strategy, place: Place, vocabulary: Vocabulary) -> None:
        super().__init__()
        stages = strategy.pipeline_stage
        numbers = stage_blocks(config.num_layers, stages, place.pp)
        if place.pp == 0:
            self.embedding = Embedding(config, vocabulary)
        parts, group = vocabulary.parts, vocabulary.group
        self.blocks = nn.CellList([Block(config, parts, group) for _ in numbers])
        if place.pp == stages - 1:
            self.ln_f = Norm(config)
        self.first_block = numbers.start

    def construct(self, ids: Any) -> Any:
        return self.ln_f(self.run_blocks(self.embedding(ids)))

    def run_blocks(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x


class Head(nn.Cell):
    def __init__(self, config: ToyConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.weight = parameter((vocabulary.rows, config.hidden_size), ms.float32, "weight")


class ToyNetwork(nn.Cell):
    """(B, S) ids -> (B, S, V) float32 logits."""

    def __init__(self, config: ToyConfig, strategy: Strategy, place: Place, groups: Groups) -> None:
        super().__init__()
        self.vocabulary = Vocabulary.of(config, strategy, place, groups)
        self.transformer = Transformer(config, strategy, place, self.vocabulary)
        if place.pp == strategy.pipeline_stage - 1:
            self.lm_head = Head(config, self.vocabulary)
        self.copy = CopyToModelGroup(groups.model)
        self.matmul = ops.MatMul(transpose_b=True)
        self.gather = GatherLogits(self.vocabulary)
        self.padding = ms.Tensor(self.vocabulary.padding())
        self.hidden_size = config.hidden_size

    def construct(self, ids: Any) -> Any:
        batch, length = ids.shape
        return ops.reshape(self.head(self.transformer(ids)), (batch, length, -1))

    def head(self, x: Any) -> Any:
        return self.gather(self.own_head(x))

    def own_head(self, x: Any) -> Any:
        return self.matmul(*self.head_operands(x)) + self.padding

    def head_operands(self, x: Any) -> Any:
        return ops.reshape(self.copy(x), (-1, self.hidden_size)), self.lm_head.weight
