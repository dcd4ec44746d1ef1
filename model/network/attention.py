"""What attention does between its linears: ALiBi, and the two ways to weigh values by scores.

ALiBi is that of "Train Short, Test Long: Attention with Linear Biases Enables Input Length
Extrapolation" (Press et al., 2021).
B batch, S sequence, H heads of this rank, d head size.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.devices.device import current_device, dtype_of, has_flash_attention, why_no_flash
from model.errors import ModelError
from orchestrator.families.bloom import BloomConfig

__all__ = [
    "AlibiBias",
    "FlashAttention",
    "FlashBias",
    "PlainAttention",
    "alibi_slopes",
    "bias_of",
    "core_of",
]

# Added to the score of a key that a query must not see. Finite, so that float16 holds it too.
HIDDEN = -10000.0

# What Ascend's kernel wants of a causal network, see FlashAttention.
LEFT_UP_CAUSAL = 2
MASK_SIZE = 2048
ALIBI_ROWS = 1024


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


class FlashBias(nn.Cell):
    """ALiBi for Ascend's kernel: -slope * distance and no mask; length -> (1, H, min(S, 1024), S).

    Of a longer sequence the kernel takes the last 1024 rows, `bias[:, :, -1024:, :]`, and finds in them what
    belongs to every row, for the distance is all that counts (CANN, aclnnFlashAttentionScoreV2:
    realShiftOptional, 1NHSkv with H=1024; kernel: ops-transformer, common/include/kernel/pse.h,
    PseAlibiComputeOffset). In `compute_dtype`, which the kernel demands.
    """

    def __init__(self, config: BloomConfig, slopes: np.ndarray) -> None:
        super().__init__()
        self.dtype = dtype_of(config.compute_dtype)
        self.size, self.rows = config.seq_length, min(config.seq_length, ALIBI_ROWS)
        positions = np.arange(self.size, dtype=np.float32)
        distance = np.minimum(positions[None, :] - positions[-self.rows :, None], 0)
        self.distance = ms.Tensor(distance[None, None])
        self.slopes = ms.Tensor(slopes.reshape(1, -1, 1, 1))

    def construct(self, length: int) -> Any:
        # The last rows of a shorter sequence are the lower right of those of a longer one.
        first_row, first_column = self.rows - min(length, self.rows), self.size - length
        distance = self.distance[:, :, first_row:, first_column:]
        # Never -inf: a block of the kernel that saw nothing else would take its softmax for 0 / 0.
        return ops.cast(ops.maximum(self.slopes * distance, HIDDEN), self.dtype)


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


@cache
def _causal_mask() -> ms.Tensor:
    """(2048, 2048) uint8, 1 = hidden: one for all blocks."""
    return ms.Tensor(np.triu(np.ones((MASK_SIZE,) * 2, np.uint8), 1))


class UndrawnBits(nn.Dropout):
    """Stands where `replay_dropout` puts what draws the kernel's mask."""

    def construct(self, shape: tuple[int, ...]) -> Any:
        raise RuntimeError("the dropout of flash attention has no seed: call replay_dropout first")


class FlashAttention(nn.Cell):
    """The same in Ascend's one kernel, which never holds the (B, H, S, S) scores; bias as of FlashBias.

    The kernel computes `dropout(softmax(mask(scale * (bias + q @ k^T)))) @ v`: it multiplies the bias, too
    (CANN, aclnnFlashAttentionScore, which MindSpore calls; the formula in MindSpore's documentation of
    `ops.flash_attention_score` is that of another version). So the queries are scaled before, and its factor
    is 1. The mask is its causal one: `sparse_mode` 2 (leftUpCausal) computes no block above the diagonal,
    for which `attn_mask` must be the upper triangle of 2048 x 2048, whatever S is (CANN,
    docs/context/sparse_mode). `drop_mask` (B, H, S, S / 8) has one bit an element, 1 = kept.

    ModelError where the kernel cannot serve this network.
    """

    def __init__(self, config: BloomConfig, heads: int) -> None:
        super().__init__()
        reason = why_no_flash(config, current_device())
        if reason:
            raise ModelError(reason, where="model.overrides", remedy="set use_flash_attention to false")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(config.head_size)
        self.hidden = _causal_mask()
        self.keep = 1.0 - config.attention_dropout_rate
        self.dropout: nn.Cell = UndrawnBits(p=config.attention_dropout_rate)
        self.kernel = ops.flash_attention_score

    def construct(self, q: Any, k: Any, v: Any, bias: Any) -> Any:
        batch, _, length, _ = q.shape
        dropped, keep = None, 1.0
        if self.training and self.keep < 1.0:
            dropped, keep = self.dropout((batch, self.heads, length, length)), self.keep
        return self.kernel(
            q * self.scale,
            k,
            v,
            self.heads,
            real_shift=ops.cast(bias, q.dtype),
            drop_mask=dropped,
            attn_mask=self.hidden,
            keep_prob=keep,
            scalar_value=1.0,
            input_layout="BNSD",
            sparse_mode=LEFT_UP_CAUSAL,
        )


def core_of(config: BloomConfig, heads: int) -> nn.Cell:
    """The kernel where it is asked for and there is one, else the plain steps."""
    return FlashAttention(config, heads) if has_flash_attention(config) else PlainAttention(config)


def bias_of(config: BloomConfig, slopes: np.ndarray) -> nn.Cell:
    """ALiBi in the form that `core_of` takes."""
    return (FlashBias if has_flash_attention(config) else AlibiBias)(config, slopes)
