"""The layers of Bloom: norm, the cut linears, attention, MLP, block.

B batch, S sequence, h hidden_size, H heads of this rank, d head size, f ffn size of this rank.
Where a layer is cut over the model group it takes the same input on every rank of the group and
gives the same output on every rank: the cut is not seen from outside.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.attention import core_of
from model.config import BloomConfig
from model.cpu_kernels import AddBias, NormWithOwnBackward, other_kernels_pay
from model.device import current_device, dtype_of
from model.parallel import CopyToModelGroup, ReduceFromModelGroup

__all__ = ["Attention", "Block", "LayerNorm", "Linear", "Mlp", "activation_of", "parameter"]

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
