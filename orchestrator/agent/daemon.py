"""How a supervisor leaves the connection that brought it: forked, in a session of its own, under a guardian.

The guardian is the supervisor's parent and does nothing but wait. When the supervisor ends, however it
ends, the guardian kills what is left of the workers (it is their subreaper, so that nothing can hide from
it) and, if the supervisor was killed, writes down what became of the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from typing import Any, Dict, NoReturn

from orchestrator.agent import processes
from orchestrator.agent.locks import DeviceLocks
from orchestrator.agent.supervisor import Supervisor
from orchestrator.errors import AgentError
from orchestrator.layout import RunDir, Workdir, atomic_write
from orchestrator.records import HostStatus, Manifest
from orchestrator.states import RankState

__all__ = ["spawn"]


def spawn(manifest: Manifest, run: RunDir, workdir: Workdir) -> None:
    """Start guardian and supervisor; returns when the devices are locked and the supervisor listens.

    Raises AgentError with the supervisor's own words where it cannot get ready.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _leave(run, write)
        if os.fork():
            os._exit(0)
        _guard(manifest, run, workdir, write)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise AgentError("the supervisor died before it was ready", remedy=f"see {run.supervisor_log}")
    told: Dict[str, Any] = json.loads(answer)
    if told:
        raise AgentError(told["what"], remedy=told["remedy"], kind=told["kind"])


def _leave(run: RunDir, pipe: int) -> None:
    os.setsid()
    log = os.open(run.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # The session's own descriptors must not live on here: sshd waits for them before it closes a channel.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 4096)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")


def _guard(manifest: Manifest, run: RunDir, workdir: Workdir, pipe: int) -> NoReturn:
    processes.become_subreaper()
    guardian = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        processes.die_with_parent(signal.SIGTERM, guardian)
        _supervise(manifest, run, workdir, pipe)
    os.close(pipe)
    _, status = os.waitpid(supervisor, 0)
    everything_ended = processes.kill_descendants()
    if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an error of its own"
        _write_obituary(run, f"the supervisor on {manifest.host} was ended by {how}")
    os._exit(0 if everything_ended else 1)


def _supervise(manifest: Manifest, run: RunDir, workdir: Workdir, pipe: int) -> NoReturn:
    def tell(error: Dict[str, str]) -> None:
        os.write(pipe, json.dumps(error).encode())
        os.close(pipe)

    try:
        folder = workdir.locks if manifest.lock_dir is None else Workdir(manifest.lock_dir).root
        locks = DeviceLocks(folder, manifest.devices, manifest.run_id)
    except (AgentError, OSError) as error:
        refused = error if isinstance(error, AgentError) else AgentError(f"cannot lock the devices: {error}")
        tell({"what": refused.what, "remedy": refused.remedy, "kind": refused.kind})
        os._exit(0)
    try:
        guardian = processes.identify(os.getppid())
        Supervisor(manifest, run, guardian=guardian).run(ready=lambda: tell({}))
        locks.release()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _write_obituary(run: RunDir, reason: str) -> None:
    """Say in `status.json` what the supervisor can no longer say."""
    try:
        status = HostStatus.from_json(json.loads(run.status.read_text()))
    except (OSError, ValueError, KeyError):
        return
    now = time.time()
    ranks = tuple(
        rank
        if rank.state.is_terminal
        else dataclasses.replace(rank, state=RankState.FAILED, reason=reason, ended=now)
        for rank in status.ranks
    )
    first = status.failed_first or next((rank.label for rank in ranks if rank.reason == reason), "")
    over = dataclasses.replace(
        status, ranks=ranks, phase="over", updated=now, failed_first=first, stop_reason=reason
    )
    atomic_write(run.status, json.dumps(over.to_json()))
