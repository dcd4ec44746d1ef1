"""What hosts tell of a run that is not known here: which attempt is in force, who acts, what is over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.core.claims import NO_CLAIM, Tombstone
from orchestrator.core.records import Attempt, Claim, Manifest, RunOnHost

if TYPE_CHECKING:  # else a command line brings in all that connects
    from orchestrator.hosts.fleet import Fleet

__all__ = ["highest_claim", "newest_attempt", "tell_what_is_over"]


def highest_claim(there: Mapping[str, RunOnHost]) -> Claim:
    """The highest claim that any of the run's hosts has seen."""
    claims = [Claim(run.epoch, run.holder) for run in there.values()]
    return max(claims, key=lambda claim: claim.epoch, default=NO_CLAIM)


def newest_attempt(there: Mapping[str, RunOnHost]) -> dict[str, Manifest]:
    """The manifests of the run's newest attempt; a host that has only earlier ones is none of its hosts.

    Of two with the same number, which two control nodes have begun, that of the higher claim counts.
    """
    known = {host: run for host, run in there.items() if run.manifest is not None}
    newest = max(known.values(), key=lambda run: (_attempt(run).number, run.epoch))
    return {
        host: run.manifest
        for host, run in known.items()
        if run.manifest is not None and _attempt(run) == _attempt(newest)
    }


def _attempt(run: RunOnHost) -> Attempt:
    assert run.manifest is not None
    return run.manifest.attempt


def tell_what_is_over(fleet: Fleet, there: Mapping[str, RunOnHost]) -> list[str]:
    """Have hosts end what other hosts of the run know to be over; a line on each that does not.

    By the word of who holds the claim: what its tombstones say, or that a later attempt is in force.
    """
    known = {host: run for host, run in there.items() if run.manifest is not None}
    if not known:
        return []
    newest = max(_attempt(run).number for run in known.values())
    over = max(newest - 1, *(run.over for run in known.values()))
    late = [
        host
        for host, run in known.items()
        if _attempt(run).number <= over and run.status is not None and not run.status.is_over
    ]
    if not late:
        return []
    run_id = next(run.manifest.run_id for run in known.values() if run.manifest is not None)
    stone = Tombstone(run_id, Attempt(over), "other hosts say so", highest_claim(there), time.time())
    answers = fleet.each(lambda agent: agent.bury(stone), late)
    return [str(error) for error in answers.errors.values()]
