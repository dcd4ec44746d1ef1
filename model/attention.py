"""What attention does between its linears: ALiBi, and the two ways to weigh values by scores.

ALiBi is that of "Train Short, Test Long: Attention with Linear Biases Enables Input Length
Extrapolation" (Press et al., 2021).
B batch, S sequence, H heads of this rank, d head size.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.config import BloomConfig
from model.device import dtype_of, has_flash_attention

__all__ = ["AlibiBias", "FlashAttention", "PlainAttention", "alibi_slopes", "core_of"]

# Added to the score of a key that a query must not see. Finite, so that float16 holds it too.
HIDDEN = -10000.0


def alibi_slopes(num_heads: int) -> np.ndarray:
    """One slope a head, (num_heads,) float32.

    For n = 2**k heads the slopes are the powers 1..n of 2**(-8/n). Other counts take those of the
    next lower 2**k, then the odd powers of the base that belongs to twice as many heads.
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 / lower * power) for power in range(1, lower + 1)]
    slopes += [2.0 ** (-4.0 / lower * power) for power in range(1, 2 * (num_heads - lower), 2)]
    return np.array(slopes, dtype=np.float32)


class AlibiBias(nn.Cell):
    """What is added to all scores of a sequence: -slope * distance, HIDDEN for keys that come later.

    `slopes` (H,) are those of this rank's heads; length -> (1, H, S, S). The distance is exact where a
    product with an absolute position would, far into the sequence, be rounded to nothing by float16.
    """

    def __init__(self, config: BloomConfig, slopes: np.ndarray) -> None:
        super().__init__()
        self.dtype = dtype_of(config.softmax_compute_type)
        positions = np.arange(config.seq_length, dtype=np.float32)
        self.distance = ms.Tensor(np.minimum(positions[None, :] - positions[:, None], 0)[None, None])
        self.later = ms.Tensor(np.triu(np.full((config.seq_length,) * 2, HIDDEN, np.float32), 1)[None, None])
        self.slopes = ms.Tensor(slopes.reshape(1, -1, 1, 1))

    def construct(self, length: int) -> Any:
        distance, later = self.distance[:, :, :length, :length], self.later[:, :, :length, :length]
        return ops.cast(self.slopes * distance + later, self.dtype)


class PlainAttention(nn.Cell):
    """softmax(q @ k^T / sqrt(d) + bias) @ v, step by step; (B, H, S, d) each -> (B, H, S, d)."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weigh = ops.BatchMatMul()
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.softmax_type = dtype_of(config.softmax_compute_type)
        self.dropout = nn.Dropout(p=config.attention_dropout_rate)

    def construct(self, q: Any, k: Any, v: Any, bias: Any) -> Any:
        scores = ops.cast(self.scores(q * self.scale, k), self.softmax_type) + bias  # (B, H, S, S)
        weights = self.dropout(ops.cast(ops.softmax(scores, -1), v.dtype))
        return self.weigh(weights, v)


class FlashAttention(nn.Cell):
    """The same in Ascend's one kernel, which never holds the (B, H, S, S) scores.

    The bias enters as the kernel's position term (`real_shift`, in the type of the queries); the causal
    mask enters a second time as `attn_mask` (1 = hidden), by which the kernel skips what lies above it.
    """

    def __init__(self, config: BloomConfig, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.later = ms.Tensor(np.triu(np.ones((config.seq_length,) * 2, np.uint8), 1))
        self.keep = 1.0 - config.attention_dropout_rate
        self.keep_tensor = ms.Tensor(self.keep, ms.float16)
        self.draw = ops.DropoutGenMask()

    def construct(self, q: Any, k: Any, v: Any, bias: Any) -> Any:
        batch, _, length, _ = q.shape
        dropped, keep = None, 1.0
        if self.training and self.keep < 1.0:
            keep = self.keep
            bits = self.draw((batch, self.heads, length, length), self.keep_tensor)
            dropped = ops.reshape(bits, (batch, self.heads, length, length // 8))
        return ops.flash_attention_score(
            q,
            k,
            v,
            self.heads,
            real_shift=ops.cast(bias, q.dtype),
            drop_mask=dropped,
            attn_mask=self.later[:length, :length],
            keep_prob=keep,
            scalar_value=self.scale,
            input_layout="BNSD",
        )


def core_of(config: BloomConfig, heads: int) -> nn.Cell:
    """The kernel where it is asked for and there is one, else the plain steps."""
    return FlashAttention(config, heads) if has_flash_attention(config) else PlainAttention(config)
