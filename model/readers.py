"""Who reads texts through the network, and gives the logits of the token after each.

With a cache, a token is read once; without, everything is read again for each token. B batch, S tokens read
at once, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.bloom import BloomLMHeadModel
from model.config import BloomConfig
from model.cpu_weights import turning_pays
from model.decoding import CachedNetwork, IdsToLogits

__all__ = ["CachedReader", "PlainReader", "bucket"]

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

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig, batch: int, capacity: int) -> None:
        self.rows, self.capacity, self._pad = batch, capacity, config.pad_token_id
        embedding = network.transformer.embedding
        turned = turning_pays(config)
        self.network = CachedNetwork(network, config, batch, capacity, turned=turned).set_train(False)
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
