"""Linears that hold their weights a second time, transposed, because of how the CPU multiplies.

A product of one row reads a wide matrix nearly twice as fast from (in, out) as from (out, in); that of many
rows is up to 1.7 times as fast with (out, in) (MindSpore 2.10, oneDNN, 2 cores: 22 against 12 GB/s, 150
against 90 GFLOP/s). MindFormers stores some one way and some the other; the network keeps to that, and what
is here is made from it to answer with. The copies do not follow later changes of the network.

B batch, S tokens, h hidden_size, H heads of this rank, d head size, V vocabulary of this rank.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.devices.device import current_device
from model.network.bloom import Attention, BloomLMHeadModel, Linear, Mlp
from orchestrator.families.network_config import NetworkConfig

__all__ = ["TransposedHead", "TransposedLinear", "TransposedMlp", "TransposedQkv", "copies_pay"]


def copies_pay(config: NetworkConfig) -> bool:
    """On the CPU in float32, if there is room: the copies are about as large as the weights."""
    types = {config.param_init_type, config.embedding_init_type, config.compute_dtype}
    if not current_device().is_cpu or types != {"float32"}:
        return False
    hidden = config.hidden_size
    copies = 4 * (config.vocab_size * hidden + config.num_layers * 12 * hidden * hidden)
    return copies < _available() // 2


def _available() -> int:
    """Bytes of memory that could be had, as Linux says."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024


def _kept(array: NDArray[Any], name: str) -> ms.Parameter:
    return ms.Parameter(Tensor(np.ascontiguousarray(array)), name=name, requires_grad=False)


class TransposedLinear(nn.Cell):
    """A `Linear` that is stored as (in, out); (B, S, in) -> (B, S, out)."""

    def __init__(self, linear: Linear, name: str) -> None:
        super().__init__(auto_prefix=False)
        self.linear = linear
        self.transposed = _kept(linear.weight.asnumpy().T, f"{name}.transposed")  # (out, in)
        self.is_wide = linear.out_size > linear.in_size
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        if self.is_wide and batch * length == 1:
            return self.linear(x)
        out = self.matmul(ops.reshape(x, (-1, self.linear.in_size)), self.transposed)
        out = ops.reshape(out, (batch, length, self.linear.out_size))
        return self.linear.reduce(out) + self.linear.bias


class TransposedMlp(nn.Cell):
    """An `Mlp` of such linears; (B, S, h) -> (B, S, h)."""

    def __init__(self, mlp: Mlp, name: str) -> None:
        super().__init__(auto_prefix=False)
        self.copy, self.activation = mlp.copy, mlp.activation
        self.mapping = TransposedLinear(mlp.mapping, f"{name}.mapping")
        self.projection = TransposedLinear(mlp.projection, f"{name}.projection")

    def construct(self, x: Tensor) -> Tensor:
        return self.projection(self.activation(self.mapping(self.copy(x))))


class TransposedQkv(nn.Cell):
    """Queries, keys and values of one token in one product; (1, 1, h) -> three of (1, H, 1, d).

    The queries come times `scale`.
    """

    def __init__(self, attention: Attention, scale: float, name: str) -> None:
        super().__init__(auto_prefix=False)
        linears = (attention.dense1, attention.dense2, attention.dense3)
        weights, biases = ([getattr(one, kind).asnumpy() for one in linears] for kind in ("weight", "bias"))
        for of_three in (weights, biases):
            of_three[0] = of_three[0] * np.float32(scale)
        self.weight = _kept(np.concatenate(weights).T, f"{name}.qkv")
        self.bias = _kept(np.concatenate(biases), f"{name}.qkv_bias")
        self.matmul, self.split = ops.MatMul(), ops.Split(axis=1, output_num=3)
        self.shape = (1, attention.heads, 1, attention.head_size)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.matmul(ops.reshape(x, (1, -1)), self.weight) + self.bias  # (1, 3 H d)
        q, k, v = self.split(out)
        return ops.reshape(q, self.shape), ops.reshape(k, self.shape), ops.reshape(v, self.shape)


class TransposedHead(nn.Cell):
    """The head for one row, with the embedding's table as (h, V); (1, h) -> (1, V of the whole) float32."""

    def __init__(self, network: BloomLMHeadModel) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        table = network.transformer.embedding.word_embedding.embedding_table
        self.table = _kept(table.asnumpy().T, "transposed.table")
        self.matmul = ops.MatMul()

    def construct(self, x: Tensor) -> Tensor:
        return self.network.gather(self.network.padded(self.matmul(self.network.copy(x), self.table)))
