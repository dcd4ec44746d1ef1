"""Stand-ins for Ascend's kernels, of the same interface, that run on a CPU; written from CANN's documents.

They are put in the place of the primitive in a cell that was built for an Ascend.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

__all__ = ["CannDropout", "CannDropoutBits", "CannFlashAttention", "philox"]


class CannFlashAttention(nn.Cell):
    """dropout(softmax(mask(scale * (pse + q @ k^T)))) @ v in float32, for BNSD (aclnnFlashAttentionScore).

    Checks what the kernel checks, and takes the 1024 rows of a compressed ALiBi as its addressing does
    (ops-transformer, common/include/kernel/pse.h, PseAlibiComputeOffset).
    """

    def construct(
        self,
        query: Any,
        key: Any,
        value: Any,
        head_num: int,
        real_shift: Any = None,
        drop_mask: Any = None,
        padding_mask: Any = None,
        attn_mask: Any = None,
        prefix: Any = None,
        actual_seq_qlen: Any = None,
        actual_seq_kvlen: Any = None,
        keep_prob: float = 1.0,
        scalar_value: float = 1.0,
        pre_tokens: int = 2147483647,
        next_tokens: int = 2147483647,
        inner_precise: int = 0,
        input_layout: str = "BSH",
        sparse_mode: int = 0,
    ) -> Any:
        batch, heads, length, _ = query.shape
        assert input_layout == "BNSD" and heads == head_num and key.shape[2] == length
        assert real_shift.dtype == query.dtype
        q, k, v, pse = (ops.cast(one, ms.float32) for one in (query, key, value, real_shift))
        scores = scalar_value * (self.shift(pse, length) + ops.matmul(q, ops.swapaxes(k, -1, -2)))
        scores = ops.select(self.hidden(attn_mask, sparse_mode, length), self.lowest(scores), scores)
        weights = ops.softmax(scores, -1)
        if drop_mask is not None:
            assert drop_mask.dtype == ms.uint8 and drop_mask.shape == (batch, heads, length, length // 8)
            powers = ms.Tensor([1, 2, 4, 8, 16, 32, 64, 128], ms.float32)
            bits = ops.floor(ops.expand_dims(ops.cast(drop_mask, ms.float32), -1) / powers) % 2
            weights = weights * ops.reshape(bits, weights.shape) / keep_prob
        return ops.cast(ops.matmul(weights, v), query.dtype)

    def lowest(self, scores: Any) -> Any:
        return ops.ones_like(scores) * -3e38

    def shift(self, pse: Any, length: int) -> Any:
        """(1, H, rows, S) -> (1, H, S, S)."""
        _, heads, rows, columns = pse.shape
        assert columns == length
        if rows == length:
            return pse
        assert rows == 1024 and length > 1024
        row = ops.reshape(ops.arange(0, length, 1, dtype=ms.int32), (-1, 1))
        column = ops.reshape(row, (1, -1))
        threshold = length - rows
        m = ops.select(row >= threshold, row - threshold, row % rows)
        moved = length - (row - column) - (rows - m)
        kept = ops.broadcast_to(column, (length, length))
        k = ops.select(ops.broadcast_to(row >= threshold, (length, length)), kept, moved)
        k = ops.minimum(k, length - 1)  # above the diagonal, which is masked
        flat = ops.gather(ops.reshape(pse, (heads, -1)), ops.reshape(m * length + k, (-1,)), 1)
        return ops.reshape(flat, (1, heads, length, length))

    def hidden(self, mask: Any, sparse_mode: int, length: int) -> Any:
        """(1, 1, S, S) bool: by the mask in mode 0, leftUpCausal in mode 2."""
        if sparse_mode == 0:
            return ops.reshape(ops.cast(mask, ms.bool_), (1, 1, length, length))
        assert sparse_mode == 2 and mask.shape == (2048, 2048)
        position = ops.arange(0, length, 1, dtype=ms.int32)
        return ops.reshape(
            ops.expand_dims(position, 0) > ops.expand_dims(position, 1), (1, 1, length, length)
        )


def philox(seed: int, offset: int, count: int) -> np.ndarray:
    """`count` 32-bit numbers of Philox4x32-10: the key is the seed, the counter starts at [0, offset]."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c0, c1 = blocks & low, blocks >> np.uint64(32)
    c2, c3 = (np.full_like(blocks, part) for part in (offset & 0xFFFFFFFF, offset >> 32 & 0xFFFFFFFF))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        one, two = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (two >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            two & low,
            (one >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            one & low,
        )
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1).reshape(-1)[:count].astype(np.uint32)


def _bits(size: int, p: float, seed: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """aclnnDropoutGenMaskV2: uint8, a whole number of 128 bits, 1 where a uniform number is at least p."""
    count = -(-size // 128) * 128
    kept = philox(int(seed), int(offset), count) / np.float64(2**32) >= p
    return np.packbits(kept, bitorder="little")


class CannDropoutBits(nn.Cell):
    """DropoutGenMaskExt(shape, p, seed, offset, dtype) -> bits, flat; for one shape and one p."""

    def __init__(self, shape: tuple[int, ...], p: float) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.given = (tuple(shape), p)
        self.draw = ops.Custom(
            lambda seed, offset: _bits(size, p, seed, offset),
            out_shape=lambda *_: [-(-size // 128) * 16],
            out_dtype=lambda *_: ms.uint8,
            func_type="pyfunc",
        )

    def construct(self, shape: Any, p: float, seed: Any, offset: Any, dtype: Any) -> Any:
        assert (shape, p) == self.given and dtype == ms.float32
        assert seed.dtype == ms.int64 and offset.dtype == ms.int64
        return self.draw(seed, offset)


class CannDropout(nn.Cell):
    """DropoutExt(x, p, seed, offset) -> (x * kept / (1 - p), kept), the second as bits in the kernel."""

    def __init__(self, shape: tuple[int, ...], p: float) -> None:
        super().__init__()
        size = int(np.prod(shape))
        self.given = (tuple(shape), p)
        self.draw = ops.Custom(
            lambda seed, offset: (
                np.unpackbits(_bits(size, p, seed, offset), bitorder="little")[:size]
                .reshape(shape)
                .astype(np.float32)
            ),
            out_shape=lambda *_: list(shape),
            out_dtype=lambda *_: ms.float32,
            func_type="pyfunc",
        )

    def construct(self, x: Any, p: float, seed: Any, offset: Any) -> Any:
        assert (x.shape, p) == self.given
        assert seed.dtype == ms.int64 and offset.dtype == ms.int64
        kept = ops.stop_gradient(self.draw(seed, offset))
        return x * ops.cast(kept, x.dtype) / (1.0 - p), kept
