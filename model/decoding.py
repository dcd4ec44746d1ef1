"""The network with a cache: it reads some tokens and gives the logits of the next one.

Keys and values of what was read are kept in Parameters of a fixed size, so that the same two graphs, one for
the prompt and one for single tokens, serve a whole answer.

B batch, S tokens read at once, C positions in the cache, h hidden_size, H heads of this rank, d head size.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.attention import HIDDEN
from model.bloom import BloomLMHeadModel
from model.config import BloomConfig
from model.cpu_weights import TurnedHead, TurnedLinear, TurnedMlp, TurnedQkv
from model.device import dtype_of
from model.layers import Block

__all__ = ["CachedNetwork", "IdsToLogits"]


class CachedBlock(nn.Cell):
    """A block whose queries also see the keys and values that it has kept; (B, S, h) -> (B, S, h)."""

    def __init__(
        self, block: Block, config: BloomConfig, batch: int, capacity: int, turned: str | None = None
    ) -> None:
        super().__init__(auto_prefix=False)
        self.layernorm1, self.layernorm2 = block.layernorm1, block.layernorm2
        self.attention = block.attention
        self.projection: nn.Cell = block.attention.projection
        self.output: nn.Cell = block.output
        self.one_product = turned is not None and batch == 1
        self.scale = 1.0 / math.sqrt(config.head_size)
        if turned is not None:
            self.projection = TurnedLinear(block.attention.projection, f"{turned}.attention")
            self.output = TurnedMlp(block.output, turned)
        if self.one_product:
            self.qkv = TurnedQkv(block.attention, self.scale, turned)
        self.heads, self.head_size = block.attention.heads, config.head_size
        dtype = dtype_of(config.compute_dtype)
        # One row for each row of the batch, head and position, so that one index names where a key goes.
        shape = (batch * self.heads * capacity, config.head_size)
        self.keys = ms.Parameter(ms.Tensor(np.zeros(shape, np.float32), dtype), "keys", requires_grad=False)
        self.values = ms.Parameter(
            ms.Tensor(np.zeros(shape, np.float32), dtype), "values", requires_grad=False
        )
        self.whole = (batch, self.heads, capacity, config.head_size)
        self.keep = ops.ScatterUpdate()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weigh = ops.BatchMatMul()
        self.softmax_type = dtype_of(config.softmax_compute_type)

    def construct(self, x: Any, bias: Any, rows: Any) -> Any:
        x = x + self.attend(self.layernorm1(x), bias, rows)
        return x + self.output(self.layernorm2(x))

    def attend(self, x: Any, bias: Any, rows: Any) -> Any:
        batch, length, _ = x.shape
        x = self.attention.copy(x)
        if self.one_product and length == 1:
            q, k, v = self.qkv(x)
        else:
            q = self.attention.split_heads(self.attention.dense1(x)) * self.scale  # (B, H, S, d)
            k = self.attention.split_heads(self.attention.dense2(x))
            v = self.attention.split_heads(self.attention.dense3(x))
        k = ops.reshape(self.keep(self.keys, rows, ops.reshape(k, (-1, self.head_size))), self.whole)
        v = ops.reshape(self.keep(self.values, rows, ops.reshape(v, (-1, self.head_size))), self.whole)
        scores = ops.cast(self.scores(q, k), self.softmax_type) + bias  # (B, H, S, C)
        out = self.weigh(ops.cast(ops.softmax(scores, -1), v.dtype), v)
        if length > 1:
            out = ops.transpose(out, (0, 2, 1, 3))  # with one token, the order in memory is the same
        return self.projection(ops.reshape(out, (batch, length, self.heads * self.head_size)))


class _ToldOnce(nn.Cell):
    """A cell that is called often: MindSpore tells every cell its phase, which takes a millisecond."""

    @property
    def compile_phase(self) -> Any:
        return nn.Cell.compile_phase.fget(self)

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self.compile_phase:
            nn.Cell.compile_phase.fset(self, value)


class CachedNetwork(_ToldOnce):
    """(B, S, h) embedded tokens, (B,) positions of the first of them, (B,) which of the S is the last
    real one -> (B, V) logits of the token after that.

    `turned` makes it multiply by copies of the weights that suit the CPU, see `cpu_weights`.
    """

    def __init__(
        self,
        network: BloomLMHeadModel,
        config: BloomConfig,
        batch: int,
        capacity: int,
        *,
        turned: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.blocks = nn.CellList(
            [
                CachedBlock(block, config, batch, capacity, f"turned.{index}" if turned else None)
                for index, block in enumerate(network.transformer.blocks)
            ],
            auto_prefix=False,
        )
        self.one_row = turned and batch == 1
        if self.one_row:
            self.head = TurnedHead(network)
        for index, block in enumerate(self.blocks):
            block.keys.name, block.values.name = f"cache.{index}.keys", f"cache.{index}.values"
        self.slopes = network.transformer.bias.slopes  # (1, H, 1, 1)
        heads = self.slopes.shape[1]
        self.positions = ms.Tensor(np.arange(capacity, dtype=np.float32).reshape(1, 1, 1, capacity))
        first_rows = np.arange(batch * heads, dtype=np.int32) * capacity
        self.first_rows = ms.Tensor(first_rows.reshape(batch, heads, 1))
        self.lines = ms.Tensor(np.arange(batch, dtype=np.int32))
        self.softmax_type = dtype_of(config.softmax_compute_type)

    def construct(self, x: Any, starts: Any, last: Any) -> Any:
        batch, length, _ = x.shape
        steps = ops.reshape(starts, (batch, 1)) + ops.arange(0, length, dtype=ms.int32)  # (B, S)
        rows = ops.reshape(self.first_rows + ops.reshape(steps, (batch, 1, length)), (-1,))
        ahead = self.positions - ops.cast(
            ops.reshape(steps, (batch, 1, length, 1)), ms.float32
        )  # (B, 1, S, C)
        bias = self.slopes * ops.minimum(ahead, 0.0) + HIDDEN * ops.cast(ahead > 0, ms.float32)
        bias = ops.cast(bias, self.softmax_type)  # (B, H, S, C)
        for block in self.blocks:
            x = block(x, bias, rows)
        if length > 1:
            x = x[self.lines, last]
        x = self.network.transformer.ln_f(x)
        if self.one_row:
            return self.head(ops.reshape(x, (1, -1)))
        return self.network.head(x)


class IdsToLogits(_ToldOnce):
    """Embedding and cached network as one graph: (B, S) ids, and what the network takes beside them.

    Where the head has no table of its own (`one_row`), this costs: a graph that reads the embedding's table,
    writes caches and reads the table again makes MindSpore copy it, twice, for every token.
    """

    def __init__(self, embedding: nn.Cell, network: CachedNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.network = embedding, network

    def construct(self, ids: Any, starts: Any, last: Any) -> Any:
        return self.network(self.embedding(ids), starts, last)
