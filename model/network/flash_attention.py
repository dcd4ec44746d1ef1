"""Flash attention: Ascend's one kernel for all of attention, and ALiBi in the form that it takes.

B batch, S sequence, H heads of this rank, d head size.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from model.devices.device import current_device, dtype_of, why_no_flash
from model.errors import ModelError
from orchestrator.families.bloom import BloomConfig

__all__ = ["HIDDEN", "FlashAttention", "FlashBias"]

# Added to the score of a key that a query must not see. Finite, so that float16 holds it too.
HIDDEN = -10000.0

# What the kernel wants of a causal network, see FlashAttention.
LEFT_UP_CAUSAL = 2
MASK_SIZE = 2048
ALIBI_ROWS = 1024


class FlashBias(nn.Cell):
    """ALiBi for Ascend's kernel: -slope * distance and no mask; length -> (1, H, min(S, 1024), S).

    Of a longer sequence the kernel takes the last 1024 rows, `bias[:, :, -1024:, :]`, and finds in them what
    belongs to every row, for the distance is all that counts (CANN, aclnnFlashAttentionScoreV2:
    realShiftOptional, 1NHSkv with H=1024; kernel: ops-transformer, common/include/kernel/pse.h,
    PseAlibiComputeOffset). In `compute_dtype`, which the kernel demands.
    """

    def __init__(self, config: BloomConfig, slopes: NDArray[np.float32]) -> None:
        super().__init__()
        self.dtype = dtype_of(config.compute_dtype)
        self.size, self.rows = config.seq_length, min(config.seq_length, ALIBI_ROWS)
        positions = np.arange(self.size, dtype=np.float32)
        distance = np.minimum(positions[None, :] - positions[-self.rows :, None], 0)
        self.distance = Tensor(distance[None, None])
        self.slopes = Tensor(slopes.reshape(1, -1, 1, 1))

    def construct(self, length: int) -> Tensor:
        # The last rows of a shorter sequence are the lower right of those of a longer one.
        first_row, first_column = self.rows - min(length, self.rows), self.size - length
        distance = self.distance[:, :, first_row:, first_column:]
        # Never -inf: a block of the kernel that saw nothing else would take its softmax for 0 / 0.
        return ops.cast(ops.maximum(self.slopes * distance, HIDDEN), self.dtype)


@cache
def _causal_mask() -> Tensor:
    """(2048, 2048) uint8, 1 = hidden: one for all blocks."""
    return Tensor(np.triu(np.ones((MASK_SIZE,) * 2, np.uint8), 1))


class UnseededMask(nn.Dropout):
    """Stands where `seed_dropout` puts what draws the kernel's mask."""

    def construct(self, shape: tuple[int, ...]) -> Tensor:
        raise RuntimeError("the dropout of flash attention has no seed: call seed_dropout first")


class FlashAttention(nn.Cell):
    """`bloom.PlainAttention` in Ascend's one kernel, which holds no (B, H, S, S); bias as of FlashBias.

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
        self.dropout: nn.Cell = UnseededMask(p=config.attention_dropout_rate)
        self.kernel = ops.flash_attention_score

    def construct(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
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
