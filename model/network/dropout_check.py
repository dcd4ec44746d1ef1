"""The check of dropout on the device, before training starts.

A mask that cannot be had again trains another network, and no loss would show it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from model.errors import ModelError
from model.network.dropout import DropoutSeed, HashDropout, PhiloxMask, SeededDropout

__all__ = ["hash_of", "prove_dropout"]

P = 0.25
SHAPE = (2, 2, 32, 32)
# Six standard deviations of the share of so many elements: two starts in 10**9 would be refused for nothing.
NEAR = 6 * (P * (1 - P) / np.prod(SHAPE)) ** 0.5
SALT = 0xC0FFEE


def prove_dropout(dropout_seed: DropoutSeed) -> None:
    """Draw some masks of each kind that the network uses; ModelError that names what is wrong with them."""
    for kind in sorted(dropout_seed.kinds, key=lambda one: one.__name__):
        problem = _problem(kind, dropout_seed)
        if problem:
            raise ModelError(
                f"{problem} ({kind.__name__}, on this device)",
                where="dropout",
                remedy="set hidden_dropout_rate and attention_dropout_rate to 0, and report this",
            )


def _problem(kind: type[SeededDropout], dropout_seed: DropoutSeed) -> str | None:
    """What a mask of this kind does that none may; None where all is well."""
    here, there = (kind(P, salt, dropout_seed.seed).set_train() for salt in (SALT, SALT + 1))
    first, again, other = (_dropped(here, dropout_seed, seed) for seed in (1, 1, 2))
    if (first != again).any():
        return f"the same seed gives another mask, in {(first != again).mean():.0%} of the elements"
    share = first.mean()
    if abs(share - P) > NEAR:
        return f"{share:.1%} of the elements are dropped where {P:.1%} should be"
    # Of two independent masks 2 p (1 - p) of the elements differ.
    for what, mask in (("another seed", other), ("another place", _dropped(there, dropout_seed, 1))):
        if (first != mask).mean() < P * (1 - P):
            return f"{what} gives the same mask, but for {(first != mask).mean():.1%} of the elements"
    if isinstance(here, HashDropout):
        return _wrong_hash(here, dropout_seed)
    return None


def _dropped(cell: SeededDropout, dropout_seed: DropoutSeed, seed: int) -> NDArray[np.bool_]:
    """Which elements a seed drops, flat."""
    dropout_seed.set_seed(np.random.SeedSequence([seed]))
    # A graph, as an Ascend will run it; on a CPU that compiles for a second, and single steps tell as much.
    run: Callable[..., Tensor] = cell if dropout_seed.is_philox else cell.construct
    if isinstance(cell, PhiloxMask):
        return np.asarray(np.unpackbits(run(SHAPE).asnumpy().reshape(-1), bitorder="little") == 0)
    return np.asarray(run(Tensor(np.ones(SHAPE, np.float32))).asnumpy().reshape(-1) == 0)


def _wrong_hash(cell: HashDropout, dropout_seed: DropoutSeed) -> str | None:
    dropout_seed.set_seed(np.random.SeedSequence([1]))
    numbers = np.arange(16, dtype=np.int32)
    wanted = hash_of(numbers, dropout_seed.seed.asnumpy(), cell.salt.asnumpy())
    got = cell.hash(Tensor(numbers)).asnumpy()
    if (got == wanted).all():
        return None
    place = int(np.flatnonzero(got != wanted)[0])
    return f"the hash of {place} is {got[place]}, and by NumPy {wanted[place]}"


def hash_of(numbers: NDArray[Any], seed: NDArray[Any], salt: NDArray[Any]) -> NDArray[np.int32]:
    """`HashDropout.hash` in NumPy; all int32, whose products and sums wrap."""
    odd = np.array([0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32).view(np.int32)
    mixed = numbers * odd[2:] + seed[:1] + salt
    mixed = (mixed ^ (mixed >> 16)) * odd[:1]
    mixed = (mixed ^ (mixed >> 13)) * odd[1:2]
    return np.asarray((mixed ^ (mixed >> 16)) & np.int32(0x7FFFFFFF))
