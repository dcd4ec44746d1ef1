"""Atomic writing of files and folders: each is there whole or not at all; nothing of others is followed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.core import paths
from orchestrator.core.errors import CheckpointError
from orchestrator.core.safe_open import open_safely, require_folder

__all__ = [
    "mapped_errors",
    "new_folder",
    "open_own",
    "replacing",
    "require_new",
    "require_own",
    "sync_folder",
]


@contextlib.contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """The one door for what the file system says: OSError becomes CheckpointError."""
    try:
        yield
    except OSError as error:
        remedy = (
            "free some space or choose another folder" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        )
        raise CheckpointError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy=remedy
        ) from error


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """`paths.replacing`, for a file that is to survive a power cut; what fails is a CheckpointError."""
    with mapped_errors(path):
        with paths.replacing(path) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if durable:
            sync_folder(path.parent)


_AWAY = "remove it, or name another output"


def open_own(path: Path, below: Path | None = None, flags: int = 0) -> int:
    """A descriptor to read and write a regular file of this user's, which is made where nothing is.

    What stands beside an output has a name that others can foresee, in a folder that may be theirs: no link
    is followed from the folder `below` (default: the one it is in) on, no pipe opened, and neither a file of
    another user nor one that has a second name is touched. CheckpointError: it is such a thing. OSError: it
    cannot be opened.
    """
    try:
        handle = open_safely(path, below or path.parent, os.O_RDWR | os.O_CREAT | flags)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        raise CheckpointError(f"is in the way: {error.strerror}", where=str(path), remedy=_AWAY) from error
    status = os.fstat(handle)
    what = "it has another name, too (a hard link)" if status.st_nlink > 1 else ""
    if not _is_ours(status, path):
        what = f"it belongs to another user (uid {status.st_uid})"
    if what:
        os.close(handle)
        raise CheckpointError(f"is in the way: {what}", where=str(path), remedy=_AWAY)
    return handle


def _is_ours(status: os.stat_result, path: Path) -> bool:
    """Whether it belongs to whom it would if we made it: a share may give our files to another (NFS)."""
    if status.st_uid == os.geteuid():
        return True
    with tempfile.TemporaryFile(dir=path.parent) as file:
        return status.st_uid == os.fstat(file.fileno()).st_uid


def require_own(folder: Path) -> None:
    """Raise CheckpointError unless this is a folder of this user's, and no link to one."""
    try:
        require_folder(folder)
        if _is_ours(os.lstat(folder), folder):
            return
        what = "it belongs to another user"
    except OSError as error:
        what = error.strerror or str(error)
    raise CheckpointError(f"is in the way: {what}", where=str(folder), remedy=_AWAY)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_new(path: Path) -> None:
    """Raise CheckpointError unless `path` may become a folder: it is not there, or an empty one."""
    if path.is_dir():
        with mapped_errors(path):
            if any(path.iterdir()):
                raise CheckpointError("is not empty", where=str(path), remedy="name a new folder")
    elif path.exists() or path.is_symlink():
        raise CheckpointError("is there and no folder", where=str(path), remedy="name a new folder")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes `path` if the block ends well and vanishes if not.

    One name for all: what a killed process left is taken over by the next. CheckpointError: `path` is there
    already, cannot be made, or is being made by another process.
    """
    path = Path(os.path.abspath(path))
    require_new(path)
    building = path.with_name(f".{path.name}.part")
    with mapped_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            building.mkdir(mode=0o700)
        require_own(building)
        lock = _claim(building, path)
        try:
            _empty(building)
            yield building
            if path.is_dir():
                path.rmdir()
            os.rename(building, path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        sync_folder(path.parent)


def _claim(building: Path, path: Path) -> int:
    descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner before may have put the folder in place between our open and our lock.
        if os.lstat(building).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    raise CheckpointError("is being written by another process", where=str(path))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
