"""The address of what is asked about a run: which of its attempts is meant, and on whose claim it is asked.

A session adds it to every request that names the run. What is over by it the host ends by itself, see
agent/attempt_guard.py.
"""

from __future__ import annotations

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
        own: dict[str, Any] = {"meant": to_json(self.attempt)}
        if self.claim.epoch:  # who only watches has none
            own["claim"] = to_json(self.claim)
        if self.over is not None:
            own["over"] = self.over
        return {**own, **args}
