"""The guard of a run's attempts on a host: which one a request means, who may act on it, and what is over.

A request names the attempt that it means (`meant`: number and token), on whose claim it acts (`claim`) and,
where the run has ended, that it has (`over`: how). A supervisor that still runs an attempt that is over by
that, the named one or one before, is ended by whichever request comes first; `tombstone.json` says so from
then on. A request without these, of an earlier version, means the attempt in force.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from typing import Any, Dict, Iterator, Mapping, Optional, Set, Tuple

from orchestrator.agent import control_socket, device_hold, host_runs, processes
from orchestrator.agent.host_runs import known_claim
from orchestrator.core.claims import NO_CLAIM, KeptClaim, Tombstone
from orchestrator.core.codec import DecodeError, dumps, from_json, load, to_json
from orchestrator.core.ends import StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir, atomic_write
from orchestrator.core.records import Attempt, Claim, HostStatus, Manifest, ProcessId
from orchestrator.core.safe_open import require_own_folder

__all__ = [
    "acting",
    "attempt_in",
    "bury",
    "claim_in",
    "in_force",
    "reading",
    "require_claim",
    "require_room",
    "take_claim",
]

# Beyond the grace period: for SIGKILL to be noticed.
_MARGIN = 10.0
# For a supervisor that is there to take an order.
_SHORT = 3.0
# A run that is half there may be being made at this very moment.
_SETTLED = 60.0
_PHASES_OF_A_LAUNCH = ("prepared", "started", "undoing")
# Of which it is known, in this process, that nothing that is over runs any more.
_quiet: Set[Tuple[str, int]] = set()


def attempt_in(args: Mapping[str, Any]) -> Optional[Attempt]:
    """The attempt that a request means, where it says so. Raises DecodeError."""
    said = args.get("meant")
    return None if said is None else from_json(Attempt, said)


def claim_in(args: Mapping[str, Any]) -> Claim:
    """On whose claim it acts. Raises DecodeError."""
    said = args.get("claim")
    return NO_CLAIM if said is None else from_json(Claim, said)


# Which attempt.


def reading(workdir: Workdir, args: Mapping[str, Any]) -> RunDir:
    """The run of a request that reads what an attempt wrote; AgentError, kind `no_run`, where that is not."""
    run, meant = _found(workdir, args)
    if meant is None:
        return run
    if run.in_force is None:
        if meant.number != 1:
            raise _absent(run, meant)
        return run
    pinned = run.pinned(meant.number)
    if not run.is_of(meant.number, meant.token) or not os.path.lexists(pinned.attempt.manifest):
        raise _absent(run, meant)
    return pinned


def in_force(workdir: Workdir, args: Mapping[str, Any]) -> RunDir:
    """The run of a request about what runs; AgentError where another attempt is in force.

    Its kind is `no_run` where the attempt that is meant is not here, `newer_attempt` where a later one is.
    """
    run, meant = _found(workdir, args)
    if meant is None:
        return run
    number = run.in_force or 1
    if number > meant.number or (number == meant.number and not run.is_of(number, meant.token)):
        which = f"attempt {number} of run {run.root.name}"
        known = known_claim(run)
        who = f", by {known.holder}" if known.holder else ""
        raise AgentError(
            f"{which} has taken the place of that one here{who}",
            remedy=f"`orchestrate attach {run.root.name} --take-over` finds it",
            kind="newer_attempt",
        )
    if number < meant.number:
        raise _absent(run, meant)
    return run if run.in_force is None else run.pinned(meant.number)


def acting(workdir: Workdir, args: Mapping[str, Any]) -> RunDir:
    """As `in_force`, for a request that changes something; kind `claim` where another control node acts."""
    run = in_force(workdir, args)
    take_claim(run, claim_in(args))
    return run


def _found(workdir: Workdir, args: Mapping[str, Any]) -> Tuple[RunDir, Optional[Attempt]]:
    run, meant = host_runs.find(workdir, args["run_id"]), attempt_in(args)
    if meant is not None:
        _end_what_is_over(run, meant, args)
    return run, meant


def _absent(run: RunDir, meant: Attempt) -> AgentError:
    return AgentError(f"no attempt {meant.number} of run {run.root.name} on this host", kind="no_run")


# What is over.


def _end_what_is_over(run: RunDir, meant: Attempt, args: Mapping[str, Any]) -> None:
    """End a supervisor of an attempt before the one that is meant, or of that one where the run has ended."""
    state, number = args.get("over"), run.in_force or 1
    is_over = number < meant.number or (
        isinstance(state, str) and number == meant.number and run.is_of(number, meant.token)
    )
    if not is_over or (run.root.name, number) in _quiet:
        return
    if not _lives(run):
        if isinstance(state, str):  # no attempt follows, for which its devices might be kept
            with contextlib.suppress(AgentError):
                take_claim(run, claim_in(args))
                device_hold.release(run)
        _quiet.add((run.root.name, number))
        return
    last = meant if number == meant.number else Attempt(meant.number - 1)
    text = state if isinstance(state, str) and number == meant.number else f"attempt {meant.number} follows"
    stone = Tombstone(run.root.name, last, text[:200], claim_in(args), time.time())
    with contextlib.suppress(AgentError):  # who may not act only looks
        take_claim(run, stone.claim)
        _keep(run, stone)
        _order_end(run, stone)


def bury(run: RunDir, stone: Tombstone, meant: Optional[Attempt] = None) -> HostStatus:
    """End what still runs of an attempt that is over, or of one before, and keep the tombstone.

    A launch that came to nothing under the number of what is `meant` to be in force is over, too. Returns
    what became of it. Raises AgentError: kind `newer_attempt` where one that is not over is in force, `claim`
    where another control node acts, `still_running` where it cannot be ended.
    """
    take_claim(run, stone.claim)  # who may not act hears that, whatever is in force
    number = run.in_force or 1
    is_other = number == stone.attempt.number and not run.is_of(number, stone.attempt.token)
    is_later = number > stone.attempt.number or is_other
    if is_later and not (meant and _came_to_nothing(run, number, meant, stone.claim)):
        raise AgentError(
            f"attempt {number} of run {run.root.name} is in force here, and not over", kind="newer_attempt"
        )
    _keep(run, stone)
    if _lives(run):
        _order_end(run, stone)
        _wait_for_end(run, _grace(run) + _MARGIN)
    if _lives(run):
        _kill(run)
    if _lives(run):
        what, see = f"attempt {number} of run {run.root.name} does not end", f"see {run.supervisor_log}"
        raise AgentError(what, remedy=see, kind="still_running")
    _quiet.add((run.root.name, number))
    if meant is None or meant.number <= stone.attempt.number:
        device_hold.release(run)  # else the attempt that is meant may be about to take them over
    return host_runs.status(run)


def _keep(run: RunDir, stone: Tombstone) -> None:
    with contextlib.suppress(OSError):  # a full disk keeps nothing, and must not keep a run alive
        atomic_write(run.tombstone, dumps(stone))


def _stop(stone: Tombstone) -> Dict[str, Any]:
    """What the supervisor of an attempt that is over is told."""
    reason = StopReason.requested(f"the run is over: {stone.state}")
    return {"verb": "stop", "reason": reason.text, "why": to_json(reason)}


def _order_end(run: RunDir, stone: Tombstone) -> None:
    """Have the supervisor end its workers, with their grace.

    One that is stopped takes no order and is killed: its guardian ends the rest. A slow one is not.
    """
    try:
        control_socket.ask(run.control_socket, _stop(stone), timeout=_SHORT)
    except AgentError as error:
        supervisor = host_runs.recorded(run).supervisor
        if error.kind == "no_supervisor" and supervisor and processes.state_of(supervisor.pid) in ("T", "t"):
            _kill_process(supervisor)


def _kill(run: RunDir) -> None:
    """By their recorded identity: the supervisor first, for its guardian ends what is left of the workers."""
    found = host_runs.recorded(run)
    for process in (found.supervisor, found.guardian):
        if process == found.guardian:
            host_runs.require_dead(found)
        _kill_process(process)
        _wait_for_end(run, _SHORT)


def _kill_process(process: Optional[ProcessId]) -> None:
    if process is not None and processes.is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _wait_for_end(run: RunDir, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while _lives(run) and time.monotonic() < deadline:
        time.sleep(0.05)


def _lives(run: RunDir) -> bool:
    try:
        return not host_runs.status(run).is_over
    except AgentError:
        return False


def _grace(run: RunDir) -> float:
    try:
        return load(Manifest, run.attempt.manifest, run.runs).grace
    except (OSError, DecodeError):
        return _MARGIN


# Who may act.


def take_claim(run: RunDir, claim: Claim, *, must_keep: bool = False) -> None:
    """Let who has this claim act, and nobody with a lower one from now on.

    Raises AgentError, kind `claim`, where another control node has a higher one, or had the same before; with
    `must_keep` OSError where there is no room to keep it.
    """
    with _alone(run):
        known = known_claim(run)
        if claim == known or claim.epoch == known.epoch == 0:
            return
        if claim.epoch <= known.epoch:
            raise AgentError(
                f"run {run.root.name} is in the hands of {known.holder} (claim {known.epoch})",
                remedy=f"`orchestrate attach {run.root.name} --take-over` takes it over",
                kind="claim",
            )
        with contextlib.nullcontext() if must_keep else contextlib.suppress(OSError):
            atomic_write(run.claim, dumps(KeptClaim(claim)))


@contextlib.contextmanager
def _alone(run: RunDir) -> Iterator[None]:
    """No other session reads or writes the claim of this run meanwhile."""
    try:
        handle = os.open(run.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise AgentError(f"{run.root}: {error.strerror}", kind="foreign") from error
    try:
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_claim(workdir: Workdir, run_id: str, claim: Claim) -> None:
    """As `take_claim`, for a run that may not be there."""
    try:
        run = host_runs.find(workdir, run_id)
    except AgentError:
        return
    take_claim(run, claim)


# Whether there is room for another one.


def require_room(workdir: Workdir, run_id: str, mine: Attempt, claim: Claim = NO_CLAIM) -> None:
    """Refuse an attempt where it has been, or another one runs; what was left of one that never began goes.

    So does one of the same number and another token that was begun on the same `claim`: its launch has come
    to nothing elsewhere, and this host could not be told.

    A host that never had the run has room. Raises AgentError, see `prepare_run.prepare`.
    """
    run = workdir.run(run_id)
    try:
        require_own_folder(run.root)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AgentError(f"{run.root}: {error.strerror}", kind="foreign") from error
    number = run.in_force
    if number is None:
        _require_nothing(run)
        return
    which = f"attempt {number} of run {run_id}"
    if number > mine.number:
        raise AgentError(f"{which} is in force here already", kind="newer_attempt")
    if number == mine.number and run.is_of(number, mine.token):
        raise AgentError(f"{which} exists already", kind="run_exists")
    is_ours = _came_to_nothing(run, number, mine, claim)
    if is_ours and _lives(run):
        bury(run, Tombstone(run_id, Attempt(number), "undone", claim, time.time()))
    if _lives(run) or (_is_half_made(run) and _is_young(run.folder_of(number))):
        stop = f"`orchestrate stop {run_id}` ends it"
        raise AgentError(f"{which} still runs here", remedy=stop, kind="still_running")
    if number == mine.number:
        if not (is_ours or _never_began(run)):
            raise AgentError(f"{which} has run here, and was another one", kind="run_exists")
        run.discard(number, run.token_of(number) or "")
        require_room(workdir, run_id, mine, claim)
    else:
        _clear_left(run, number)


def _clear_left(run: RunDir, number: int) -> None:
    """What is there of an attempt after this one, which is in force: an agent died in the middle."""
    newest = run.numbers()[-1]
    if newest <= number:
        return
    left = run.folder_of(newest)
    if _is_young(left):
        raise AgentError(f"attempt {newest} of run {run.root.name} is just being made", kind="run_exists")
    run.discard(newest, run.token_of(newest) or "")
    with contextlib.suppress(FileNotFoundError):  # else there is what nobody can remove
        os.rename(left, left.with_name(f".{newest}.{os.urandom(8).hex()}"))


def _came_to_nothing(run: RunDir, number: int, mine: Attempt, claim: Claim) -> bool:
    """Whether the attempt of this number was another launch than `mine`, prepared here on the same claim."""
    if claim.epoch == 0 or number != mine.number or run.is_of(number, mine.token):
        return False
    try:
        return load(KeptClaim, run.folder_of(number) / run.claim.name, run.runs).claim == claim
    except (OSError, DecodeError):
        return False


def _require_nothing(run: RunDir) -> None:
    """Of a run without an attempt in force: it is of an older version, or was never whole."""
    if run.status.exists() or (run.root / "manifest.json").exists():
        raise AgentError(
            f"run {run.root.name} is of an older version here, in which a run has one attempt alone",
            remedy="collect its checkpoint and launch the job anew with it",
            kind="older_run",
        )
    if _is_young(run.root):
        raise AgentError(f"run {run.root.name} is just being made", kind="run_exists")
    run.discard(next(iter(run.numbers()), None))


def _is_half_made(run: RunDir) -> bool:
    """Whether the attempt in force has never had a supervisor that said anything."""
    try:
        host_runs.status(run)
    except AgentError as error:
        return error.kind == "no_run"
    return False


def _never_began(run: RunDir) -> bool:
    """Whether the launch of the attempt in force never came to its commit, as far as the disk knows."""
    try:
        status = host_runs.recorded(run)
    except AgentError as error:
        return error.kind == "no_run"
    has_lapsed = status.stop is not None and status.stop.kind is StopKind.LAUNCH_LAPSED
    return status.phase in _PHASES_OF_A_LAUNCH or has_lapsed


def _is_young(folder: Any) -> bool:
    try:
        return abs(time.time() - os.lstat(folder).st_mtime) < _SETTLED  # the clock may have been set back
    except OSError:
        return False
