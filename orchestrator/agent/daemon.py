"""How a supervisor leaves the connection that brought it: forked, in a session of its own, under a guardian.

The guardian is the supervisor's parent and does nothing but wait. When the supervisor ends, however it
ends, the guardian kills what is left of the workers (it is their subreaper, so that nothing can hide from
it) and, if the supervisor was killed, writes down what became of the run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Mapping, NoReturn, Optional

from orchestrator.agent import processes
from orchestrator.agent.device_hold import DeviceHold
from orchestrator.agent.device_locks import DeviceLocks
from orchestrator.agent.host_runs import known_claim
from orchestrator.agent.status_file import StatusFile
from orchestrator.agent.supervisor import Supervisor
from orchestrator.core.codec import DecodeError
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import HostStatus, Manifest, RankStatus, StallKind
from orchestrator.core.states import RankState

__all__ = ["FirstWord", "obituary", "spawn", "spawn_apart"]

# With this a supervisor ends that has taken its launch back; above those of Python and of shells' own.
_UNDONE = 64
# With this one whose attempt has failed, and may be followed by another one.
_KEEPS = 65


def spawn(
    manifest: Manifest, run: RunDir, workdir: Workdir, taken: Optional[Mapping[int, int]] = None
) -> None:
    """Start guardian and supervisor; returns when the devices are locked and the supervisor listens.

    `taken` are descriptors of locks that the attempt before has kept for this one, by device. Raises
    AgentError with the supervisor's own words where it cannot get ready, when both are gone again.
    """
    known = dict(taken or {})
    spawn_apart(
        run.supervisor_log, lambda word: _guard(manifest, run, workdir, word, known), tuple(known.values())
    )


def spawn_apart(log: Path, body: Callable[[FirstWord], NoReturn], kept: Collection[int] = ()) -> None:
    """Run `body` in a process that outlives this session and writes to `log`; returns at its first word.

    It has the descriptors that are `kept`, and no others of this process. Raises AgentError, which `body` may
    raise or say, when that process is gone again.
    """
    # Else each of the three processes copies, page by page, what a look for garbage goes through.
    gc.freeze()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _detach(log, body, FirstWord(write), kept)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.readline()
        if not answer:
            raise AgentError("the supervisor died before it was ready")
        told: Dict[str, Any] = json.loads(answer)
        if told:
            # The end of the pipe is the end of the guardian: nobody writes into the run any more.
            pipe.read()
            raise AgentError(told["what"], remedy=told["remedy"], kind=told["kind"])


class FirstWord:
    """The one thing that the session waits to hear: ready, or why not."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self._is_said = False

    def say(self, error: Optional[AgentError] = None) -> None:
        if self._is_said:
            return
        self._is_said = True
        told = {"what": error.what, "remedy": error.remedy, "kind": error.kind} if error else {}
        # Where the session is gone there is nobody to tell; the lease sees to the rest.
        with contextlib.suppress(OSError):
            os.write(self.pipe, json.dumps(told).encode() + b"\n")


def _detach(
    log: Path, body: Callable[[FirstWord], NoReturn], word: FirstWord, kept: Collection[int]
) -> NoReturn:
    """Never returns, whatever happens: else two processes would serve one session."""
    try:
        _leave(log, {word.pipe, *kept})
        if os.fork() == 0:
            body(word)
    except AgentError as error:
        word.say(error)
        os._exit(0)
    except BaseException as error:
        word.say(AgentError(f"the supervisor cannot start: {error}"))
        sys.excepthook(*sys.exc_info())  # and without importing `traceback`
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _leave(path: Path, kept: Collection[int]) -> None:
    os.setsid()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # The session's own descriptors must not live on here: sshd waits for them before it closes a channel.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")


def _guard(
    manifest: Manifest, run: RunDir, workdir: Workdir, word: FirstWord, taken: Mapping[int, int]
) -> NoReturn:
    processes.become_subreaper()
    # Shared with the supervisor: the devices are free only when it and all that it started is gone.
    locks = _lock_devices(manifest, run, workdir, taken)
    guardian = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        processes.die_with_parent(signal.SIGTERM, guardian)
        _supervise(manifest, run, guardian, word)
    status = _reap_until(supervisor)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    _end_what_is_left(run, manifest)
    if manifest.container is not None:
        from orchestrator.agent.container_remains import remove_remains  # late: few runs have any

        for trouble in remove_remains(run.attempt, run.runs, manifest):
            sys.stderr.write(f"a container may be left: {trouble}\n")
            sys.stderr.flush()
    keeps = code == _KEEPS
    if code == _UNDONE or not run.status.exists():
        # Only now: what was still writing while the supervisor ended is dead.
        run.discard(manifest.attempt.number, manifest.attempt.token)
    elif code not in (0, _KEEPS):
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        end = End(EndKind.EXITED if killed_by is None else EndKind.SIGNALLED, time.time(), signal=killed_by)
        reason = StopReason(StopKind.SUPERVISOR_ENDED, manifest.host, end=end)
        keeps = _write_obituary(run, manifest, reason) and manifest.holds is not None
    if keeps and locks.devices:
        with contextlib.suppress(OSError, DecodeError):  # where nobody can be told they are free at once
            DeviceHold(manifest, run, locks).keep()
    os._exit(0)


def _end_what_is_left(run: RunDir, manifest: Manifest) -> None:
    """Returns when no process of the attempt is left.

    Of one that cannot be killed it is said that it is stuck: as long as it is there its device is not free.
    """
    file, before = StatusFile(run.status, run.runs), None
    while not processes.kill_descendants():
        with contextlib.suppress(OSError, DecodeError):
            before = before or file.read()
            if before.attempt == manifest.attempt:
                alive = [each.rank for each in before.everyone() if processes.is_alive(each.process)]
                file.write(stuck_status(before, alive, time.time()), urgent=True)
        with contextlib.suppress(ChildProcessError):
            os.wait()
    if before is not None and before.attempt == manifest.attempt:
        with contextlib.suppress(OSError):
            file.write(replace(before, updated=time.time()), urgent=True)


def _lock_devices(manifest: Manifest, run: RunDir, workdir: Workdir, taken: Mapping[int, int]) -> DeviceLocks:
    folder = workdir.locks if manifest.lock_dir is None else Workdir(manifest.lock_dir).root
    try:
        known = {**_taken_over(run, workdir), **taken}
        return DeviceLocks(folder, manifest.devices, manifest.run_id, known)
    except OSError as error:
        raise AgentError(f"cannot lock the devices: {error}") from error


def _taken_over(run: RunDir, workdir: Workdir) -> Dict[int, int]:
    """The locks of the devices that this host holds as a spare of the run."""
    if not os.path.lexists(workdir.spares / run.root.name):
        return {}
    from orchestrator.agent.spare_locks import take_locks  # late: few hosts have been spares

    return take_locks(workdir, run.root.name, known_claim(run))


def _reap_until(child: int) -> int:
    """The exit status of `child`; orphans that end before it are buried on the way."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _supervise(manifest: Manifest, run: RunDir, guardian: int, word: FirstWord) -> NoReturn:
    try:
        supervisor = Supervisor(manifest, run, guardian=processes.identify(guardian))
        supervisor.run(ready=word.say)
        if supervisor.state.phase == "undone":
            os._exit(_UNDONE)
        if supervisor.state.keeps_devices:
            os._exit(_KEEPS)
    except BaseException as error:
        word.say(AgentError(f"the supervisor cannot start: {error}"))
        sys.excepthook(*sys.exc_info())  # and without importing `traceback`
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _write_obituary(run: RunDir, manifest: Manifest, reason: StopReason) -> bool:
    """Say in `status.json` what the supervisor can no longer say, if it had said anything of this attempt.

    Whether workers were running there that are to go on: the launch is done, and nobody has stopped them.
    """
    file = StatusFile(run.status, run.runs)
    try:
        status = file.read()
    except (OSError, DecodeError):
        return False
    if not status.is_over and status.attempt == manifest.attempt:
        with contextlib.suppress(OSError):
            file.write(obituary(status, reason, time.time()), urgent=True)
    return status.phase == "committed"


def stuck_status(status: HostStatus, alive: Collection[int], now: float) -> HostStatus:
    """The status of an attempt whose supervisor is gone, and of which something outlives SIGKILL; pure.

    `alive` are the ranks that do; where there are none it is something that they have started.
    """
    those = alive or [rank.rank for rank in status.ranks[:1]]

    def said(rank: RankStatus) -> RankStatus:
        if rank.rank not in those or rank.stuck:
            return rank
        return replace(rank, stalled=StallKind.BLOCKED, stalled_since=now, stuck=True)

    scheduler = None if status.scheduler is None else said(status.scheduler)
    return replace(
        status,
        ranks=tuple(said(rank) for rank in status.ranks),
        scheduler=scheduler,
        phase="stopping",
        updated=now,
    )


def obituary(status: HostStatus, reason: StopReason, now: float) -> HostStatus:
    """What is over with the supervisor, whose last word this status was; pure."""

    def end(rank: RankStatus) -> RankStatus:
        if rank.state.is_terminal:
            return rank
        ended = End(EndKind.SUPERVISOR_ENDED, now, reason=reason)
        return replace(rank, state=RankState.FAILED, end=ended, stalled=None, stalled_since=None, stuck=False)

    first = status.failed_first
    if first is None:
        first = next((rank.rank for rank in status.ranks if not rank.state.is_terminal), None)
    return replace(
        status,
        ranks=tuple(end(rank) for rank in status.ranks),
        scheduler=end(status.scheduler) if status.scheduler else None,
        phase="over",
        updated=now,
        failed_first=first,
        stop=reason,
    )
