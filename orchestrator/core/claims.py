"""The claim of one control node on a run as a host keeps it, and the tombstone of an attempt that is over.

The control node that launches a run holds its claim with epoch 1; who takes it over has the next epoch. Every
host keeps the highest that it has seen, in `claim.json` beside the run, and refuses who acts with a lower.

A tombstone (`tombstone.json`) says that an attempt of a run, and with it all before, is over for good, by the
word of who held the claim: a host that was away while the run ended finds out by whoever comes first.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from orchestrator.core.codec import Stored
from orchestrator.core.record_class import dataclass
from orchestrator.core.records import FIRST, Attempt, Claim

__all__ = ["NO_CLAIM", "KeptClaim", "Tombstone"]

NO_CLAIM = Claim(0)  # of who only watches, and of who has never heard of claims


@dataclass(frozen=True)
class KeptClaim(Stored):
    """`claim.json`: the highest claim that a host has seen."""

    LARGEST = 1 << 16

    claim: Claim = NO_CLAIM


@dataclass(frozen=True)
class Tombstone(Stored):
    """That an attempt of a run, and all before it, are over.

    `state` is how the run ended, or that a later attempt took the place of this one; `claim` is that of who
    says so, `time` when that was, by its clock.
    """

    LARGEST = 1 << 16

    run_id: str
    attempt: Attempt = FIRST
    state: str = ""
    claim: Claim = NO_CLAIM
    time: float = 0.0
