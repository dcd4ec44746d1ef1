"""The runs of a host as its files tell them, corrected by what /proc says about their processes."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

from orchestrator.agent import control_socket as control
from orchestrator.agent import processes
from orchestrator.agent.status_file import StatusFile
from orchestrator.core.claims import NO_CLAIM, KeptClaim, Tombstone
from orchestrator.core.codec import DecodeError, NewerFormat, Stored, load
from orchestrator.core.ends import End, EndKind, StopKind, StopReason, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Attempt, Claim, HostStatus, Manifest, ProcessId, RankStatus, RunOnHost
from orchestrator.core.safe_open import open_safely, own_folders, require_own_folder
from orchestrator.core.states import RankState

__all__ = [
    "find",
    "known_claim",
    "known_tombstone",
    "list_runs",
    "read_log",
    "recorded",
    "renew",
    "require_dead",
    "small_files",
    "status",
    "tell",
    "undo",
]

_S = TypeVar("_S", bound=Stored)
_LARGEST_SMALL_FILE = 16 << 30
_PIECE = 1 << 20
# A run that is half there may be being made, or removed, at this very moment.
_SETTLED = 60.0
_GONE = StopReason(StopKind.SUPERVISOR_GONE)


def _is_run_id(text: str) -> bool:
    """Whether this can be the name of a run, and so of a directory right under `runs`."""
    return "/" not in text and text not in ("", ".", "..")


def find(workdir: Workdir, run_id: str) -> RunDir:
    """The directory of a run; raises AgentError, kind `no_run`, or `foreign` for what is no run of ours."""
    run = _run_dir(workdir, run_id)
    with _explained(run):
        os.lstat(run.attempt.manifest)
    return run


def _run_dir(workdir: Workdir, run_id: str) -> RunDir:
    run = workdir.run(run_id)
    with _explained(run):
        if not _is_run_id(run_id):
            raise FileNotFoundError
        require_own_folder(run.root)
    return run


@contextlib.contextmanager
def _explained(run: RunDir) -> Iterator[None]:
    """What is wrong with a file of a run, as an AgentError."""
    try:
        yield
    except FileNotFoundError:
        raise AgentError(f"no run {run.root.name} on this host", kind="no_run") from None
    except OSError as error:
        raise AgentError(f"{error.filename or run.root}: {error.strerror}", kind="foreign") from error


def status(run: RunDir) -> HostStatus:
    """The record of a run; where its supervisor vanished without a word, its ranks are lost.

    Over means that nothing of the run is left and its devices are free, so not while its guardian lives; or
    that it keeps them for the next attempt, and nothing else is left.
    """
    found = recorded(run)
    if processes.is_alive(found.supervisor) or processes.is_alive(found.guardian):
        return replace(found, phase="stopping") if found.is_over and not found.held else found
    _remove_containers(run)
    # The guardian writes the last word just before it goes: look again before concluding.
    found = found if found.is_over else recorded(run)
    if found.is_over:
        return replace(found, held=()) if found.held else found
    return replace(
        found,
        ranks=tuple(_lost(rank) for rank in found.ranks),
        scheduler=_lost(found.scheduler) if found.scheduler else None,
        phase="over",
        stop=_GONE,
    )


def _remove_containers(run: RunDir) -> None:
    """Those of workers that nobody keeps any more; for want of time the runtime is asked once in a while."""
    if not os.path.isdir(run.attempt.root / "containers"):
        return
    from orchestrator.agent.container_remains import has_remains, remove_remains  # late: few runs have any

    with contextlib.suppress(OSError, DecodeError):
        if has_remains(run.attempt):
            manifest = load(Manifest, run.attempt.manifest, run.runs)
            remove_remains(run.attempt, run.runs, manifest, again=True)


def recorded(run: RunDir) -> HostStatus:
    """The last status that was written of the attempt that is meant.

    Raises AgentError, kind `no_run`, where none was: while it is being made, or was only half made.
    """
    number = run.number
    if number is None:
        return _read_status(run.status, run)
    if number != run.in_force:
        return _read_status(run.kept_status(number), run)
    found = _read_status(run.status, run)
    if found.attempt.number == number:
        return found
    return _read_status(run.kept_status(number), run)


def _read_status(path: Path, run: RunDir) -> HostStatus:
    return _read(StatusFile(path, run.runs).read, path, run)


def _read(read: Callable[[], _S], path: Path, run: RunDir) -> _S:
    with _explained(run):
        try:
            return read()
        except NewerFormat as error:
            raise AgentError(f"{path}: {error}", kind="newer") from error
        except DecodeError as error:
            raise AgentError(f"{path} is damaged: {error}", kind="damaged") from error


def _lost(rank: RankStatus) -> RankStatus:
    if rank.state.is_terminal:
        return rank
    end = End(EndKind.LOST, reason=_GONE)
    return replace(rank, state=RankState.LOST, end=end, stalled=None, stalled_since=None)


def list_runs(workdir: Workdir, wanted: str = "") -> List[RunOnHost]:
    """Every run on this host (or the one wanted), oldest first; then what is there and cannot be read."""
    folders, others = own_folders(workdir.runs)
    found = [_on_host(RunDir(folder)) for folder in folders if wanted in ("", folder.name)]
    runs = [run for run in found if run is not None]
    runs += [RunOnHost(problem=line) for line in others if not wanted]
    return sorted(runs, key=lambda run: run.manifest.created if run.manifest else math.inf)


def _on_host(run: RunDir) -> Optional[RunOnHost]:
    before = [run.pinned(number) for number in reversed(run.numbers()) if number != run.in_force]
    for each in (run, *before):  # of an attempt that is only half there the one before counts
        try:
            path = each.attempt.manifest
            manifest = _read(lambda path=path: load(Manifest, path, run.runs), path, run)  # type: ignore[misc]
            return _with_claim(run, RunOnHost(manifest, status(each)))
        except AgentError as error:
            if error.kind != "no_run":
                return RunOnHost(problem=error.what)
    with contextlib.suppress(OSError):
        if time.time() - run.root.stat().st_mtime > _SETTLED:
            return RunOnHost(problem=f"{run.root}: half a run, without manifest or status: passed over")
    return None


def _with_claim(run: RunDir, found: RunOnHost) -> RunOnHost:
    """With who may act on the run, and what of it is over, as far as this host was told."""
    claim, stone = known_claim(run), known_tombstone(run)
    over = found.over if stone is None else stone.attempt.number
    return replace(found, epoch=claim.epoch, holder=claim.holder, over=over)


def known_claim(run: RunDir) -> Claim:
    """The highest claim that this host has seen."""
    try:
        return load(KeptClaim, run.claim, run.runs).claim
    except (OSError, DecodeError):
        return NO_CLAIM


def known_tombstone(run: RunDir) -> Optional[Tombstone]:
    """What is said of the run to be over, if anything is."""
    try:
        return load(Tombstone, run.tombstone, run.runs)
    except (OSError, DecodeError):
        return None


def tell(run: RunDir, request: Dict[str, Any]) -> Dict[str, Any]:
    """Pass a request to the run's supervisor.

    A stop or undo of a run whose supervisor is gone kills what is recorded, by identity, and is done. So is
    a commit: workers may fail at once, and then their record, not a broken socket, is what there is to tell.
    One that a signal has stopped goes on to be ended: it could take neither of these.
    """
    if request["verb"] in ("stop", "undo"):
        _let_go_on(run)
    try:
        return control.ask(run.control_socket, request)
    except AgentError:
        if request["verb"] not in ("commit", "stop", "undo"):
            raise
    found = recorded(run)
    # It may be on its way out just now, and then there is nobody left to tell.
    if not _wait_for_end(found.supervisor, 2.0):
        raise AgentError("the supervisor lives but does not answer", remedy=f"see {run.supervisor_log}")
    for rank in found.everyone():
        if rank.process is not None:
            processes.kill_group(rank.process)
    label = "" if found.failed_first is None else label_of(found.failed_first)
    return {"phase": "over", "failed_first": label, "reason": ""}


def renew(run: RunDir) -> Dict[str, Any]:
    """Tell the run's supervisor that a monitor is there. AgentError where it lives and does not answer."""
    try:
        return control.ask(run.control_socket, {"verb": "renew"})
    except AgentError:
        if not status(run).is_over:
            raise
    return {"phase": "over"}


def _let_go_on(run: RunDir) -> None:
    """SIGCONT for its supervisor and its guardian, which means nothing to one that is not stopped."""
    with contextlib.suppress(AgentError, ProcessLookupError, PermissionError):
        found = recorded(run)
        for process in (found.supervisor, found.guardian):
            if process is not None and processes.is_alive(process):
                os.kill(process.pid, signal.SIGCONT)


def undo(workdir: Workdir, run_id: str, meant: Optional[Attempt] = None) -> None:
    """Take a launch back, as far as there is one: that of the attempt that is meant, or the newest.

    Of another attempt nothing is touched.
    """
    try:
        run = _run_dir(workdir, run_id)
    except AgentError:
        return
    newest = next(reversed(run.numbers()), None)
    number, token = (run.number, "") if meant is None else (meant.number, meant.token)
    if meant is not None and newest is not None and (newest != number or not run.is_of(number, token)):
        return
    _end_and_wait(run, {"verb": "undo"}, timeout=10.0)
    # Its guardian removes it, unless it had ended before it was told.
    if meant is not None or run.number == number:
        run.discard(number, token)


def _end_and_wait(run: RunDir, request: Dict[str, Any], timeout: float) -> None:
    """Tell the supervisor to stop or undo; returns when it and its guardian are gone, by force if need be."""
    try:
        before = recorded(run)
    except AgentError:
        return
    with contextlib.suppress(ProcessLookupError):
        with contextlib.suppress(AgentError):
            tell(run, request)
        # The supervisor first: its guardian then ends what is left of the workers.
        for process in (before.supervisor, before.guardian):
            if process is not None and not _wait_for_end(process, timeout):
                if process == before.guardian:
                    require_dead(before)
                os.kill(process.pid, signal.SIGKILL)


def require_dead(status: HostStatus) -> None:
    """AgentError, kind `stuck`, where a worker outlives its supervisor, as only one in the kernel can.

    Its guardian must not be ended: as long as it is there, so is the lock of the worker's device.
    """
    if processes.is_alive(status.supervisor):
        return
    for rank in status.everyone():
        if processes.is_alive(rank.process):
            label, pid = rank.label.replace("_", " "), rank.process.pid if rank.process else 0
            raise AgentError(
                f"{label} (process {pid}) does not end: it is blocked in the kernel",
                remedy="see which disk, file system or device hangs there (dmesg)",
                kind="stuck",
            )


def _wait_for_end(process: Optional[ProcessId], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while processes.is_alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def read_log(run: RunDir, label: str, offset: int, limit: int) -> Dict[str, Any]:
    """Up to `limit` bytes of a log from `offset`; a negative offset counts from the end.

    `offset` of the answer is where the returned bytes begin, `size` how long the file is now, `modified` when
    it was last written.
    """
    path = run.attempt.log(label)
    if "/" in label:
        return {"data": b"", "offset": 0, "size": 0}
    with _explained(run):
        try:
            file = os.fdopen(open_safely(path, run.runs), "rb")
        except FileNotFoundError:
            return {"data": b"", "offset": 0, "size": 0}
    with file:
        found = os.fstat(file.fileno())
        size = found.st_size
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        file.seek(start)
        return {"data": file.read(limit), "offset": start, "size": size, "modified": found.st_mtime}


def small_files(run: RunDir, folder: str, known: str = "") -> Iterator[Tuple[str, bytes]]:
    """Name and content of every file right in one of the run's folders; AgentError for a link or a pipe.

    A content comes in pieces, one after another under the same name; that of a file whose name does not fit
    the pattern `known` is left out, and one empty piece tells of it.
    """
    wanted = re.compile(known)
    top, _, below = folder.partition("/")  # the run's links lead to an attempt's own folders
    for path in sorted((run.attempt.folder(top) / below).glob("*")):
        if path.is_symlink() or not path.is_dir():
            if known and not wanted.fullmatch(path.name):
                yield path.name, b""
                continue
            with _explained(run), os.fdopen(open_safely(path, run.runs), "rb") as file:
                yield path.name, file.read(_PIECE)
                while piece := file.read(_PIECE):
                    if file.tell() > _LARGEST_SMALL_FILE:
                        raise OSError(errno.EFBIG, "it has more bytes than such a file can have", str(path))
                    yield path.name, piece
