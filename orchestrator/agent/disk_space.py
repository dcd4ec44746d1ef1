"""The disk space of a host that runs and the content store take, and its freeing.

What is freed is a run whose workers and supervisor are gone, and contents of the store that no run left on
the host was given. Nothing is followed out of the workdir.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Collection, Iterator, List, Set, Tuple

from orchestrator.agent import device_hold, host_runs
from orchestrator.core.codec import DecodeError, load
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import DiskUse, RunId, RunUse, Size
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import Manifest
from orchestrator.core.safe_open import own_folders, read_safely, require_own_folder
from orchestrator.core.spare_records import SpareNote
from orchestrator.core.visible_text import visible

__all__ = ["bytes_below", "disk_use", "remove_folder", "remove_run", "sweep_store"]

# Its new name says that it is no run any more, and what was begun is finished by the next removal.
_REMOVING = ".removing-"
# A launch must find what it was told is there, and one that is still to come the shards sent for it.
_JUST_ASKED_FOR = 24 * 3600.0
_LARGEST_CONFIG = 16 << 20


def disk_use(workdir: Workdir) -> DiskUse:
    """Bytes on the disk of each run on this host, and of the store."""
    runs = tuple(
        RunUse(RunId(folder.name), Size(bytes_below(folder)))
        for folder in own_folders(workdir.runs)[0]
        if RunId.FORM.fullmatch(folder.name)
    )
    return DiskUse(runs, Size(bytes_below(workdir.store)))


def remove_run(workdir: Workdir, run_id: str, *, dry_run: bool) -> int:
    """Remove a run that is over; returns the bytes that it had on the disk.

    Raises AgentError, kind `no_run`, `run_active`, or `run_needed` where an active run reads from it.
    """
    if not RunId.FORM.fullmatch(run_id):
        raise AgentError(f"no run {visible(run_id)} on this host", kind="no_run")
    run = workdir.run(run_id)
    _require_over(workdir, run)
    _require_unneeded(workdir, run)
    freed = bytes_below(run.root)
    if not dry_run:
        device_hold.release(run)
        remove_folder(run.root)
    return freed


def remove_folder(run: Path) -> None:
    """Remove the folder of a run; no link in it is followed. What an earlier removal has left goes, too."""
    gone = run.with_name(f"{_REMOVING}{run.name}")
    _clear(gone)
    os.rename(run, gone)
    for name in os.listdir(run.parent):
        if name.startswith(_REMOVING):
            _clear(run.parent / name)


def sweep_store(workdir: Workdir, *, without: Collection[str] = (), dry_run: bool = False) -> int:
    """Remove contents that no run of this host was given, runs `without` not counted; returns their bytes.

    Of a run whose manifest cannot be read it is not known what it was given: its contents may go. It has
    copies of its own, and the next launch brings them again.
    """
    wanted = _given(workdir, without)
    oldest = time.time() - _JUST_ASKED_FOR
    freed = 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(workdir.store):
            status = entry.stat(follow_symlinks=False)
            if entry.name in wanted or status.st_mtime > oldest:
                continue
            freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
            if not dry_run:
                os.unlink(entry.path)
    return freed


def _require_over(workdir: Workdir, run: RunDir) -> None:
    try:
        host_runs.find(workdir, run.root.name)
        status = host_runs.status(run)
    except AgentError as error:
        if error.kind in ("foreign", "newer") or not run.root.is_dir():
            raise
        # Half a run, or a damaged one: whether a supervisor lives, its socket tells.
        if run.control_socket.exists():
            raise
        return
    if not status.is_over:
        raise AgentError(
            f"run {run.root.name} is {status.phase}",
            remedy=f"`orchestrate stop {run.root.name}` ends it",
            kind="run_active",
        )


def _require_unneeded(workdir: Workdir, run: RunDir) -> None:
    path = os.path.realpath(run.root).encode()
    for folder in own_folders(workdir.runs)[0]:
        other = RunDir(folder)
        if folder == run.root or not _is_active(other):
            continue
        for file in (other.attempt.manifest, other.attempt.worker_config, other.attempt.run_yaml):
            with contextlib.suppress(OSError):
                text = read_safely(file, other.runs, _LARGEST_CONFIG)
                if path + b"/" in text or path + b'"' in text or str(run.root).encode() + b"/" in text:
                    raise AgentError(
                        f"run {run.root.name} is read by run {folder.name}, which goes on",
                        remedy=f"wait for {folder.name}, or stop it",
                        kind="run_needed",
                    )


def _is_active(run: RunDir) -> bool:
    try:
        return not host_runs.status(run).is_over
    except AgentError:
        return False


def _given(workdir: Workdir, without: Collection[str]) -> Set[str]:
    wanted: Set[str] = set()
    for folder in own_folders(workdir.spares)[0]:
        with contextlib.suppress(OSError, DecodeError):  # what a spare will ask for when it becomes a host
            wanted |= set(load(SpareNote, folder / "holder.json", workdir.spares).inputs)
    for folder in own_folders(workdir.runs)[0]:
        if folder.name in without:
            continue
        with contextlib.suppress(OSError, DecodeError):
            manifest = load(Manifest, RunDir(folder).attempt.manifest, workdir.runs)
            wanted |= {item.sha256 for item in manifest.inputs}
    return wanted


def bytes_below(folder: Path) -> int:
    """What `du` would say: blocks on the disk, each file once however many names it has."""
    total = 0
    seen: Set[Tuple[int, int]] = set()
    for status in _statuses(folder):
        if status.st_nlink > 1:
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        total += status.st_blocks * 512
    return total


def _statuses(folder: Path) -> Iterator[os.stat_result]:
    left: List[str] = [str(folder)]
    while left:
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to list
            for entry in os.scandir(left.pop()):
                status = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                else:
                    yield status


def _clear(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        require_own_folder(folder)
        # It follows no link: https://docs.python.org/3/library/shutil.html#shutil.rmtree
        shutil.rmtree(folder)
