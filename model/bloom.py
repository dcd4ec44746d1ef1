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

from model.attention import alibi_slopes, bias_of
from model.config import BloomConfig
from model.device import dtype_of
from model.layers import Block, LayerNorm
from model.parallel import CopyToModelGroup, Groups, Place, Strategy, cut, full_shape, numbered
from model.vocabulary import GatherLogits, Vocabulary, WordEmbedding
from orchestrator.checkpoint.bloom_cut import stage_blocks

__all__ = ["BloomLMHeadModel", "BloomModel", "build", "initialise", "recompute_blocks"]


class Embedding(nn.Cell):
    """Word embedding and its norm; Bloom has no position embedding."""

    def __init__(self, config: BloomConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.word_embedding = WordEmbedding(config, vocabulary)
        self.norm = LayerNorm(config)
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Any) -> Any:
        return ops.cast(self.norm(self.word_embedding(ids)), self.compute_type)


class TiedTable(nn.Cell):
    """The embedding's table alone, as the last stage of a pipeline holds it for its head."""

    def __init__(self, config: BloomConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.word_embedding = WordEmbedding(config, vocabulary)


class BloomModel(nn.Cell):
    """Embedding, blocks, last norm; (B, S) ids -> (B, S, h).

    A pipeline stage holds its own blocks only, under their numbers in the whole network; the first has the
    embedding, the last the norm and, as the head, the embedding's table once more.

    Sequences are padded on the right, so the causal mask alone keeps padding out of real positions.
    """

    def __init__(self, config: BloomConfig, strategy: Strategy, place: Place, groups: Groups) -> None:
        super().__init__()
        parts = strategy.model_parallel
        first, last = place.pp == 0, place.pp == strategy.pipeline_stage - 1
        numbers = stage_blocks(config.num_layers, strategy.pipeline_stage, place.pp)
        if first or last:
            vocabulary = Vocabulary.of(config, strategy, place, groups)
            self.embedding = (Embedding if first else TiedTable)(config, vocabulary)
        self.blocks = nn.CellList([Block(config, parts, groups.model) for _ in numbers])
        if last:
            self.ln_f = LayerNorm(config)
        self.first_block = numbers.start
        self.sequence_parts = 1  # see sequence.cut_sequence
        self.bias = bias_of(config, np.split(alibi_slopes(config.num_heads), parts)[place.mp])

    def construct(self, ids: Any) -> Any:
        return self.ln_f(self.run_blocks(self.embedding(ids)))

    def run_blocks(self, x: Any) -> Any:
        """The blocks of this stage; (B, S, h) -> (B, S, h)."""
        bias = self.bias(x.shape[1] * self.sequence_parts)  # (1, H, rows, S)
        for block in self.blocks:
            x = block(x, bias)
        return x


class BloomLMHeadModel(nn.Cell):
    """Bloom with its head, which is tied to the embedding; (B, S) ids -> (B, S, V) float32 logits."""

    def __init__(self, config: BloomConfig, strategy: Strategy, place: Place, groups: Groups) -> None:
        super().__init__()
        self.vocabulary = Vocabulary.of(config, strategy, place, groups)
        self.transformer = BloomModel(config, strategy, place, groups)
        self.copy = CopyToModelGroup(groups.model)
        self.matmul = ops.MatMul(transpose_b=True)
        self.gather = GatherLogits(self.vocabulary)
        self.padding = ms.Tensor(self.vocabulary.padding())
        self.is_padded = bool(self.vocabulary.size % self.vocabulary.parts)
        self.hidden_size = config.hidden_size
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Any) -> Any:
        batch, length = ids.shape
        return ops.reshape(self.head(self.transformer(ids)), (batch, length, -1))

    def head(self, x: Any) -> Any:
        """(…, h) -> (n, V) float32, the leading axes as one."""
        return self.gather(self.own_head(x))

    def own_head(self, x: Any) -> Any:
        """(…, h) -> (n, c) float32: the logits of this rank's part of the vocabulary."""
        return self.padded(ops.cast(self.matmul(*self.head_operands(x)), ms.float32))

    def head_operands(self, x: Any) -> Any:
        """(…, h) -> (n, h) and the table (c, h), whose product is the logits."""
        table = ops.cast(self.transformer.embedding.word_embedding.embedding_table, self.compute_type)
        return ops.reshape(self.copy(x), (-1, self.hidden_size)), table

    def padded(self, logits: Any) -> Any:
        """(n, c) -> (n, c): what stands for no token can never be chosen."""
        return logits + self.padding if self.is_padded else logits


def build(
    config: BloomConfig,
    strategy: Strategy | None = None,
    place: Place | None = None,
    groups: Groups | None = None,
) -> BloomLMHeadModel:
    """This rank's part of the network, weights not yet set; without arguments, the whole of it."""
    strategy, place = strategy or Strategy(), place or Place(0, 0, 0, 0)
    config.check_model_parallel(strategy.model_parallel)
    strategy.check_vocabulary(config.vocab_size)
    network = BloomLMHeadModel(config, strategy, place, groups or Groups())
    for name, item in network.parameters_and_names():
        item.name = numbered(name, network.transformer.first_block)
    return network


def initialise(network: nn.Cell, config: BloomConfig, seed: int, strategy: Strategy, place: Place) -> None:
    """Fill the weights from the seed: matrices normal(0, initializer_range), biases 0, norms 1 and 0.

    Each tensor is drawn whole from a stream of its own name and then cut, so every strategy starts
    from the same weights.
    """
    for item in network.get_parameters():
        name = item.name
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
