"""Bloom, the network of "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model" (2022).

Parameters carry MindFormers' names, so its published checkpoints load unchanged:
`transformer.embedding.word_embedding.embedding_table`, `transformer.blocks.0.attention.dense1.weight`, ….
"""

from __future__ import annotations

import zlib
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.attention import AlibiBias, alibi_slopes
from model.config import BloomConfig
from model.device import dtype_of
from model.layers import Block, LayerNorm, parameter
from model.parallel import Groups, Place, Strategy, cut, full_shape

__all__ = ["BloomLMHeadModel", "BloomModel", "build", "initialise", "recompute_blocks"]


class WordEmbedding(nn.Cell):
    """A table of one row a token, whole on every rank; (B, S) ids -> (B, S, h)."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        shape, dtype = (config.vocab_size, config.hidden_size), dtype_of(config.embedding_init_type)
        self.embedding_table = parameter(shape, dtype, "embedding_table")
        self.gather = ops.Gather()

    def construct(self, ids: Any) -> Any:
        return self.gather(self.embedding_table, ids, 0)


class Embedding(nn.Cell):
    """Word embedding and its norm; Bloom has no position embedding."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.word_embedding = WordEmbedding(config)
        self.norm = LayerNorm(config)
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Any) -> Any:
        return ops.cast(self.norm(self.word_embedding(ids)), self.compute_type)


class BloomModel(nn.Cell):
    """Embedding, blocks, last norm; (B, S) ids -> (B, S, h).

    Sequences are padded on the right, so the causal mask alone keeps padding out of real positions.
    """

    def __init__(self, config: BloomConfig, strategy: Strategy, place: Place, groups: Groups) -> None:
        super().__init__()
        parts = strategy.model_parallel
        self.embedding = Embedding(config)
        self.blocks = nn.CellList([Block(config, parts, groups.model) for _ in range(config.num_layers)])
        self.ln_f = LayerNorm(config)
        self.bias = AlibiBias(config, np.split(alibi_slopes(config.num_heads), parts)[place.mp])

    def construct(self, ids: Any) -> Any:
        bias = self.bias(ids.shape[1])  # (1, H, S, S)
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, bias)
        return self.ln_f(x)


class BloomLMHeadModel(nn.Cell):
    """Bloom with its head, which is tied to the embedding; (B, S) ids -> (B, S, V) float32 logits."""

    def __init__(self, config: BloomConfig, strategy: Strategy, place: Place, groups: Groups) -> None:
        super().__init__()
        self.transformer = BloomModel(config, strategy, place, groups)
        self.matmul = ops.MatMul(transpose_b=True)
        self.hidden_size = config.hidden_size
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Any) -> Any:
        batch, length = ids.shape
        return ops.reshape(self.head(self.transformer(ids)), (batch, length, -1))

    def head(self, x: Any) -> Any:
        """(…, h) -> (n, V) float32, the leading axes as one."""
        table = ops.cast(self.transformer.embedding.word_embedding.embedding_table, self.compute_type)
        return ops.cast(self.matmul(ops.reshape(x, (-1, self.hidden_size)), table), ms.float32)


def build(
    config: BloomConfig,
    strategy: Strategy | None = None,
    place: Place | None = None,
    groups: Groups | None = None,
) -> BloomLMHeadModel:
    """This rank's part of the network, weights not yet set; without arguments, the whole of it."""
    strategy, place = strategy or Strategy(), place or Place(0, 0, 0, 0)
    config.check_model_parallel(strategy.model_parallel)
    network = BloomLMHeadModel(config, strategy, place, groups or Groups())
    for name, item in network.parameters_and_names():
        item.name = name
    return network


def initialise(network: nn.Cell, config: BloomConfig, seed: int, strategy: Strategy, place: Place) -> None:
    """Fill the weights from the seed: matrices normal(0, initializer_range), biases 0, norms 1 and 0.

    Each tensor is drawn whole from a stream of its own name and then cut, so every strategy starts
    from the same weights.
    """
    for name, item in network.parameters_and_names():
        if item.ndim < 2:
            continue
        stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
        shape = full_shape(name, item.shape, strategy)
        full = stream.standard_normal(shape, dtype=np.float32) * config.initializer_range
        part = np.ascontiguousarray(cut(name, full, strategy, place))
        item.set_data(ms.Tensor(part, item.dtype))


def recompute_blocks(network: BloomLMHeadModel) -> None:
    """Keep only the blocks' inputs for the backward pass, which computes each block once more."""
    for block in network.transformer.blocks:
        block.recompute()
