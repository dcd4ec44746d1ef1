"""AdamW without bias correction, as MindFormers trains Bloom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

__all__ = ["AdamW", "decays"]


def decays(name: str) -> bool:
    """Weight decay is for matrices: not for norms, not for biases."""
    return not name.endswith((".gamma", ".beta", ".bias"))


class AdamW(nn.Cell):
    """(float32 gradients, rate, factor on the gradients): one update of all parameters, in place.

    The float32 moments are named `adam_m.` and `adam_v.` + parameter. The arithmetic is in float32
    whatever the weight's type.
    """

    def __init__(
        self,
        parameters: Sequence[ms.Parameter],
        *,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.parameters = ms.ParameterTuple(parameters)
        self.adam_m = _moments(parameters, "adam_m")
        self.adam_v = _moments(parameters, "adam_v")
        self.decay = tuple(weight_decay if decays(item.name) else 0.0 for item in parameters)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.is_float32 = tuple(item.dtype == ms.float32 for item in parameters)
        self.fused = ops.AdamWeightDecay()

    def construct(self, grads: Any, rate: Any, factor: Any) -> Any:
        done = True
        for index in range(len(self.parameters)):
            if self.is_float32[index]:
                updated = self.update_fused(index, grads[index] * factor, rate)
            else:
                updated = self.update_half(index, grads[index] * factor, rate)
            done = ops.depend(done, updated)
        return done

    def update_fused(self, index: int, grad: Any, rate: Any) -> Any:
        weight, m, v = self.parameters[index], self.adam_m[index], self.adam_v[index]
        return self.fused(weight, m, v, rate, self.beta1, self.beta2, self.eps, self.decay[index], grad)

    def update_half(self, index: int, grad: Any, rate: Any) -> Any:
        """The same in float32, rounded when it is stored: the fused kernel wants one type for all."""
        weight = self.parameters[index]
        m = self.beta1 * self.adam_m[index] + (1.0 - self.beta1) * grad
        v = self.beta2 * self.adam_v[index] + (1.0 - self.beta2) * grad * grad
        old = ops.cast(weight, ms.float32)
        new = old - rate * (m / (ops.sqrt(v) + self.eps) + self.decay[index] * old)
        stored = ops.assign(weight, ops.cast(new, weight.dtype))
        stored = ops.depend(stored, ops.assign(self.adam_m[index], m))
        return ops.depend(stored, ops.assign(self.adam_v[index], v))


def _moments(parameters: Sequence[ms.Parameter], kind: str) -> ms.ParameterTuple:
    return ms.ParameterTuple(
        [ms.Parameter(ops.zeros(item.shape, ms.float32), name=f"{kind}.{item.name}") for item in parameters]
    )
