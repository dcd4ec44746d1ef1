"""Dropout by a seed, so that it can be computed twice.

MindSpore's own draws another mask each time it runs: also when a block is recomputed for its backward pass,
within a graph or as a stage of a pipeline, and the gradients are then those of another network. Here the mask
is a function of a seed, of the place in the network and of the element's number. Which function depends on
the device: on Ascend its own generator, elsewhere a hash.

A record drops the same on whichever replica it is computed, so that a training goes on as it would have on
more replicas or fewer: the hash counts elements over all records of a step; Ascend's generator counts from 0
in each micro batch, whose first record is in its key, so that there micro batches must stay as large.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.auto_generate import DropoutExt, DropoutGenMaskExt

from model.devices.device import current_device
from model.network.flash_attention import FlashAttention

__all__ = ["DropoutSeed", "HashDropout", "PhiloxDropout", "PhiloxMask", "SeededDropout", "seed_dropout"]

SEED_NAME = "dropout_seed"


class SeededDropout(nn.Cell):
    """A dropout of elements with chance `p` by `seed`; `salt` is the place in the network, 32 bits."""

    def __init__(self, p: float, salt: int, seed: ms.Parameter) -> None:
        super().__init__()
        self.p, self.seed = p, seed


class HashDropout(SeededDropout):
    """Zero each element with chance `p` and scale the others by 1 / (1 - p); nothing outside of training.

    Its seed is two numbers: that of the step, and the number of the first record. Its steps are shifts and
    products that wrap, which on an Ascend are slow (RightShift is no kernel of its AI cores) and of which
    CANN promises nothing.
    """

    def __init__(self, p: float, salt: int, seed: ms.Parameter) -> None:
        super().__init__(p, salt, seed)
        # 31 bits of hash below this number mean: dropped.
        self.limit = Tensor(int(p * 2**31), ms.int32)
        self.salt = _int32(salt * 0x9E3779B1 + 0x7F4A7C15)
        self.odd = (_int32(0x85EBCA6B), _int32(0xC2B2AE35), _int32(0x27D4EB2F))
        self.shifts = (Tensor(16, ms.int32), Tensor(13, ms.int32))
        self.positive = _int32(0x7FFFFFFF)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        number = ops.arange(0, x.size, 1, dtype=ms.int32) + self.seed[1:] * (x.size // x.shape[0])
        number = ops.reshape(number, x.shape)
        kept = self.hash(number) >= self.limit
        return x * ops.cast(kept, x.dtype) * (1.0 / (1.0 - self.p))

    def hash(self, number: Tensor) -> Tensor:
        """31 bits; the mixing is the finaliser of MurmurHash3, its multipliers and shifts (public domain)."""
        mixed = number * self.odd[2] + self.seed[:1] + self.salt
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[0])) * self.odd[0]
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[1])) * self.odd[1]
        mixed = ops.bitwise_xor(mixed, ops.bitwise_right_shift(mixed, self.shifts[0]))
        return ops.bitwise_and(mixed, self.positive)


class PhiloxDropout(SeededDropout):
    """The same by Ascend's generator, Philox4x32-10 (Salmon et al., "Parallel Random Numbers", 2011).

    Its key is the seed; the offset is the upper half of its 128-bit counter, the element's number the lower
    (CANN, ops-math, random/dsa_gen_bit_mask: key [seed], counter [0, offset]). So two places, which have the
    same seed and different offsets, share no number, however close the offsets are. Both inputs must be
    int64 tensors; the kernel reads them on the host.
    """

    def __init__(self, p: float, salt: int, seed: ms.Parameter) -> None:
        super().__init__(p, salt, seed)
        self.offset = Tensor(salt, ms.int64)
        self.drop: Callable[..., Tensor] = DropoutExt()

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return self.drop(x, self.p, self.seed, self.offset)[0]


class PhiloxMask(SeededDropout):
    """The mask of Ascend's attention kernel by the same generator; (B, H, S, S) -> (B, H, S, S / 8) uint8.

    One bit an element, 1 = kept, the first in the lowest (aclnnDropoutGenMaskV2, whose output has a whole
    number of 128 bits). Its shape is a tuple of constants, not a tensor.
    """

    def __init__(self, p: float, salt: int, seed: ms.Parameter) -> None:
        super().__init__(p, salt, seed)
        self.offset = Tensor(salt, ms.int64)
        self.draw = DropoutGenMaskExt()

    def construct(self, shape: tuple[int, ...]) -> Tensor:
        batch, heads, rows, columns = shape
        bits = self.draw(shape, self.p, self.seed, self.offset, ms.float32)
        size = batch * heads * rows * columns // 8
        return ops.reshape(bits[:size], (batch, heads, rows, columns // 8))


def _int32(bits: int) -> Tensor:
    return Tensor(np.uint32(bits & 0xFFFFFFFF).view(np.int32), ms.int32)


class DropoutSeed:
    """The seed of a network's dropouts, which are of these `kinds`: the same number gives the same masks.

    `replica` is the data-parallel index of this rank.
    """

    def __init__(self, base: tuple[int, ...], replica: int = 0) -> None:
        self.base, self.steps, self.replica = base, 0, replica
        self.kinds: set[type[SeededDropout]] = set()
        self.is_philox = current_device().is_ascend
        start = Tensor(0, ms.int64) if self.is_philox else Tensor([0, 0], ms.int32)
        self.seed = ms.Parameter(start, name=SEED_NAME, requires_grad=False)

    def next_step(self) -> None:
        self.steps += 1

    def choose(self, rows: int = 0, micro: int = 0, parts: int = 1) -> None:
        """The masks of one micro batch of this step, of the `parts` into which this rank's `rows` are cut."""
        first = self.replica * rows + micro * rows // parts
        if self.is_philox:
            self.set_seed(np.random.SeedSequence([*self.base, self.steps, first]))
        else:
            self.set_seed(np.random.SeedSequence([*self.base, self.steps]), first)

    def set_seed(self, sequence: np.random.SeedSequence, first: int = 0) -> None:
        """32 bits of it for the hash, which counts elements from record `first` on; 64 for the generator."""
        if self.is_philox:
            self.seed.set_data(Tensor(sequence.generate_state(1, np.uint64).view(np.int64)[0], ms.int64))
        else:
            bits = sequence.generate_state(1, np.uint32).view(np.int32)
            self.seed.set_data(Tensor(np.append(bits, np.int32(first)).astype(np.int32), ms.int32))

    def dropout(self, p: float, salt: int, *, mask: bool = False) -> SeededDropout:
        """One for this device; `mask` for the bits that the attention kernel takes."""
        kind = PhiloxMask if mask else PhiloxDropout if self.is_philox else HashDropout
        self.kinds.add(kind)
        return kind(p, salt, self.seed)


def seed_dropout(
    network: nn.Cell, base: tuple[int, ...], first_block: int = 0, replica: int = 0
) -> DropoutSeed | None:
    """Put seeded dropouts in the place of MindSpore's; None where there is nothing to drop.

    With the number of its first block, a stage of a pipeline drops what the whole network would, and with its
    number a replica what one replica would of the same records.
    """
    dropout_seed = DropoutSeed(base, replica)
    for path, cell in list(network.cells_and_names()):
        for name, child in list(cell.name_cells().items()):
            if isinstance(child, nn.Dropout) and child.p > 0:
                salt = zlib.crc32(_numbered(f"{path}.{name}", first_block).encode())
                mask = isinstance(cell, FlashAttention)
                setattr(cell, name, dropout_seed.dropout(child.p, salt, mask=mask))
    dropout_seed.seed.name = SEED_NAME  # each of the cells has put its own name before it
    return dropout_seed if dropout_seed.kinds else None


def _numbered(path: str, first_block: int) -> str:
    """The place in the whole network of a block's part that the stage counts from 0."""
    return re.sub(r"(?<=\bblocks\.)\d+", lambda match: str(int(match[0]) + first_block), path)
