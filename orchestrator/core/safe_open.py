"""The safe opening of files in folders that others may write to: no link is followed, and nothing hangs.

A folder of runs holds what its owner and programs of all kinds have put there: half a run, a named pipe whose
opening waits for ever, a link into another folder, another user's run. What is opened here is a regular file,
reached from a folder that a person has named (the workdir, the state directory) without a link on the way, in
a run that belongs to this user or to the owner of the folder of runs, who could replace it anyway.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from orchestrator.core.visible_text import visible

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Callable, List, Tuple

__all__ = [
    "open_safely",
    "own_folders",
    "read_end",
    "read_safely",
    "require_folder",
    "require_own_folder",
    "require_regular",
]

# To go through a folder one need not be allowed to list it.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a pipe waits for its other end; for a regular file it means nothing.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "a symbolic link, which is not followed"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
)


def open_safely(path: Path, below: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of the regular file `path`; each step from the folder `below` on is taken without a link.

    `below` itself may be one. Raises OSError, whose `strerror` says what is there instead.
    """
    *folders, name = path.relative_to(below).parts
    held = os.open(below, _FOLDER)
    try:
        owners: Tuple[int, ...] = (os.geteuid(), os.fstat(held).st_uid)
        for folder in folders:
            below = below / folder
            _require(os.stat(folder, dir_fd=held, follow_symlinks=False), below, stat.S_ISDIR, owners)
            owners = ()  # who cannot enter the folder of a run cannot have put anything into it
            inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=held)
            os.close(held)
            held = inner
        with contextlib.suppress(FileNotFoundError):  # to open a device can do something
            _require(os.stat(name, dir_fd=held, follow_symlinks=False), path, stat.S_ISREG)
        handle = os.open(name, flags | _FILE, mode, dir_fd=held)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(held)
    try:
        _require(os.fstat(handle), path, stat.S_ISREG)
    except OSError:
        os.close(handle)
        raise
    return handle


def read_safely(path: Path, below: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes; else, and where it cannot be opened so, OSError."""
    with os.fdopen(open_safely(path, below), "rb") as file:
        data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        if len(data) > limit:
            what = f"it has more bytes than such a file can have ({limit:,})"
            raise OSError(errno.EFBIG, what, str(path))
        return data + file.read(limit - len(data))


def read_end(path: Path, below: Path, count: int) -> bytes:
    """The last `count` bytes of a file that may grow meanwhile; OSError where it cannot be opened so."""
    with os.fdopen(open_safely(path, below), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count))
        return file.read(count)


def require_folder(path: Path, *, follow_links: bool = False) -> None:
    """Raise OSError unless this is a folder, and no link to one."""
    _require(os.stat(path, follow_symlinks=follow_links), path, stat.S_ISDIR)


def require_own_folder(path: Path) -> None:
    """Raise OSError unless this is a folder, and this user's or of the owner of the folder it is in."""
    _require(os.lstat(path), path, stat.S_ISDIR, (os.geteuid(), os.stat(path.parent).st_uid))


def require_regular(path: Path, *, follow_links: bool = False) -> os.stat_result:
    """What the system says of a regular file; OSError where it is something else, say a link."""
    status = os.stat(path, follow_symlinks=follow_links)
    _require(status, path, stat.S_ISREG)
    return status


def own_folders(folder: Path) -> Tuple[List[Path], List[str]]:
    """The folders in `folder`, by name, that `require_own_folder` accepts, and a line on each other entry.

    Names that begin with a dot are passed over: no run has one.
    """
    found, others = [], []
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return [], []
    for name in names:
        try:
            require_own_folder(folder / name)
        except FileNotFoundError:
            continue  # removed since
        except OSError as error:
            others.append(f"{visible(str(folder / name))}: {error.strerror}: no run of yours, passed over")
        else:
            found.append(folder / name)
    return found, others


def _require(
    status: os.stat_result, path: Path, is_meant: Callable[[int], bool], owners: Tuple[int, ...] = ()
) -> None:
    """Raise OSError for another kind of thing, or for one that belongs to none of the `owners`, if any."""
    if not is_meant(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "a socket or a device")
        raise OSError(errno.EINVAL, f"it is {kind}", str(path))
    if owners and status.st_uid not in owners:
        raise OSError(errno.EPERM, f"it belongs to another user (uid {status.st_uid})", str(path))
