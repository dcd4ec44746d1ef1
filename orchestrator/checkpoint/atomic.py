"""Atomic writing of files and folders: each is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.core import paths
from orchestrator.core.errors import CheckpointError

__all__ = [
    "mapped_errors",
    "new_folder",
    "replacing",
    "require_new",
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
def replacing(path: Path) -> Iterator[BinaryIO]:
    """`paths.replacing`, for a file that is to survive a power cut; what fails is a CheckpointError."""
    with mapped_errors(path):
        with paths.replacing(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)


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
        building.mkdir(exist_ok=True)
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
    descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner before may have put the folder in place between our open and our lock.
        if os.stat(building).st_ino == os.fstat(descriptor).st_ino:
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
