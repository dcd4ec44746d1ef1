"""Attention and ALiBi with a cache of keys and values, and its readers: ids in, the next logits out.

The arithmetic is that of `network.bloom`, one row of the cache for each row of the batch, head and position.
The cache is held in Parameters of a fixed size, so that the same two graphs, one for the prompt and one for
single tokens, serve a whole answer. With a cache, a token is read once; without (`PlainReader`), all is read
again for each token.

B batch, S tokens read at once, C positions in the cache, h hidden_size, H heads of this rank, d head size,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.devices.device import dtype_of, warn_once
from model.errors import ModelError
from model.inference.transposed_weights import (
    TransposedHead,
    TransposedLinear,
    TransposedMlp,
    TransposedQkv,
    copies_pay,
)
from model.network.bloom import Block, BloomLMHeadModel, PlainAttention, alibi
from orchestrator.families.bloom import BloomConfig
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "CACHED_NETWORKS",
    "CachedNetwork",
    "CachedReader",
    "IdsToLogits",
    "IncrementalReader",
    "PlainReader",
    "ReorderedCaches",
    "bucket",
    "cached_network",
    "has_cache",
]


class CachedBlock(nn.Cell):
    """A block whose queries also see the keys and values that it has kept; (B, S, h) -> (B, S, h).

    With `copies_of`, a name for them, it multiplies by transposed copies of its weights.
    """

    def __init__(
        self, block: Block, config: BloomConfig, batch: int, capacity: int, copies_of: str | None = None
    ) -> None:
        super().__init__(auto_prefix=False)
        self.layernorm1, self.layernorm2 = block.layernorm1, block.layernorm2
        self.attention, self.plain = block.attention, PlainAttention(config)
        self.projection: nn.Cell = block.attention.projection
        self.output: nn.Cell = block.output
        self.one_product = copies_of is not None and batch == 1
        if copies_of is not None:
            self.projection = TransposedLinear(block.attention.projection, f"{copies_of}.attention")
            self.output = TransposedMlp(block.output, copies_of)
            if batch == 1:
                self.qkv = TransposedQkv(block.attention, self.plain.scale, copies_of)
        self.head_size = config.head_size
        self.shape = (batch, block.attention.heads, capacity, config.head_size)
        # One row for each row of the batch, head and position, so that one index names where a key goes.
        nothing = np.zeros((math.prod(self.shape[:3]), config.head_size), np.float32)
        self.keys, self.values = (
            ms.Parameter(Tensor(nothing, dtype_of(config.compute_dtype)), name, requires_grad=False)
            for name in ("keys", "values")
        )
        self.keep = ops.ScatterUpdate()

    def construct(self, x: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        x = x + self.attend(self.layernorm1(x), bias, rows)
        return x + self.output(self.layernorm2(x))

    def attend(self, x: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
        x = self.attention.copy(x)
        if self.one_product and x.shape[1] == 1:
            q, k, v = self.qkv(x)
        else:
            q, k, v = self.attention.queries_keys_values(x)  # (B, H, S, d)
            q = q * self.plain.scale
        k = ops.reshape(self.keep(self.keys, rows, ops.reshape(k, (-1, self.head_size))), self.shape)
        v = ops.reshape(self.keep(self.values, rows, ops.reshape(v, (-1, self.head_size))), self.shape)
        return self.projection(self.attention.merge_heads(self.plain.of_scaled(q, k, v, bias)))


class _PhaseSetOnce(nn.Cell):
    """A cell that is called often: MindSpore sets the phase of all cells in it, which takes a millisecond."""

    @property
    def compile_phase(self) -> Any:
        return nn.Cell.compile_phase.fget(self)

    @compile_phase.setter
    def compile_phase(self, value: str) -> None:
        if value != self.compile_phase:
            nn.Cell.compile_phase.fset(self, value)


class CachedNetwork(_PhaseSetOnce):
    """(B, S, h) embedded tokens, (B,) positions of the first of them, (B,) which of the S is the last
    real one -> (B, V) logits of the token after that.

    With `transposed` it multiplies by copies of the weights that suit the CPU, see `transposed_weights`.
    """

    def __init__(
        self,
        network: BloomLMHeadModel,
        config: BloomConfig,
        batch: int,
        capacity: int,
        *,
        transposed: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.blocks = nn.CellList(
            [
                CachedBlock(block, config, batch, capacity, f"transposed.{index}" if transposed else None)
                for index, block in enumerate(network.transformer.blocks)
            ],
            auto_prefix=False,
        )
        self.one_row = transposed and batch == 1
        if self.one_row:
            self.head = TransposedHead(network)
        for index, block in enumerate(self.blocks):
            block.keys.name, block.values.name = f"cache.{index}.keys", f"cache.{index}.values"
        self.slopes = network.transformer.bias.slopes  # (1, H, 1, 1)
        heads = self.slopes.shape[1]
        self.positions = Tensor(np.arange(capacity, dtype=np.float32).reshape(1, 1, 1, capacity))
        first_rows = np.arange(batch * heads, dtype=np.int32) * capacity
        self.first_rows = Tensor(first_rows.reshape(batch, heads, 1))
        self.lines = Tensor(np.arange(batch, dtype=np.int32))
        self.softmax_type = dtype_of(config.softmax_compute_type)

    def construct(self, x: Tensor, starts: Tensor, last: Tensor) -> Tensor:
        batch, length, _ = x.shape
        steps = ops.reshape(starts, (batch, 1)) + ops.arange(0, length, dtype=ms.int32)  # (B, S)
        rows = ops.reshape(self.first_rows + ops.reshape(steps, (batch, 1, length)), (-1,))
        queries = ops.cast(ops.reshape(steps, (batch, 1, length, 1)), ms.float32)
        bias = alibi(self.slopes, self.positions - queries, self.softmax_type)  # (B, H, S, C)
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
    network: nn.Cell, config: NetworkConfig, batch: int, capacity: int, *, transposed: bool = False
) -> nn.Cell:
    """The network with a cache. ModelError: its family has none."""
    if config.family.name not in CACHED_NETWORKS:
        raise ModelError(f"{config.family.title} has no network with a cache", where="model")
    return CACHED_NETWORKS[config.family.name](network, config, batch, capacity, transposed=transposed)


class IdsToLogits(_PhaseSetOnce):
    """Embedding and cached network as one graph: (B, S) ids, and what the network takes beside them.

    Where the head has no table of its own (`one_row`), this costs: a graph that reads the embedding's table,
    writes caches and reads the table again makes MindSpore copy it, twice, for every token.
    """

    def __init__(self, embedding: nn.Cell, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.network = embedding, network

    def construct(self, ids: Tensor, starts: Tensor, last: Tensor) -> Tensor:
        return self.network(self.embedding(ids), starts, last)


# In this phase MindSpore runs the graph that it compiled first, without asking each time, for nearly a
# millisecond, which graph the inputs need. Single tokens always have the same shapes.
ONE_TOKEN = "increment"

SMALLEST_BUCKET = 16


def bucket(length: int, limit: int) -> int:
    """The size of the graph that serves `length`: a power of two, or `limit`. Few sizes, few compilations."""
    return min(max(SMALLEST_BUCKET, 1 << math.ceil(math.log2(length))), limit)


class Embedded(nn.Cell):
    """(B, S) ids -> (B, S, h)."""

    def __init__(self, embedding: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.embedding = embedding

    def construct(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)


class ReorderedCaches(nn.Cell):
    """Every row of the batch takes over the cache of another: (B,) the rows that are continued."""

    def __init__(self, blocks: nn.CellList, batch: int) -> None:
        super().__init__(auto_prefix=False)
        self.caches = ms.ParameterTuple([item for block in blocks for item in (block.keys, block.values)])
        self.batch = batch

    def construct(self, order: Tensor) -> Tensor:
        done = order
        for cache in self.caches:
            parts = ops.reshape(cache, (self.batch, -1))
            done = ops.depend(done, ops.assign(cache, ops.reshape(ops.gather(parts, order, 0), cache.shape)))
        return done


def padded(prompts: Sequence[Sequence[int]], length: int, pad: int) -> NDArray[np.int32]:
    """Rows of ids, each filled up with `pad` to `length`."""
    ids = np.full((len(prompts), length), pad, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return ids


class IncrementalReader:
    """Reads prompts in one pass, then token by token, for one batch size and one capacity.

    A kind of reader gives `_read` and, where it has graphs of several sizes, `_size`.
    """

    def __init__(self, rows: int, capacity: int, pad: int) -> None:
        self.rows, self.capacity, self._pad = rows, capacity, pad
        self._lengths = np.zeros(rows, np.int32)

    def start(self, prompts: Sequence[Sequence[int]]) -> NDArray[Any]:
        """Forget everything and read the prompts, one a row; (B, V) logits of the token after each."""
        self._lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        ids = padded(prompts, self._size(int(self._lengths.max())), self._pad)
        return self._read(ids, np.zeros_like(self._lengths), self._lengths - 1)

    def read(self, tokens: Sequence[int]) -> NDArray[Any]:
        """One more token of every row; (B, V) logits of the token after it."""
        # A row that is done is fed on with its neighbours; at the end of the cache it stays on the spot.
        starts = np.minimum(self._lengths, self.capacity - 1)
        self._lengths = self._lengths + 1
        return self._read(np.array(tokens, np.int32)[:, None], starts, np.zeros_like(starts))

    def _size(self, longest: int) -> int:
        """How many ids are read at once where a prompt has `longest`."""
        return self.capacity

    def _read(self, ids: NDArray[Any], starts: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
        """(B, S) ids, at positions from `starts` (B,) on -> (B, V) logits after the `last` (B,) of them."""
        raise NotImplementedError


class CachedReader(IncrementalReader):
    """A reader through the network with its cache."""

    def __init__(self, network: nn.Cell, config: NetworkConfig, batch: int, capacity: int) -> None:
        super().__init__(batch, capacity, config.pad_token_id)
        embedding = network.transformer.embedding
        transposed = copies_pay(config)
        cached = cached_network(network, config, batch, capacity, transposed=transposed)
        self.network = cached.set_train(False)
        self._whole = IdsToLogits(embedding, self.network).set_train(False)
        self._embedding = Embedded(embedding).set_train(False)
        self._reordered = ReorderedCaches(self.network.blocks, batch)
        self._cells = [self._whole] if self.network.one_row else [self._embedding, self.network]
        self._prompt_phase = self._whole.phase

    @property
    def compiled(self) -> int:
        """How many graphs have been compiled: one for each length that is read at once."""
        return len(self._whole.compile_cache) + len(self.network.compile_cache)

    def reorder(self, rows: Sequence[int]) -> None:
        """Let row i go on with what row `rows[i]` has read."""
        if list(rows) != list(range(len(rows))):
            self._reordered(Tensor(np.array(rows, np.int32)))
            self._lengths = self._lengths[list(rows)]

    def _size(self, longest: int) -> int:
        return bucket(longest, self.capacity)

    def _read(self, ids: NDArray[Any], starts: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
        for cell in self._cells:
            cell.phase = ONE_TOKEN if ids.shape[1] == 1 else self._prompt_phase
        places = Tensor(starts), Tensor(last)
        *before, last_cell = self._cells
        x = Tensor(ids)
        for cell in before:
            x = cell(x)
        return np.asarray(last_cell(x, *places).asnumpy())


class NextLogits(nn.Cell):
    """(B, S) ids and (B,) last positions -> (B, V) logits of the token after each."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, ids: Tensor, last: Tensor) -> Tensor:
        hidden = self.network.transformer(ids)  # (B, S, h)
        rows = ops.arange(0, ids.shape[0])
        logits: Tensor = self.network.head(hidden[rows, last])
        return logits


class PlainReader:
    """The same without a cache: reads everything again for each token."""

    def __init__(self, network: nn.Cell, config: NetworkConfig, batch: int, capacity: int) -> None:
        self.rows, self.capacity, self._pad = batch, capacity, config.pad_token_id
        self.network = NextLogits(network).set_train(False)
        self._prompts: list[list[int]] = [[] for _ in range(batch)]

    def start(self, prompts: Sequence[Sequence[int]]) -> NDArray[Any]:
        self._prompts = [list(prompt) for prompt in prompts]
        return self._read()

    def read(self, tokens: Sequence[int]) -> NDArray[Any]:
        for prompt, token in zip(self._prompts, tokens, strict=True):
            if len(prompt) < self.capacity:
                prompt.append(token)
        return self._read()

    def reorder(self, rows: Sequence[int]) -> None:
        self._prompts = [list(self._prompts[row]) for row in rows]

    def _read(self) -> NDArray[Any]:
        last = np.array([len(prompt) - 1 for prompt in self._prompts], np.int32)
        ids = padded(self._prompts, self.capacity, self._pad)
        return np.asarray(self.network(Tensor(ids), Tensor(last)).asnumpy())
