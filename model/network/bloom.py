"""Bloom, the network of "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model" (2022).

Top to bottom: norm and linears, ALiBi and attention, MLP and block, embedding and head, the whole. Two parts
are elsewhere: the kernel that does attention on an Ascend (`flash_attention`) and what a CPU computes in
another way (`cpu_kernels`). Decoding with a cache (`inference.cached_attention`) uses the attention that
stands here.

Parameters carry the names that MindFormers' network saves: `embedding.word_embedding.embedding_table`,
`blocks.0.attention.dense1.weight`, …. Files with a prefix before them are read, too.

Heads, inner size of the MLP and vocabulary are sharded over the model group. A sharded layer takes the same
input on every rank of the group and gives the same output on every rank: the shards are not seen from
outside. Where the group's size does not divide the vocabulary, the last shards end in padding: rows of zeros
that no id names and whose logits are hidden. `mesh.cut` adds them, and no checkpoint has them.

B batch, S sequence, h hidden_size, H heads of this rank, d head size, f ffn size of this rank, n positions,
c rows of the vocabulary of this rank, V the whole vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.devices.device import current_device, dtype_of, has_flash_attention
from model.network.cpu_kernels import AddBias, NormWithOwnBackward, layer_norm, other_kernels_pay
from model.network.flash_attention import HIDDEN, FlashAttention, FlashBias
from model.parallel.collectives import Member, all_gather_of
from model.parallel.mesh import (
    CopyToModelGroup,
    Groups,
    Place,
    ReduceFromModelGroup,
    Strategy,
)
from orchestrator.checkpoint.cut.network_cut import stage_blocks
from orchestrator.families.bloom import BloomConfig

__all__ = [
    "AlibiBias",
    "Attention",
    "Block",
    "BloomLMHeadModel",
    "LayerNorm",
    "Linear",
    "Mlp",
    "OwnIds",
    "PlainAttention",
    "Vocabulary",
    "activation_of",
    "alibi",
    "alibi_slopes",
    "parameter",
]

LAYERNORM_EPSILON = 1e-5


def parameter(shape: tuple[int, ...], dtype: Any, name: str, value: float = 0.0) -> ms.Parameter:
    # By way of NumPy: MindSpore's CPU has no kernel that fills a bfloat16 tensor.
    return ms.Parameter(Tensor(np.full(shape, value, np.float32), dtype), name=name)


class LayerNorm(nn.Cell):
    """Normalise the last axis in `layernorm_compute_type`; (…, h) -> (…, h) in the input's type.

    A CPU computes in float32 at least: its kernels for float16 add up in float16, and overflow.
    """

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        dtype = dtype_of(config.layernorm_compute_type)
        self.gamma = parameter((config.hidden_size,), dtype, "gamma", 1.0)
        self.beta = parameter((config.hidden_size,), dtype, "beta")
        self.compute_type = ms.float32 if current_device().is_cpu else dtype
        kind = NormWithOwnBackward if other_kernels_pay(self.compute_type) else layer_norm
        self.norm = kind(LAYERNORM_EPSILON)

    def construct(self, x: Tensor) -> Tensor:
        gamma, beta = ops.cast(self.gamma, self.compute_type), ops.cast(self.beta, self.compute_type)
        out, _, _ = self.norm(ops.cast(x, self.compute_type), gamma, beta)
        return ops.cast(out, x.dtype)


class Linear(nn.Cell):
    """x @ w + b over the last axis; the weight is (out, in), or (in, out) where `transposed`.

    `reduce` sums what the ranks have of a layer whose input is sharded, before the bias, which each rank has.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        config: BloomConfig,
        *,
        transposed: bool = False,
        reduce: nn.Cell | None = None,
    ) -> None:
        super().__init__()
        dtype = dtype_of(config.param_init_type)
        self.weight = parameter((in_size, out_size) if transposed else (out_size, in_size), dtype, "weight")
        self.bias = parameter((out_size,), dtype, "bias")
        self.matmul = ops.MatMul(transpose_b=not transposed)
        self.reduce = reduce if reduce is not None else nn.Identity()
        self.in_size, self.out_size = in_size, out_size
        self.compute_type = dtype_of(config.compute_dtype)
        self.add = AddBias() if other_kernels_pay(self.compute_type) else ops.Add()

    def construct(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.out_size)
        x = ops.reshape(ops.cast(x, self.compute_type), (-1, self.in_size))
        x = self.matmul(x, ops.cast(self.weight, self.compute_type))
        return self.add(self.reduce(ops.reshape(x, shape)), ops.cast(self.bias, self.compute_type))


def alibi_slopes(num_heads: int) -> NDArray[np.float32]:
    """One slope a head, (num_heads,) float32.

    For n = 2**k heads the slopes are the powers 1..n of 2**(-8/n). Other counts take those of the
    next lower 2**k, then the odd powers of the base that belongs to twice as many heads.
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 / lower * power) for power in range(1, lower + 1)]
    slopes += [2.0 ** (-4.0 / lower * power) for power in range(1, 2 * (num_heads - lower), 2)]
    return np.array(slopes, dtype=np.float32)


def alibi(slopes: Tensor, ahead: Tensor, dtype: Any) -> Tensor:
    """What is added to scores: -slope * distance, HIDDEN for keys that come later; as `dtype`.

    Slopes (1, H, 1, 1); `ahead` (…, 1, S, K) float32, how far each of K keys is ahead of each of S queries
    -> (…, H, S, K). The distance is exact where a product with an absolute position would, far into the
    sequence, be rounded to nothing by float16. "Train Short, Test Long: Attention with Linear Biases Enables
    Input Length Extrapolation" (Press et al., 2021).
    """
    bias = slopes * ops.minimum(ahead, 0.0) + HIDDEN * ops.cast(ahead > 0, ms.float32)
    return ops.cast(bias, dtype)


class AlibiBias(nn.Cell):
    """ALiBi of a whole sequence, with the slopes (H,) of this rank's heads; its length -> (1, H, S, S)."""

    def __init__(self, config: BloomConfig, slopes: NDArray[np.float32]) -> None:
        super().__init__()
        self.dtype = dtype_of(config.softmax_compute_type)
        positions = np.arange(config.seq_length, dtype=np.float32)
        self.ahead = Tensor((positions[None, :] - positions[:, None])[None, None])
        self.slopes = Tensor(slopes.reshape(1, -1, 1, 1))

    def construct(self, length: int) -> Tensor:
        return alibi(self.slopes, self.ahead[:, :, :length, :length], self.dtype)


class PlainAttention(nn.Cell):
    """softmax(q @ k^T / sqrt(d) + bias) @ v, step by step; (B, H, S, d) each -> (B, H, S, d)."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weigh = ops.BatchMatMul()
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.softmax_type = dtype_of(config.softmax_compute_type)
        self.dropout = nn.Dropout(p=config.attention_dropout_rate)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return self.of_scaled(q * self.scale, k, v, bias)

    def of_scaled(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """The same of queries that are divided by sqrt(d); of more keys and values, (B, H, K, d)."""
        scores = ops.cast(self.scores(q, k), self.softmax_type) + bias  # (B, H, S, K)
        weights = self.dropout(ops.cast(ops.softmax(scores, -1), v.dtype))
        return self.weigh(weights, v)


class Attention(nn.Cell):
    """Multi-head self-attention with ALiBi; each rank of the model group has some of the heads."""

    def __init__(self, config: BloomConfig, parts: int, group: str | None) -> None:
        super().__init__()
        hidden, local = config.hidden_size, config.hidden_size // parts
        self.heads, self.head_size = config.num_heads // parts, config.head_size
        self.copy = CopyToModelGroup(group)
        self.dense1 = Linear(hidden, local, config)  # queries
        self.dense2 = Linear(hidden, local, config)  # keys
        self.dense3 = Linear(hidden, local, config)  # values
        reduce = ReduceFromModelGroup(group)
        self.projection = Linear(local, hidden, config, transposed=True, reduce=reduce)
        # The seed of its dropout depends on its name here.
        is_flash = has_flash_attention(config)
        self.core = FlashAttention(config, self.heads) if is_flash else PlainAttention(config)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(self.copy(x))
        return self.projection(self.merge_heads(self.core(q, k, v, bias)))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, h) -> three of (B, H, S, d)."""
        q, k, v = self.dense1(x), self.dense2(x), self.dense3(x)
        return self.split_heads(q), self.split_heads(k), self.split_heads(v)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, S, H * d) -> (B, H, S, d)."""
        batch, length, _ = x.shape
        return ops.transpose(ops.reshape(x, (batch, length, self.heads, self.head_size)), (0, 2, 1, 3))

    def merge_heads(self, x: Tensor) -> Tensor:
        """(B, H, S, d) -> (B, S, H * d)."""
        batch, _, length, _ = x.shape
        if length > 1:  # with one position, the order in memory is the same
            x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (batch, length, self.heads * self.head_size))


class FastGelu(nn.Cell):
    """x * sigmoid(1.702 x), element by element.

    For the CPU, in all types: its own FastGeLU has gradients that are no numbers from x = -1000 on.
    """

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(1.702 * x)


class Gelu(nn.Cell):
    """x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3), element by element.

    Written as x * sigmoid(2u), which is the same: the CPU's sigmoid is vectorised, its tanh is not. For
    float32: in float16 the square of x overflows from 256 on, and the gradient is no number then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = 2 * math.sqrt(2 / math.pi)
        self.cubic = self.linear * 0.044715

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(x * (self.linear + self.cubic * (x * x)))


def activation_of(config: BloomConfig) -> Any:
    """The activation, (…) -> (…): MindSpore's one kernel, but on a CPU where ours is faster or is right."""
    compute_type, is_cpu = dtype_of(config.compute_dtype), current_device().is_cpu
    if config.hidden_act == "fast_gelu":
        return FastGelu() if is_cpu else ops.FastGeLU()
    return Gelu() if other_kernels_pay(compute_type) else ops.GeLU()


class Mlp(nn.Cell):
    """Two linears with the activation between; the inner size is sharded over the model group."""

    def __init__(self, config: BloomConfig, parts: int, group: str | None) -> None:
        super().__init__()
        hidden, local = config.hidden_size, config.ffn_size // parts
        self.copy = CopyToModelGroup(group)
        self.mapping = Linear(hidden, local, config, transposed=True)
        reduce = ReduceFromModelGroup(group)
        self.projection = Linear(local, hidden, config, transposed=True, reduce=reduce)
        self.activation = activation_of(config)

    def construct(self, x: Tensor) -> Tensor:
        x = self.mapping(self.copy(x))  # (B, S, f)
        return self.projection(self.activation(x))


class Block(nn.Cell):
    """One pre-norm transformer block; (B, S, h) -> (B, S, h)."""

    def __init__(self, config: BloomConfig, parts: int, group: str | None) -> None:
        super().__init__()
        self.layernorm1 = LayerNorm(config)
        self.attention = Attention(config, parts, group)
        self.layernorm2 = LayerNorm(config)
        self.output = Mlp(config, parts, group)
        self.dropout1 = nn.Dropout(p=config.hidden_dropout_rate)
        self.dropout2 = nn.Dropout(p=config.hidden_dropout_rate)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.dropout1(self.attention(self.layernorm1(x), bias))
        return x + self.dropout2(self.output(self.layernorm2(x)))


# The logit of padding. Finite: a product with 0 must stay 0.
PADDING_LOGIT = -1e9


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

    def padding(self) -> NDArray[np.float32]:
        """(1, c) float32: PADDING_LOGIT for rows beyond the vocabulary, 0 for all others."""
        beyond = np.arange(self.first, self.first + self.rows) >= self.size
        return np.where(beyond, np.float32(PADDING_LOGIT), np.float32(0))[None]

    def own_row(self) -> NDArray[np.float32]:
        """(parts, 1) float32: 1 for this rank's part."""
        return np.eye(self.parts, dtype=np.float32)[:, self.index : self.index + 1]


class OwnIds(nn.Cell):
    """ids -> (ids counted from this rank's first row, 0 where it is another's; whether it is this rank's)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.first, self.rows = vocabulary.first, vocabulary.rows

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        local = ids - self.first
        inside = ops.logical_and(local >= 0, local < self.rows)
        return local * ops.cast(inside, local.dtype), inside


class WordEmbedding(nn.Cell):
    """A table of one row a token, sharded by rows over the model group; (B, S) ids -> (B, S, h)."""

    def __init__(self, config: BloomConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        shape = (vocabulary.rows, config.hidden_size)
        self.embedding_table = parameter(shape, dtype_of(config.embedding_init_type), "embedding_table")
        self.gather = ops.Gather()
        self.is_sharded = vocabulary.parts > 1
        self.own_ids = OwnIds(vocabulary)
        self.reduce = ReduceFromModelGroup(vocabulary.group)

    def construct(self, ids: Tensor) -> Tensor:
        if not self.is_sharded:
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

    def construct(self, x: Tensor) -> Tensor:
        return self.all_gather(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (dout[:, self.index],)


class GatherLogits(nn.Cell):
    """(n, c) of every rank -> (n, V) on every rank, without padding."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.is_sharded = vocabulary.parts > 1
        self.gather = GatherFromModelGroup(Member(vocabulary.group, vocabulary.index, vocabulary.parts))
        self.size = vocabulary.size

    def construct(self, logits: Tensor) -> Tensor:
        if not self.is_sharded:
            return logits
        return ops.reshape(self.gather(logits), (logits.shape[0], -1))[:, : self.size]


class Embedding(nn.Cell):
    """Word embedding and its norm; Bloom has no position embedding."""

    def __init__(self, config: BloomConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.word_embedding = WordEmbedding(config, vocabulary)
        self.norm = LayerNorm(config)
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Tensor) -> Tensor:
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
        slopes = np.split(alibi_slopes(config.num_heads), parts)[place.mp]
        self.bias = (FlashBias if has_flash_attention(config) else AlibiBias)(config, slopes)

    def construct(self, ids: Tensor) -> Tensor:
        return self.ln_f(self.run_blocks(self.embedding(ids)))

    def run_blocks(self, x: Tensor) -> Tensor:
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
        self.padding = Tensor(self.vocabulary.padding())
        self.is_padded = bool(self.vocabulary.size % self.vocabulary.parts)
        self.hidden_size = config.hidden_size
        self.compute_type = dtype_of(config.compute_dtype)

    def construct(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        return ops.reshape(self.head(self.transformer(ids)), (batch, length, -1))

    def head(self, x: Tensor) -> Tensor:
        """(…, h) -> (n, V) float32, the leading axes as one."""
        return self.gather(self.own_head(x))

    def own_head(self, x: Tensor) -> Tensor:
        """(…, h) -> (n, c) float32: the logits of this rank's part of the vocabulary."""
        return self.padded(ops.cast(self.matmul(*self.head_operands(x)), ms.float32))

    def head_operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(…, h) -> (n, h) and the table (c, h), whose product is the logits."""
        table = ops.cast(self.transformer.embedding.word_embedding.embedding_table, self.compute_type)
        return ops.reshape(self.copy(x), (-1, self.hidden_size)), table

    def padded(self, logits: Tensor) -> Tensor:
        """(n, c) -> (n, c): what stands for no token can never be chosen."""
        return logits + self.padding if self.is_padded else logits
