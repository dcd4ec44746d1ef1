"""Dropout that can be computed twice.

MindSpore's own draws another mask each time it runs: also when a block is recomputed for its backward pass,
within a graph or as a stage of a pipeline, and the gradients are then those of another network. Here the mask
is a function of a seed, of the place in the network and of the element's number.
"""

from __future__ import annotations

import zlib
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.attention import FlashAttention
from model.errors import ModelError
from model.parallel import numbered

__all__ = ["ReplayedDropout", "Replays", "replay_dropout"]

SEED_NAME = "dropout_seed"


class ReplayedDropout(nn.Cell):
    """Zero each element with chance `p` and scale the others by 1 / (1 - p); nothing outside of training."""

    def __init__(self, p: float, salt: int, seed: ms.Parameter) -> None:
        super().__init__()
        self.p, self.seed = p, seed
        # 31 bits of hash below this number mean: dropped.
        self.limit = ms.Tensor(int(p * 2**31), ms.int32)
        self.salt = _int32(salt * 0x9E3779B1 + 0x7F4A7C15)
        self.odd = (_int32(0x85EBCA6B), _int32(0xC2B2AE35), _int32(0x27D4EB2F))
        self.shifts = (ms.Tensor(16, ms.int32), ms.Tensor(13, ms.int32))
        self.positive = _int32(0x7FFFFFFF)

    def construct(self, x: Any) -> Any:
        if not self.training or self.p == 0:
            return x
        number = ops.reshape(ops.arange(0, x.size, 1, dtype=ms.int32), x.shape)
        kept = self.hash(number) >= self.limit
        return x * ops.cast(kept, x.dtype) * (1.0 / (1.0 - self.p))

    def hash(self, number: Any) -> Any:
        """31 bits; the mixing is the finaliser of MurmurHash3, its multipliers and shifts (public domain)."""
        mixed = number * self.odd[2] + self.seed + self.salt
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[0])) * self.odd[0]
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[1])) * self.odd[1]
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[0]))
        return ops.bitwise_and(mixed, self.positive)


def _int32(bits: int) -> ms.Tensor:
    return ms.Tensor(np.uint32(bits & 0xFFFFFFFF).view(np.int32), ms.int32)


class Replays:
    """The seed of all dropouts of a network: the same number gives the same masks again."""

    def __init__(self, base: tuple[int, ...]) -> None:
        self.base, self.steps = base, 0
        self.seed = ms.Parameter(ms.Tensor([0], ms.int32), name=SEED_NAME, requires_grad=False)

    def next_step(self) -> None:
        self.steps += 1

    def choose(self, micro: int = 0) -> None:
        """The masks of one micro batch of this step."""
        bits = np.random.SeedSequence([*self.base, self.steps, micro]).generate_state(1, np.uint32)
        self.seed.set_data(ms.Tensor(bits.view(np.int32), ms.int32))


def replay_dropout(network: nn.Cell, base: tuple[int, ...], first_block: int = 0) -> Replays | None:
    """Put replayed dropouts in the place of MindSpore's; None where there is nothing to drop.

    A stage of a pipeline tells the number of its first block: then it drops what the whole network would.

    ModelError: the flash kernel draws its masks itself, so that they cannot be had again.
    """
    replays, found = Replays(base), False
    for path, cell in list(network.cells_and_names()):
        if isinstance(cell, FlashAttention) and cell.keep < 1:
            raise ModelError(
                "attention_dropout_rate above 0 cannot be recomputed with use_flash_attention",
                where="model.overrides",
                remedy="set attention_dropout_rate to 0",
            )
        for name, child in list(cell.name_cells().items()):
            if isinstance(child, nn.Dropout) and child.p > 0:
                place = numbered(f"{path}.{name}", first_block)
                salt, found = zlib.crc32(place.encode()), True
                setattr(cell, name, ReplayedDropout(child.p, salt, replays.seed))
    replays.seed.name = SEED_NAME  # each of the cells has put its own name before it
    return replays if found else None
