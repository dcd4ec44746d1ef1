"""The runs of a host as its files tell them, corrected by what /proc says about their processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from orchestrator.agent import control_socket as control
from orchestrator.agent import processes
from orchestrator.core.codec import DecodeError, NewerFormat, loads, to_json
from orchestrator.core.ends import End, EndKind, StopKind, StopReason, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import HostStatus, ProcessId, RankStatus
from orchestrator.core.states import RankState

__all__ = ["end_and_wait", "find", "is_run_id", "list_runs", "read_log", "small_files", "status", "tell"]

_GONE = StopReason(StopKind.SUPERVISOR_GONE)


def is_run_id(text: str) -> bool:
    """Whether this can be the name of a run, and so of a directory right under `runs`."""
    return "/" not in text and text not in ("", ".", "..")


def find(workdir: Workdir, run_id: str) -> RunDir:
    """The directory of a run; raises AgentError, kind `no_run`."""
    run = workdir.run(run_id)
    if not is_run_id(run_id) or not run.manifest.exists():
        raise AgentError(f"no run {run_id} on this host", kind="no_run")
    return run


def status(run: RunDir) -> HostStatus:
    """The record of a run; where its supervisor vanished without a word, its ranks are lost.

    Over means that nothing of the run is left and its devices are free, so not while its guardian lives.
    """
    found = _recorded(run)
    if processes.is_alive(found.supervisor) or processes.is_alive(found.guardian):
        return dataclasses.replace(found, phase="stopping") if found.is_over else found
    # The guardian writes the last word just before it goes: look again before concluding.
    found = found if found.is_over else _recorded(run)
    if found.is_over:
        return found
    return dataclasses.replace(
        found,
        ranks=tuple(_lost(rank) for rank in found.ranks),
        scheduler=_lost(found.scheduler) if found.scheduler else None,
        phase="over",
        stop=_GONE,
    )


def _recorded(run: RunDir) -> HostStatus:
    try:
        return loads(HostStatus, run.status.read_bytes())
    except FileNotFoundError:
        raise AgentError(f"no run {run.root.name} on this host", kind="no_run") from None
    except NewerFormat as error:
        raise AgentError(f"{run.status}: {error}", kind="newer") from error
    except DecodeError as error:
        raise AgentError(f"{run.status} is damaged: {error}", kind="damaged") from error


def _lost(rank: RankStatus) -> RankStatus:
    if rank.state.is_terminal:
        return rank
    return dataclasses.replace(rank, state=RankState.LOST, end=End(EndKind.LOST, reason=_GONE))


def list_runs(workdir: Workdir, wanted: str = "") -> List[Dict[str, Any]]:
    """Manifest and status of every run on this host (or of the one wanted), oldest first."""
    found = []
    for path in sorted(workdir.runs.glob(f"{wanted or '*'}/manifest.json")):
        run = RunDir(path.parent)
        try:
            manifest = json.loads(path.read_text())
            found.append({"manifest": manifest, "status": to_json(status(run))})
        except (OSError, ValueError, KeyError, AgentError):
            # Half-made or half-removed at this very moment: there is nothing to tell of it.
            continue
    return sorted(found, key=lambda item: float(item["manifest"]["created"]))


def tell(run: RunDir, request: Dict[str, Any]) -> Dict[str, Any]:
    """Pass a request to the run's supervisor.

    A stop or undo of a run whose supervisor is gone kills what is recorded, by identity, and is done. So is
    a commit: workers may fail at once, and then their record, not a broken socket, is what there is to tell.
    """
    try:
        return control.ask(run.control_socket, request)
    except AgentError:
        if request["verb"] not in ("commit", "stop", "undo"):
            raise
    found = _recorded(run)
    # It may be on its way out just now, and then there is nobody left to tell.
    if not _wait_for_end(found.supervisor, 2.0):
        raise AgentError("the supervisor lives but does not answer", remedy=f"see {run.supervisor_log}")
    for rank in found.everyone():
        if rank.process is not None:
            processes.kill_group(rank.process)
    label = "" if found.failed_first is None else label_of(found.failed_first)
    return {"phase": "over", "failed_first": label, "reason": ""}


def end_and_wait(run: RunDir, request: Dict[str, Any], timeout: float) -> None:
    """Tell the supervisor to stop or undo; returns when it and its guardian are gone, by force if need be."""
    with contextlib.suppress(AgentError, ProcessLookupError):
        before = _recorded(run)
        with contextlib.suppress(AgentError):
            tell(run, request)
        # The supervisor first: its guardian then ends what is left of the workers.
        for process in (before.supervisor, before.guardian):
            if process is not None and not _wait_for_end(process, timeout):
                os.kill(process.pid, signal.SIGKILL)


def _wait_for_end(process: Optional[ProcessId], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while processes.is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


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


def small_files(run: RunDir, folder: str) -> Iterator[Tuple[str, bytes]]:
    """Name and content of every file right in one of the run's folders."""
    for path in sorted((run.root / folder).glob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()
