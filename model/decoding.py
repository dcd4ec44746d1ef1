"""The network as it is used to answer: it reads some tokens and gives the logits of the next one.

With a cache, keys and values of what was read are kept in Parameters of a fixed size, so that the same
two graphs, one for the prompt and one for single tokens, serve a whole answer. Without, everything is
read again for each token.

B batch, S tokens read at once, C positions in the cache, h hidden_size, H heads of this rank, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.attention import HIDDEN
from model.bloom import BloomLMHeadModel
from model.config import BloomConfig
from model.device import dtype_of
from model.layers import Block

__all__ = ["CachedReader", "PlainReader", "bucket"]

SMALLEST_BUCKET = 16


def bucket(length: int, limit: int) -> int:
    """The size of the graph that serves `length`: a power of two, or `limit`. Few sizes, few compilations."""
    return min(max(SMALLEST_BUCKET, 2 ** math.ceil(math.log2(length))), limit)


class CachedBlock(nn.Cell):
    """A block whose queries also see the keys and values that it has kept; (B, S, h) -> (B, S, h)."""

    def __init__(self, block: Block, config: BloomConfig, batch: int, capacity: int) -> None:
        super().__init__(auto_prefix=False)
        self.layernorm1, self.layernorm2 = block.layernorm1, block.layernorm2
        self.attention, self.output = block.attention, block.output
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
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.softmax_type = dtype_of(config.softmax_compute_type)

    def construct(self, x: Any, bias: Any, rows: Any) -> Any:
        x = x + self.attend(self.layernorm1(x), bias, rows)
        return x + self.output(self.layernorm2(x))

    def attend(self, x: Any, bias: Any, rows: Any) -> Any:
        batch, length, _ = x.shape
        x = self.attention.copy(x)
        q = self.attention.split_heads(self.attention.dense1(x))  # (B, H, S, d)
        k = self.attention.split_heads(self.attention.dense2(x))
        v = self.attention.split_heads(self.attention.dense3(x))
        k = ops.reshape(self.keep(self.keys, rows, ops.reshape(k, (-1, self.head_size))), self.whole)
        v = ops.reshape(self.keep(self.values, rows, ops.reshape(v, (-1, self.head_size))), self.whole)
        scores = ops.cast(self.scores(q * self.scale, k), self.softmax_type) + bias  # (B, H, S, C)
        out = self.weigh(ops.cast(ops.softmax(scores, -1), v.dtype), v)
        out = ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (batch, length, self.heads * self.head_size))
        return self.attention.projection(out)


class CachedNetwork(nn.Cell):
    """(B, S, h) embedded tokens, (B,) positions of the first of them, (B,) which of the S is the last
    real one -> (B, V) logits of the token after that.

    The embedding is a graph of its own: one that reads the table, writes caches and reads the table again
    for the head makes MindSpore copy the table, twice, for every token.
    """

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig, batch: int, capacity: int) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.blocks = nn.CellList(
            [CachedBlock(block, config, batch, capacity) for block in network.transformer.blocks],
            auto_prefix=False,
        )
        for index, block in enumerate(self.blocks):
            block.keys.name, block.values.name = f"cache.{index}.keys", f"cache.{index}.values"
        self.slopes = network.transformer.bias.slopes  # (1, H, 1, 1)
        heads = self.slopes.shape[1]
        self.positions = ms.Tensor(np.arange(capacity, dtype=np.float32).reshape(1, 1, 1, capacity))
        first_rows = np.arange(batch * heads, dtype=np.int32) * capacity
        self.first_rows = ms.Tensor(first_rows.reshape(batch, heads, 1))
        self.lines = ms.Tensor(np.arange(batch, dtype=np.int32))
        self.softmax_type = dtype_of(config.softmax_compute_type)

    @property
    def compile_phase(self) -> Any:
        return nn.Cell.compile_phase.fget(self)

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        # MindSpore tells it to every cell at every call, milliseconds in a deep network; once is enough.
        if value != self.compile_phase:
            nn.Cell.compile_phase.fset(self, value)

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
        return self.network.head(self.network.transformer.ln_f(x))


class Embedded(nn.Cell):
    """(B, S) ids -> (B, S, h)."""

    def __init__(self, embedding: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding = embedding

    def construct(self, ids: Any) -> Any:
        return self.embedding(ids)


class _Reordered(nn.Cell):
    """Every row of the batch takes over the cache of another: (B,) the rows that are continued."""

    def __init__(self, blocks: nn.CellList, batch: int) -> None:
        super().__init__(auto_prefix=False)
        self.caches = ms.ParameterTuple([item for block in blocks for item in (block.keys, block.values)])
        self.batch = batch

    def construct(self, order: Any) -> Any:
        done = order
        for cache in self.caches:
            parts = ops.reshape(cache, (self.batch, -1))
            done = ops.depend(done, ops.assign(cache, ops.reshape(ops.gather(parts, order, 0), cache.shape)))
        return done


class CachedReader:
    """Reads prompts in one pass, then token by token, for one batch size and one capacity."""

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig, batch: int, capacity: int) -> None:
        self.rows, self.capacity, self._pad = batch, capacity, config.pad_token_id
        self.embedding = Embedded(network.transformer.embedding).set_train(False)
        self.network = CachedNetwork(network, config, batch, capacity).set_train(False)
        self._reordered = _Reordered(self.network.blocks, batch)
        self._lengths = np.zeros(batch, np.int32)

    def start(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Forget everything and read the texts, one a row; (B, V) logits of the token after each."""
        self._lengths = np.array([len(text) for text in texts], np.int32)
        ids = np.full((len(texts), bucket(int(self._lengths.max()), self.capacity)), self._pad, np.int32)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        return self._read(ids, np.zeros_like(self._lengths), self._lengths - 1)

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """One more token of every row; (B, V) logits of the token after it."""
        # A row that is done is fed on with its neighbours; at the end of the cache it stays on the spot.
        starts = np.minimum(self._lengths, self.capacity - 1)
        self._lengths = self._lengths + 1
        return self._read(np.array(tokens, np.int32)[:, None], starts, np.zeros_like(starts))

    def reorder(self, rows: Sequence[int]) -> None:
        """Let row i go on with what row `rows[i]` has read."""
        if list(rows) != list(range(len(rows))):
            self._reordered(ms.Tensor(np.array(rows, np.int32)))
            self._lengths = self._lengths[list(rows)]

    def _read(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        logits = self.network(self.embedding(ms.Tensor(ids)), ms.Tensor(starts), ms.Tensor(last))
        return np.asarray(logits.asnumpy())


class NextLogits(nn.Cell):
    """(B, S) ids and (B,) last positions -> (B, V) logits of the token after each."""

    def __init__(self, network: BloomLMHeadModel) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, ids: Any, last: Any) -> Any:
        hidden = self.network.transformer(ids)  # (B, S, h)
        rows = ops.arange(0, ids.shape[0])
        return self.network.head(hidden[rows, last])


class PlainReader:
    """The same without a cache: reads everything again for each token."""

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig, batch: int, capacity: int) -> None:
        self.rows, self.capacity, self._pad = batch, capacity, config.pad_token_id
        self.network = NextLogits(network).set_train(False)
        self._texts: list[list[int]] = [[] for _ in range(batch)]

    def start(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        self._texts = [list(text) for text in texts]
        return self._read()

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        for text, token in zip(self._texts, tokens, strict=True):
            if len(text) < self.capacity:
                text.append(token)
        return self._read()

    def reorder(self, rows: Sequence[int]) -> None:
        self._texts = [list(self._texts[row]) for row in rows]

    def _read(self) -> np.ndarray:
        lengths = np.array([len(text) for text in self._texts], np.int32)
        ids = np.full((len(self._texts), self.capacity), self._pad, np.int32)
        for row, text in enumerate(self._texts):
            ids[row, : len(text)] = text
        return np.asarray(self.network(ms.Tensor(ids), ms.Tensor(lengths - 1)).asnumpy())
