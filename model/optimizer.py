"""AdamW without bias correction, as MindFormers trains Bloom, and clipping by the global norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from model.parallel import cut_axis

__all__ = ["AdamW", "ClipByGlobalNorm", "decays"]


def decays(name: str) -> bool:
    """Weight decay is for matrices: not for norms, not for biases."""
    return not name.endswith((".gamma", ".beta", ".bias"))


class AdamW(nn.Cell):
    """One update of all parameters; the float32 moments are named `adam_m.` and `adam_v.` + parameter."""

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

    def construct(self, grads: Any, rate: Any) -> Any:
        done = True
        for index in range(len(self.parameters)):
            if self.is_float32[index]:
                updated = self.update_fused(index, grads[index], rate)
            else:
                updated = self.update_half(index, grads[index], rate)
            done = ops.depend(done, updated)
        return done

    def update_fused(self, index: int, grad: Any, rate: Any) -> Any:
        weight, m, v = self.parameters[index], self.adam_m[index], self.adam_v[index]
        return self.fused(weight, m, v, rate, self.beta1, self.beta2, self.eps, self.decay[index], grad)

    def update_half(self, index: int, grad: Any, rate: Any) -> Any:
        """The same in float32, rounded when it is stored: the fused kernel wants one type for all."""
        weight, grad = self.parameters[index], ops.cast(grad, ms.float32)
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


class ClipByGlobalNorm(nn.Cell):
    """Scale all gradients so that their joint norm is at most `limit` (0 = do not); gives (grads, norm).

    A tensor that is cut over the model group adds its slices of all ranks; one that is whole on every
    rank counts once.
    """

    def __init__(self, names: Sequence[str], limit: float, group: str | None) -> None:
        super().__init__()
        self.is_cut = tuple(cut_axis(name) is not None for name in names)
        self.limit = limit
        self.all_reduce = ops.AllReduce(group=group) if group else ops.Identity()

    def construct(self, grads: Any) -> Any:
        cut_sum, whole_sum = ops.zeros((1,), ms.float32), ops.zeros((1,), ms.float32)
        for index in range(len(grads)):
            square = ops.reduce_sum(ops.square(ops.cast(grads[index], ms.float32)))
            if self.is_cut[index]:
                cut_sum = cut_sum + square
            else:
                whole_sum = whole_sum + square
        norm = ops.reshape(ops.sqrt(self.all_reduce(cut_sum) + whole_sum), ())
        if self.limit <= 0:
            return grads, norm
        factor = self.limit / ops.maximum(norm, ms.Tensor(self.limit, ms.float32))
        scaled = ()
        for grad in grads:
            scaled += (grad * ops.cast(factor, grad.dtype),)
        return scaled, norm
