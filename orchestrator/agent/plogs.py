"""CANN's own log files of a run, as far as they lie in the run's directory: which there are, and their ends.

Their names are CANN's: `<label>/{debug,run}/{plog,device-<id>}/<kind>-<pid>_<time>.log`. CANN removes its
oldest ones, so that a file may be gone at any moment.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Dict, Iterator, List

from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir

__all__ = ["list_plogs", "read_plog"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MOST_FILES = 2000
_DEEPEST = 6


def list_plogs(run: RunDir) -> List[Dict[str, Any]]:
    """`path` below the folder of plogs and `size` of each file; links and odd names are passed over."""
    found: List[Dict[str, Any]] = []
    for entry in _files(str(run.plogs), 0):
        if len(found) == _MOST_FILES:
            break
        try:
            size = entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
        found.append({"path": os.path.relpath(entry.path, str(run.plogs)), "size": size})
    return found


def _files(folder: str, depth: int) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not _NAME.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
            yield from _files(entry.path, depth + 1)
        elif entry.is_file(follow_symlinks=False):
            yield entry


def read_plog(run: RunDir, path: str, limit: int) -> bytes:
    """The last `limit` bytes of a listed file, none of one that is gone. Other paths raise AgentError."""
    parts = path.split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        raise AgentError(f"{path!r} is no name of a log")
    try:
        opened = os.open(str(run.plogs), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        for part in parts:  # each in the folder before, so that none of them is a link
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
            os.close(opened)
            opened = inner
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise AgentError(f"{path} is no file")
        return os.pread(opened, limit, max(0, status.st_size - limit))
    except OSError:
        return b""
    finally:
        os.close(opened)
