"""Dropout is proven on the device before training starts: a mask that cannot be had again trains another
network, and no loss would tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np

from model.errors import ModelError
from model.network.dropout import DrawnBits, HashedDropout, Replayed, Replays

__all__ = ["hash_of", "prove_dropout"]

P = 0.25
SHAPE = (2, 2, 32, 32)
# Six standard deviations of the share of so many elements: two starts in 10**9 would be refused for nothing.
NEAR = 6 * (P * (1 - P) / np.prod(SHAPE)) ** 0.5
SALT = 0xC0FFEE


def prove_dropout(replays: Replays) -> None:
    """Draw some masks of each kind that the network uses; ModelError that names what is wrong with them."""
    for kind in sorted(replays.kinds, key=lambda one: one.__name__):
        problem = _problem(kind, replays)
        if problem:
            raise ModelError(
                f"{problem} ({kind.__name__}, on this device)",
                where="dropout",
                remedy="set hidden_dropout_rate and attention_dropout_rate to 0, and report this",
            )


def _problem(kind: type[Replayed], replays: Replays) -> str | None:
    """What a mask of this kind does that none may; None where all is well."""
    here, there = (kind(P, salt, replays.seed).set_train() for salt in (SALT, SALT + 1))
    first, again, other = (_dropped(here, replays, seed) for seed in (1, 1, 2))
    if (first != again).any():
        return f"the same seed gives another mask, in {(first != again).mean():.0%} of the elements"
    share = first.mean()
    if abs(share - P) > NEAR:
        return f"{share:.1%} of the elements are dropped where {P:.1%} should be"
    # Of two independent masks 2 p (1 - p) of the elements differ.
    for what, mask in (("another seed", other), ("another place", _dropped(there, replays, 1))):
        if (first != mask).mean() < P * (1 - P):
            return f"{what} gives the same mask, but for {(first != mask).mean():.1%} of the elements"
    if isinstance(here, HashedDropout):
        return _wrong_hash(here, replays)
    return None


def _dropped(cell: Any, replays: Replays, seed: int) -> np.ndarray:
    """Which elements a seed drops, flat."""
    replays.set_seed(np.random.SeedSequence([seed]))
    # A graph, as an Ascend will run it; on a CPU that compiles for a second, and single steps tell as much.
    run: Callable[[Any], Any] = cell if replays.drawn else cell.construct
    if isinstance(cell, DrawnBits):
        return np.unpackbits(run(SHAPE).asnumpy().reshape(-1), bitorder="little") == 0
    return run(ms.Tensor(np.ones(SHAPE, np.float32))).asnumpy().reshape(-1) == 0


def _wrong_hash(cell: HashedDropout, replays: Replays) -> str | None:
    replays.set_seed(np.random.SeedSequence([1]))
    numbers = np.arange(16, dtype=np.int32)
    wanted = hash_of(numbers, replays.seed.asnumpy(), cell.salt.asnumpy())
    got = cell.hash(ms.Tensor(numbers)).asnumpy()
    if (got == wanted).all():
        return None
    place = int(np.flatnonzero(got != wanted)[0])
    return f"the hash of {place} is {got[place]}, and by NumPy {wanted[place]}"


def hash_of(numbers: np.ndarray, seed: np.ndarray, salt: np.ndarray) -> np.ndarray:
    """`HashedDropout.hash` in NumPy; all int32, whose products and sums wrap."""
    odd = np.array([0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32).view(np.int32)
    mixed = numbers * odd[2:] + seed + salt
    mixed = (mixed ^ (mixed >> 16)) * odd[:1]
    mixed = (mixed ^ (mixed >> 13)) * odd[1:2]
    return (mixed ^ (mixed >> 16)) & np.int32(0x7FFFFFFF)
