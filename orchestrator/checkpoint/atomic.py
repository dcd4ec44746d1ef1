"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import CheckpointError

__all__ = ["mapped_errors", "replacing", "sync_folder", "temporary_name"]


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no pattern for checkpoints (`*.ckpt`, `*.safetensors`) takes for one."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


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
    """A new file, mode 0600, that takes the place of `path` if the block ends well and vanishes if not."""
    temporary = temporary_name(path)
    with mapped_errors(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
