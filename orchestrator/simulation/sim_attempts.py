"""The attempts of a run on a simulated host, as agent/attempt_guard.py minds them on a real one's disk."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.agent.attempt_guard import attempt_in, claim_in
from orchestrator.core.claims import NO_CLAIM, Tombstone
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Attempt, Claim, Manifest, RunOnHost

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun

__all__ = ["bury", "in_force", "is_meant", "reading", "require_room", "take_claim", "told_of"]

_NEVER_BEGAN = ("prepared", "started", "undoing")


def is_meant(run: SimRun, args: Mapping[str, Any]) -> bool:
    """Whether the attempt in force is the one that a request means, if it says which."""
    meant = attempt_in(args)
    return meant is None or run.manifest.attempt == meant


def in_force(host: SimHost, args: Mapping[str, Any]) -> SimRun:
    """The run of a request about what runs. What is over by the request ends."""
    run, meant = host.run(args["run_id"]), attempt_in(args)
    if meant is None:
        return run
    _end_what_is_over(host, run, meant, args)
    here = run.manifest.attempt
    if here == meant:
        return run
    if here.number >= meant.number:
        raise AgentError(f"attempt {here.number} has taken the place of that one here", kind="newer_attempt")
    raise AgentError(f"no attempt {meant.number} of run {args['run_id']} on this host", kind="no_run")


def reading(host: SimHost, args: Mapping[str, Any]) -> SimRun:
    """The attempt of a request that reads what one wrote."""
    run, meant = host.run(args["run_id"]), attempt_in(args)
    if meant is None:
        return run
    _end_what_is_over(host, run, meant, args)
    found: SimRun | None = run
    while found is not None and found.manifest.attempt != meant:
        found = found.before
    if found is None:
        raise AgentError(f"no attempt {meant.number} of run {args['run_id']} on this host", kind="no_run")
    return found


def _end_what_is_over(host: SimHost, run: SimRun, meant: Attempt, args: Mapping[str, Any]) -> None:
    here, state = run.manifest.attempt, args.get("over")
    if isinstance(state, str) and here == meant and not _lives(run):
        host.keeping.release(args["run_id"])  # no attempt follows, for which devices might be kept
    if (here.number < meant.number or (state is not None and here == meant)) and _lives(run):
        last = meant if here == meant else Attempt(meant.number - 1)
        try:
            stone = Tombstone(args["run_id"], last, str(state or ""), claim_in(args), host.time())
            bury(host, run, stone, meant)
        except AgentError:
            return  # who may not act only looks


def bury(host: SimHost, run: SimRun, stone: Tombstone, meant: Attempt | None = None) -> None:
    """End what runs of an attempt that is over, which takes no time here; `meant` is that of who asks."""
    here = run.manifest.attempt
    is_other = here.number == stone.attempt.number and stone.attempt.token not in ("", here.token)
    if here.number > stone.attempt.number or is_other:
        raise AgentError(f"attempt {here.number} is in force here, and not over", kind="newer_attempt")
    take_claim(host, stone.run_id, {"claim": dataclasses.asdict(stone.claim)})
    host.stones[stone.run_id] = stone
    if run.supervisor is not None and run.supervisor.is_alive:
        run.supervisor.stop(StopReason.requested(f"the run is over: {stone.state}"), now=True)
        for process in run.supervisor.processes.values():
            process.exit(-signal.SIGKILL)
        run.supervisor.step()
    if meant is None or meant.number <= stone.attempt.number:
        host.keeping.release(stone.run_id)  # else the attempt that is meant may be about to take them over


def take_claim(host: SimHost, run_id: str, args: Mapping[str, Any]) -> None:
    """Let who has this claim act, and nobody with a lower one. AgentError, kind `claim`."""
    claim, known = claim_in(args), host.claims.get(run_id, NO_CLAIM)
    if claim == known or claim.epoch == known.epoch == 0:
        return
    if claim.epoch <= known.epoch:
        raise AgentError(
            f"run {run_id} is in the hands of {known.holder} (claim {known.epoch})", kind="claim"
        )
    host.claims[run_id] = claim


def require_room(host: SimHost, run: SimRun | None, manifest: Manifest, claim: Claim) -> None:
    """Refuse an attempt where it has been, or another one runs; what never began goes."""
    mine = manifest.attempt
    if run is None:
        return
    here = run.manifest.attempt
    if here.number > mine.number:
        raise AgentError(f"attempt {here.number} is in force here already", kind="newer_attempt")
    if mine.number == 1 or here == mine:
        raise AgentError(f"run {manifest.run_id} exists already", kind="run_exists")
    is_ours = here.number == mine.number and claim.epoch > 0 and run.claim == claim
    if is_ours and _lives(run):
        bury(host, run, Tombstone(manifest.run_id, here, "undone", claim, host.time()))
    if _lives(run):
        raise AgentError(f"attempt {here.number} still runs here", kind="still_running")
    if here.number == mine.number:
        if not is_ours and run.status is not None and run.status.phase not in _NEVER_BEGAN:
            raise AgentError(f"attempt {here.number} has run here, and was another one", kind="run_exists")
        host.discard(run)
        require_room(host, host.runs.get(manifest.run_id), manifest, claim)


def _lives(run: SimRun) -> bool:
    return run.supervisor is not None and run.supervisor.is_alive


def told_of(host: SimHost, found: RunOnHost) -> RunOnHost:
    """With who may act on the run, and what of it is over."""
    assert found.manifest is not None
    claim = host.claims.get(found.manifest.run_id, NO_CLAIM)
    stone = host.stones.get(found.manifest.run_id)
    over = 0 if stone is None else stone.attempt.number
    return dataclasses.replace(found, epoch=claim.epoch, holder=claim.holder, over=over)
