"""The folder of a run, on this machine, in which one step is put together to be cut anew: its room, its end.

It holds a whole checkpoint. Whoever made it may have been killed: the next one removes what nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.core.errors import PreflightError
from orchestrator.core.paths import ControlDir

__all__ = ["require_room", "step_spool"]

_PREFIX = ".resume-"
# The file system's own records, and what the monitors of runs write meanwhile.
_MARGIN = 64 << 20


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def require_room(control: ControlDir, nbytes: int, *, free: Callable[[Path], int] = _free) -> None:
    """Raise PreflightError where so many bytes do not fit into the run's folder here, before any is moved."""
    _sweep(control.root)
    have, need = free(control.root), nbytes + _MARGIN
    if have < need:
        room = f"which takes {need / 1e9:.2f} GB, and {have / 1e9:.2f} GB are free"
        remedy = "free some, or go on in the same layout, on as many hosts"
        what = f"another layout is put together here, {room}"
        raise PreflightError(what, where=str(control.root), remedy=remedy)


@contextlib.contextmanager
def step_spool(control: ControlDir) -> Iterator[Path]:
    """A new folder that is gone at the end. What others left that were killed goes first."""
    _sweep(control.root)
    # Under its name only once it is held: until then nobody takes it for one that was left.
    made = Path(tempfile.mkdtemp(dir=control.root, prefix=".new-"))
    folder, handle = made.with_name(_PREFIX + made.name[5:]), os.open(made, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _sweep(root: Path) -> None:
    """Remove what is held by nobody any more."""
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another one sweeps, too; or its locks cannot be told
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)
