"""Device locks: one file per device, held with flock(2), so that two runs on a host never share a device.

The kernel drops a lock when its holder dies, however it dies: there is no stale lock to clean.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from orchestrator.agent.lock_handover import require_lock
from orchestrator.core.codec import DecodeError, dumps, loads
from orchestrator.core.errors import AgentError
from orchestrator.core.records import LockNote
from orchestrator.core.safe_open import open_safely
from orchestrator.core.visible_text import visible

__all__ = ["DeviceLocks", "busy_devices", "lock_path", "lock_spare"]

# A look at the locks (`busy_devices`) holds each of them for a moment; that is no conflict.
_PATIENCE = 0.3


class DeviceLocks:
    """The devices that one run holds: until `release`, or until this process and its forks are dead.

    `taken` are descriptors of locks that somebody has handed over (`lock_handover`), by device: they are this
    one's from now on, as far as they are of these devices, and closed otherwise.
    """

    def __init__(
        self, folder: Path, devices: Iterable[int], run_id: str, taken: Optional[Mapping[int, int]] = None
    ) -> None:
        self._folder, self._run_id = folder, run_id
        self.handles: Dict[int, int] = {}
        _make_folder(folder)
        left = dict(taken or {})
        try:
            # In one order everywhere, so that two runs cannot each hold what the other waits for.
            for device in sorted(devices):
                self.handles[device] = self._own(device, left.pop(device, None))
        except BaseException:
            self.release()
            raise
        finally:
            for handle in left.values():
                os.close(handle)

    @property
    def devices(self) -> Tuple[int, ...]:
        return tuple(self.handles)

    def release(self) -> None:
        for handle in self.handles.values():
            os.close(handle)
        self.handles.clear()

    def _own(self, device: int, handle: Optional[int]) -> int:
        path = lock_path(self._folder, device)
        if handle is not None:
            try:
                require_lock(handle, path)
                _note(handle, self._run_id)
                return handle
            except AgentError:
                os.close(handle)  # of a file that is no lock any more
        return _lock(path, f"device {device} is in use", "give this job other devices", self._run_id)


def lock_path(folder: Path, device: int) -> Path:
    return folder / f"device_{device}.lock"


def lock_spare(folder: Path, run_id: str) -> int:
    """Make this host the spare of one run and of no other, until the descriptor is closed.

    Raises AgentError, kind `spare_taken`, where it is another's.
    """
    _make_folder(folder)
    told = "this host is held as a spare"
    try:
        return _lock(folder / "spare.lock", told, "take it out of one of the two groups", run_id)
    except AgentError as error:
        if error.kind == "device_busy":
            raise AgentError(error.what, remedy=error.remedy, kind="spare_taken") from None
        raise


def _make_folder(folder: Path) -> None:
    with contextlib.suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    if folder.stat().st_mode & stat.S_IWOTH:
        # Who may write there may put a file of anybody's in the place of a lock, or hold every device.
        raise AgentError(
            f"everyone may write to {folder}, where devices are locked",
            remedy="leave lock_dir out, or give the folder to the group of those who share the server: "
            f"chgrp GROUP {folder}; chmod 2770 {folder}",
            kind="unsafe_locks",
        )


def _lock(path: Path, told: str, else_: str, run_id: str) -> int:
    try:
        handle = _open(path)
    except OSError as error:
        raise AgentError(
            f"cannot open {path}: {error.strerror}",
            remedy="choose a lock_dir that all who share this server may write to",
        ) from error
    if not _acquire(handle):
        holder = _holder(handle)
        os.close(handle)
        raise AgentError(
            f"{told}{holder.told}",
            remedy=f"{holder.remedy}, or {else_}",
            kind="device_busy",
        )
    _note(handle, run_id)
    return handle


def _note(handle: int, run_id: str) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, dumps(LockNote(run_id, os.getpid())).encode(), 0)


def _open(path: Path) -> int:
    # First without O_CREAT: with fs.protected_regular the kernel refuses that for another account's file.
    try:
        handle = open_safely(path, path.parent, os.O_RDWR)
    except FileNotFoundError:
        # Past the umask: the next one to lock this device may be another account of the folder's group.
        mode = 0o660 if path.parent.stat().st_mode & stat.S_IWGRP else 0o600
        handle = open_safely(path, path.parent, os.O_RDWR | os.O_CREAT, mode)
        os.fchmod(handle, mode)
    if os.fstat(handle).st_nlink != 1:
        os.close(handle)
        raise OSError(errno.EMLINK, "the file has other names: it was not made to be a lock", str(path))
    return handle


def _acquire(handle: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


class _Holder(NamedTuple):
    """What a lock says of who holds it, as a part of a sentence, and what can be done about it."""

    told: str = ""
    remedy: str = "wait for who holds it"


def _holder(handle: int) -> _Holder:
    try:
        note = loads(LockNote, os.pread(handle, 4096, 0))
    except DecodeError:
        return _Holder()
    run_id = visible(note.run_id)
    remedy = f"`orchestrate stop {run_id}` ends it"
    return _Holder(f" by run {run_id} (process {note.pid})", remedy)


def busy_devices(folder: Path, devices: Iterable[int]) -> List[int]:
    """Which of these devices somebody holds now; nothing is created and no lock is kept."""
    busy = []
    for device in devices:
        try:
            handle = open_safely(lock_path(folder, device), folder)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            busy.append(device)
        finally:
            os.close(handle)
    return busy
