"""The way to a spare's holder, for sessions and for the attempt that takes its locks over."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any, Dict

from orchestrator.agent import control_socket, processes
from orchestrator.agent.lock_handover import take_over
from orchestrator.agent.spare_holder import SpareFolder
from orchestrator.core.codec import to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir
from orchestrator.core.records import Claim

__all__ = ["ask_holder", "release_spare", "take_locks"]

_PATIENCE = 10.0


def ask_holder(folder: SpareFolder, verb: str, claim: Claim) -> Dict[str, Any]:
    """The holder's answer. Raises AgentError: kind `no_spare` where there is none."""
    holder = folder.holder().holder
    try:
        request = {"verb": verb, "claim": to_json(claim)}
        return control_socket.ask(folder.control_socket, request, timeout=_PATIENCE)
    except AgentError as error:
        if error.kind == "no_supervisor" and not processes.is_alive(holder):
            what = f"this host is no spare of run {folder.run_id} any more: its holder has ended"
            raise AgentError(what, kind="no_spare") from None
        if error.kind == "refused":
            raise AgentError(error.what, remedy=error.remedy, kind="claim") from None
        raise


def release_spare(folder: SpareFolder, claim: Claim) -> None:
    """Let go of all that is held; returns when nothing of it is left. A spare that is none is released."""
    try:
        holder = folder.holder().holder
        ask_holder(folder, "release", claim)
    except AgentError as error:
        if error.kind == "claim":
            raise
        if error.kind == "no_spare":
            return
    if not _has_ended(holder) and holder is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)
        _has_ended(holder)
        folder.remove()


def take_locks(workdir: Workdir, run_id: str, claim: Claim) -> Dict[int, int]:
    """The descriptors of the device locks that the run's spare holds here, by device; its holder then ends.

    None where nobody hands any over: who holds them then is told as of any other lock.
    """
    folder = SpareFolder(workdir, run_id)
    try:
        folder.holder()
        with control_socket.connect(folder.control_socket, _PATIENCE) as connection:
            control_socket.reply(connection, {"verb": "take", "claim": to_json(claim)})
            taken = take_over(connection)
            with contextlib.suppress(OSError):  # they are ours, also where the holder is gone or hears nobody
                control_socket.reply(connection, {"taken": True})
    except (AgentError, OSError):
        return {}
    return taken


def _has_ended(process: Any) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while processes.is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
