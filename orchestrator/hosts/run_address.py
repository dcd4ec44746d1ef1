"""The address of what is asked about a run: which of its attempts is meant, and on whose claim it is asked.

A session adds it to every request that names the run. What is over by it the host ends by itself, see
agent/attempt_guard.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.codec import to_json
from orchestrator.core.records import FIRST, Attempt, Claim

__all__ = ["RunAddress"]


@dataclass(frozen=True, slots=True)
class RunAddress:
    """An attempt of a run. `over` says how it ended, where it is not to run anywhere any more."""

    run_id: str
    attempt: Attempt = FIRST
    claim: Claim = NO_CLAIM
    over: str | None = None

    def added_to(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a request; those of another run, or of none, as they are."""
        if args.get("run_id") != self.run_id:
            return args
        return {**_said(self.attempt, self.claim, self.over), **args}


@functools.lru_cache(maxsize=64)
def _said(attempt: Attempt, claim: Claim, over: str | None) -> Mapping[str, Any]:
    """How a request says so: every one of a run does, to each of its hosts."""
    own: dict[str, Any] = {"meant": to_json(attempt)}
    if claim.epoch:  # who only watches has none
        own["claim"] = to_json(claim)
    if over is not None:
        own["over"] = over
    return own
