"""The runs of a host as its files tell them, corrected by what /proc says about their processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from typing import Any, Dict, List

from orchestrator.agent import control, processes
from orchestrator.errors import AgentError
from orchestrator.layout import RunDir, Workdir
from orchestrator.records import HostStatus
from orchestrator.states import RankState

__all__ = ["find", "list_runs", "read_log", "status", "tell"]

_GONE = "the supervisor is gone (was the host restarted?)"


def find(workdir: Workdir, run_id: str) -> RunDir:
    """The directory of a run; raises AgentError, kind `no_run`."""
    run = workdir.run(run_id)
    if "/" in run_id or not run.manifest.exists():
        raise AgentError(f"no run {run_id} on this host", kind="no_run")
    return run


def status(run: RunDir) -> HostStatus:
    """The record of a run; where its supervisor vanished without a word, its ranks are lost."""
    found = HostStatus.from_json(json.loads(run.status.read_text()))
    if found.is_over or processes.is_alive(found.supervisor) or processes.is_alive(found.guardian):
        return found
    # The guardian writes the last word just before it goes: look again before concluding.
    found = HostStatus.from_json(json.loads(run.status.read_text()))
    if found.is_over:
        return found
    ranks = tuple(
        rank if rank.state.is_terminal else dataclasses.replace(rank, state=RankState.LOST, reason=_GONE)
        for rank in found.ranks
    )
    return dataclasses.replace(found, ranks=ranks, phase="over", stop_reason=_GONE)


def list_runs(workdir: Workdir, wanted: str = "") -> List[Dict[str, Any]]:
    """Manifest and status of every run on this host (or of the one wanted), oldest first."""
    found = []
    for path in sorted(workdir.runs.glob(f"{wanted or '*'}/manifest.json")):
        run = RunDir(path.parent)
        try:
            manifest = json.loads(path.read_text())
            found.append({"manifest": manifest, "status": status(run).to_json()})
        except (OSError, ValueError, KeyError):
            # Half-made or half-removed at this very moment: there is nothing to tell of it.
            continue
    return sorted(found, key=lambda item: float(item["manifest"]["created"]))


def tell(run: RunDir, request: Dict[str, Any]) -> Dict[str, Any]:
    """Pass a request to the run's supervisor.

    A stop or undo of a run whose supervisor is gone kills what is recorded, by identity, and succeeds.
    """
    try:
        return control.ask(run.control_socket, request)
    except AgentError:
        if request["verb"] not in ("stop", "undo"):
            raise
    found = status(run)
    if not found.is_over and (processes.is_alive(found.supervisor) or processes.is_alive(found.guardian)):
        raise AgentError("the supervisor lives but does not answer", remedy=f"see {run.supervisor_log}")
    for rank in (*found.ranks, *([found.scheduler] if found.scheduler else [])):
        if rank.process is not None:
            processes.kill_group(rank.process)
    return {"phase": "over", "failed_first": found.failed_first, "reason": ""}


def end_and_wait(run: RunDir, request: Dict[str, Any], timeout: float) -> None:
    """Tell the supervisor to stop or undo, and return when it is gone."""
    try:
        before = status(run)
    except (OSError, ValueError, KeyError):
        return
    tell(run, request)
    deadline = time.monotonic() + timeout
    while processes.is_alive(before.supervisor) or processes.is_alive(before.guardian):
        if time.monotonic() > deadline:
            for process in (before.supervisor, before.guardian):
                if process is not None and processes.is_alive(process):
                    os.kill(process.pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def read_log(run: RunDir, label: str, offset: int, limit: int) -> Dict[str, Any]:
    """Up to `limit` bytes of a log from `offset`; a negative offset counts from the end.

    `offset` of the answer is where the returned bytes begin, `size` how long the file is now.
    """
    path = run.log(label)
    if "/" in label or not path.exists():
        return {"data": b"", "offset": 0, "size": 0}
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        file.seek(start)
        return {"data": file.read(limit), "offset": start, "size": size}
