"""What hosts tell of a run that is not known here: which attempt is in force, who acts, what is over."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.core.claims import NO_CLAIM, Tombstone
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, Claim, Manifest, RunOnHost

if TYPE_CHECKING:  # else a command line brings in all that connects
    from orchestrator.hosts.fleet import Fleet

__all__ = ["free_of_what_is_over", "highest_claim", "newest_attempt", "tell_what_is_over"]

log = logging.getLogger(__name__)


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


def tell_what_is_over(
    fleet: Fleet, there: Mapping[str, RunOnHost], ours: RunRecord | None = None
) -> list[str]:
    """Have hosts end what other hosts of the run, or `ours`, know to be over; a line on each that does not.

    By the word of who holds the claim: what its tombstones say, or that a later attempt is in force.
    """
    known = {host: run for host, run in there.items() if run.manifest is not None}
    if not known:
        return []
    newest = max(_attempt(run).number for run in known.values())
    over = max(newest - 1, *(run.over for run in known.values()))
    run_id = next(run.manifest.run_id for run in known.values() if run.manifest is not None)
    lines = _bury(fleet, known, Tombstone(run_id, Attempt(over), "other hosts say so", highest_claim(there)))
    if ours is not None and ours.state.is_terminal and ours.attempts[-1].number > over:
        # Our own word counts by our own claim: another control node may know better.
        last = ours.attempts[-1]
        attempt = Attempt(last.number, last.token)
        lines += _bury(fleet, known, Tombstone(run_id, attempt, str(ours.state), ours.claim))
    return lines


def _bury(fleet: Fleet, known: Mapping[str, RunOnHost], stone: Tombstone) -> list[str]:
    late = [
        host
        for host, run in known.items()
        if _attempt(run).number <= stone.attempt.number and run.status is not None and not run.status.is_over
    ]
    stone = replace(stone, time=time.time())
    answers = fleet.each(lambda agent: agent.bury(stone), late)
    return [str(error) for error in answers.errors.values()]


def free_of_what_is_over(fleet: Fleet, hosts: Sequence[str], runs: Path) -> None:
    """Have these hosts end what is over of the runs that are known in `runs`, which frees its devices."""
    answers = fleet.each(lambda agent: agent.list_runs(), hosts)
    for run_id, there in by_run(answers.values).items():
        for line in tell_what_is_over(fleet, there, readable_record(ControlDir(runs / run_id))):
            log.warning(line)


def by_run(told: Mapping[str, Sequence[RunOnHost]]) -> dict[str, dict[str, RunOnHost]]:
    """What each host tells of each run, by run; without what cannot be read."""
    found: dict[str, dict[str, RunOnHost]] = {}
    for host, runs in told.items():
        for run in runs:
            if run.manifest is not None:
                found.setdefault(run.manifest.run_id, {})[host] = run
    return found


def readable_record(control: ControlDir) -> RunRecord | None:
    """What is known of a run here, if that can be read."""
    with contextlib.suppress(RunNotFound):
        return read_record(control)
    return None
