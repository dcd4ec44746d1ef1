"""The network with a cache: it reads some tokens and gives the logits of the next one.

Keys and values of what was read are kept in Parameters of a fixed size, so that the same two graphs, one for
the prompt and one for single tokens, serve a whole answer.

B batch, S tokens read at once, C positions in the cache, h hidden_size, H heads of this rank, d head size.

Who reads texts through the network, and gives the logits of the token after each.

With a cache, a token is read once; without, everything is read again for each token. B batch, S tokens read
at once, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.devices.device import dtype_of, warn_once
from model.errors import ModelError
from model.inference.transposed_weights import TurnedHead, TurnedLinear, TurnedMlp, TurnedQkv, turning_pays
from model.network.attention import HIDDEN
from model.network.bloom import Block, BloomLMHeadModel
from orchestrator.families.bloom import BloomConfig
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "CACHED_NETWORKS",
    "CachedNetwork",
    "CachedReader",
    "IdsToLogits",
    "PlainReader",
    "bucket",
    "cached_network",
    "has_cache",
]


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


# The network with a cache of each family that has one, by the name of its table: a Cell of the same inputs
# and outputs as this one, with `blocks` that have `keys` and `values`, and `one_row`.
CACHED_NETWORKS: dict[str, Callable[..., nn.Cell]] = {"bloom": CachedNetwork}


def has_cache(config: NetworkConfig) -> bool:
    """Whether the family's network can keep keys and values; where it cannot, asking costs one warning."""
    found = config.family.name in CACHED_NETWORKS
    if not found:
        warn_once(f"use_past: {config.family.title} has no network with a cache; each token reads all again")
    return found


def cached_network(
    network: nn.Cell, config: NetworkConfig, batch: int, capacity: int, *, turned: bool = False
) -> nn.Cell:
    """The network with a cache. ModelError: its family has none."""
    if config.family.name not in CACHED_NETWORKS:
        raise ModelError(f"{config.family.title} has no network with a cache", where="model")
    return CACHED_NETWORKS[config.family.name](network, config, batch, capacity, turned=turned)


class IdsToLogits(_ToldOnce):
    """Embedding and cached network as one graph: (B, S) ids, and what the network takes beside them.

    Where the head has no table of its own (`one_row`), this costs: a graph that reads the embedding's table,
    writes caches and reads the table again makes MindSpore copy it, twice, for every token.
    """

    def __init__(self, embedding: nn.Cell, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.network = embedding, network

    def construct(self, ids: Any, starts: Any, last: Any) -> Any:
        return self.network(self.embedding(ids), starts, last)


# In this phase MindSpore runs the graph that it compiled first, without asking each time, for nearly a
# millisecond, which graph the inputs need. Single tokens always have the same shapes.
ONE_TOKEN = "increment"

SMALLEST_BUCKET = 16


def bucket(length: int, limit: int) -> int:
    """The size of the graph that serves `length`: a power of two, or `limit`. Few sizes, few compilations."""
    return min(max(SMALLEST_BUCKET, 2 ** math.ceil(math.log2(length))), limit)


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

    def __init__(self, network: nn.Cell, config: NetworkConfig, batch: int, capacity: int) -> None:
        self.rows, self.capacity, self._pad = batch, capacity, config.pad_token_id
        embedding = network.transformer.embedding
        cached = cached_network(network, config, batch, capacity, turned=turning_pays(config))
        self.network = cached.set_train(False)
        self._whole = IdsToLogits(embedding, self.network).set_train(False)
        self._embedding = Embedded(embedding).set_train(False)
        self._reordered = _Reordered(self.network.blocks, batch)
        self._cells = [self._whole] if self.network.one_row else [self._embedding, self.network]
        self._prompt_phase = self._whole.phase
        self._lengths = np.zeros(batch, np.int32)

    @property
    def compiled(self) -> int:
        """How many graphs have been compiled: one for each length that is read at once."""
        return len(self._whole.compile_cache) + len(self.network.compile_cache)

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
        for cell in self._cells:
            cell.phase = ONE_TOKEN if ids.shape[1] == 1 else self._prompt_phase
        places = ms.Tensor(starts), ms.Tensor(last)
        *before, last_cell = self._cells
        x = ms.Tensor(ids)
        for cell in before:
            x = cell(x)
        return np.asarray(last_cell(x, *places).asnumpy())


class NextLogits(nn.Cell):
    """(B, S) ids and (B,) last positions -> (B, V) logits of the token after each."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, ids: Any, last: Any) -> Any:
        hidden = self.network.transformer(ids)  # (B, S, h)
        rows = ops.arange(0, ids.shape[0])
        return self.network.head(hidden[rows, last])


class PlainReader:
    """The same without a cache: reads everything again for each token."""

    def __init__(self, network: nn.Cell, config: NetworkConfig, batch: int, capacity: int) -> None:
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
