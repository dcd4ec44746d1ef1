"""The layers of Bloom: norm, the cut linears, attention, MLP, block.

B batch, S sequence, h hidden_size, H heads of this rank, d head size, f ffn size of this rank.
Where a layer is cut over the model group it takes the same input on every rank of the group and
gives the same output on every rank: the cut is not seen from outside.

The vocabulary, cut over the model group: the embedding's table, the gathering of logits.

Where the group's size does not divide the vocabulary, the last parts end in padding: rows of zeros that no id
names and whose logits are hidden. `parallel.cut` adds them, and no checkpoint has them.

n positions, c rows of this rank, V the whole vocabulary.

Bloom, the network of "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model" (2022).

Parameters carry MindFormers' names, so its published checkpoints load unchanged:
`transformer.embedding.word_embedding.embedding_table`, `transformer.blocks.0.attention.dense1.weight`, ….
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.devices.device import current_device, dtype_of
from model.network.attention import alibi_slopes, bias_of, core_of
from model.network.cpu_kernels import AddBias, NormWithOwnBackward, other_kernels_pay
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
    "Attention",
    "Block",
    "BloomLMHeadModel",
    "BloomModel",
    "GatherLogits",
    "LayerNorm",
    "Linear",
    "Mlp",
    "OwnIds",
    "Vocabulary",
    "WordEmbedding",
    "activation_of",
    "parameter",
]

LAYERNORM_EPSILON = 1e-5


def parameter(shape: tuple[int, ...], dtype: Any, name: str, value: float = 0.0) -> ms.Parameter:
    # By way of NumPy: MindSpore's CPU has no kernel that fills a bfloat16 tensor.
    return ms.Parameter(ms.Tensor(np.full(shape, value, np.float32), dtype), name=name)


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
        if other_kernels_pay(self.compute_type):
            self.norm = NormWithOwnBackward(LAYERNORM_EPSILON)
        else:
            self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=LAYERNORM_EPSILON)

    def construct(self, x: Any) -> Any:
        gamma, beta = ops.cast(self.gamma, self.compute_type), ops.cast(self.beta, self.compute_type)
        out, _, _ = self.norm(ops.cast(x, self.compute_type), gamma, beta)
        return ops.cast(out, x.dtype)


class Linear(nn.Cell):
    """x @ w + b over the last axis; the weight is (out, in), or (in, out) where `transposed`.

    `reduce` joins the parts of a layer that is cut by input, before the bias, which is whole on each rank.
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

    def construct(self, x: Any) -> Any:
        shape = (*x.shape[:-1], self.out_size)
        x = ops.reshape(ops.cast(x, self.compute_type), (-1, self.in_size))
        x = self.matmul(x, ops.cast(self.weight, self.compute_type))
        return self.add(self.reduce(ops.reshape(x, shape)), ops.cast(self.bias, self.compute_type))


class Attention(nn.Cell):
    """Multi-head self-attention with ALiBi; whole heads are dealt out over the model group."""

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
        self.core = core_of(config, self.heads)

    def construct(self, x: Any, bias: Any) -> Any:
        x = self.copy(x)
        batch, length, _ = x.shape
        q = self.split_heads(self.dense1(x))  # (B, H, S, d)
        k = self.split_heads(self.dense2(x))
        v = self.split_heads(self.dense3(x))
        out = ops.transpose(self.core(q, k, v, bias), (0, 2, 1, 3))  # (B, S, H, d)
        return self.projection(ops.reshape(out, (batch, length, self.heads * self.head_size)))

    def split_heads(self, x: Any) -> Any:
        batch, length, _ = x.shape
        return ops.transpose(ops.reshape(x, (batch, length, self.heads, self.head_size)), (0, 2, 1, 3))


class FastGelu(nn.Cell):
    """x * sigmoid(1.702 x), element by element.

    For the CPU, in all types: its own FastGeLU has gradients that are no numbers from x = -1000 on.
    """

    def construct(self, x: Any) -> Any:
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

    def construct(self, x: Any) -> Any:
        return x * ops.sigmoid(x * (self.linear + self.cubic * (x * x)))


def activation_of(config: BloomConfig) -> Any:
    """The activation, (…) -> (…): MindSpore's one kernel, but on a CPU where ours is faster or is right."""
    compute_type, is_cpu = dtype_of(config.compute_dtype), current_device().is_cpu
    if config.hidden_act == "fast_gelu":
        return FastGelu() if is_cpu else ops.FastGeLU()
    return Gelu() if other_kernels_pay(compute_type) else ops.GeLU()


class Mlp(nn.Cell):
    """Two linears with the activation between; cut by the inner size over the model group."""

    def __init__(self, config: BloomConfig, parts: int, group: str | None) -> None:
        super().__init__()
        hidden, local = config.hidden_size, config.ffn_size // parts
        self.copy = CopyToModelGroup(group)
        self.mapping = Linear(hidden, local, config, transposed=True)
        reduce = ReduceFromModelGroup(group)
        self.projection = Linear(local, hidden, config, transposed=True, reduce=reduce)
        self.activation = activation_of(config)

    def construct(self, x: Any) -> Any:
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

    def construct(self, x: Any, bias: Any) -> Any:
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

    def padding(self) -> np.ndarray:
        """(1, c) float32: PADDING_LOGIT for rows beyond the vocabulary, 0 for all others."""
        beyond = np.arange(self.first, self.first + self.rows) >= self.size
        return np.where(beyond, np.float32(PADDING_LOGIT), np.float32(0))[None]

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
