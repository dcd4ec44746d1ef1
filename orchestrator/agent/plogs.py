"""CANN's own log files of a run, as far as they lie in the run's directory: which there are, and their ends.

Their names are CANN's: `<label>/{debug,run}/{plog,device-<id>}/<kind>-<pid>_<time>.log`. CANN removes its
oldest ones, so that a file may be gone at any moment.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import itertools
import os
import re
from pathlib import Path
from typing import Any, Counter, Dict, Iterator, List, Tuple

from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir
from orchestrator.core.safe_open import read_end, require_folder

__all__ = ["list_plogs", "read_plog"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MOST_FILES = 2000
_DEEPEST = 6

# When it was last written, its path, its size.
_Log = Tuple[float, str, int]


def list_plogs(run: RunDir, most: int = _MOST_FILES) -> Dict[str, Any]:
    """`files`: `path` below the folder of plogs and `size` of each, `most` of them, of all labels in turn.

    Of each label the newest come first. `left`: how many entries of each label are not among them, by number
    or because they are none of CANN's: links, pipes, odd names, what lies too deep or cannot be looked at. An
    entry that is a folder counts once. "" stands for what lies under no name of a label.
    """
    left: Counter[str] = collections.Counter()
    newest = []
    for label, is_folder in _labels(str(run.attempt.plogs)):
        folder = os.path.join(str(run.attempt.plogs), label)
        if not is_folder:
            left[label] += 1
        else:
            newest.append(heapq.nlargest(most, _logs(str(run.attempt.plogs), folder, 1, left, label)))
    taken = [log for turn in itertools.zip_longest(*newest) for log in turn if log is not None][:most]
    listed = collections.Counter(path.partition("/")[0] for _, path, _ in taken)
    return {
        "files": [{"path": path, "size": size} for _, path, size in taken],
        "left": {name: count for name in left if (count := left[name] - listed[name])},
    }


def _labels(folder: str) -> List[Tuple[str, bool]]:
    """The entries of the folder of plogs, and which of them are folders; "" for each odd name."""
    with contextlib.suppress(OSError):
        require_folder(Path(folder))
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        return [
            (entry.name, entry.is_dir(follow_symlinks=False)) if _NAME.fullmatch(entry.name) else ("", False)
            for entry in entries
        ]
    return []


def _logs(root: str, folder: str, depth: int, seen: Counter[str], label: str) -> Iterator[_Log]:
    """The logs in a folder and below. Of all that is there `seen` is told, of what is gone meanwhile not."""
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except FileNotFoundError:
        return
    except OSError:
        seen[label] += 1
        return
    for entry in entries:
        is_named = bool(_NAME.fullmatch(entry.name))
        if is_named and depth < _DEEPEST and entry.is_dir(follow_symlinks=False):
            yield from _logs(root, entry.path, depth + 1, seen, label)
            continue
        seen[label] += 1
        if is_named and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                yield status.st_mtime, os.path.relpath(entry.path, root), status.st_size


def read_plog(run: RunDir, path: str, limit: int) -> bytes:
    """The last `limit` bytes of a listed file. AgentError for one that cannot be read or is no log."""
    parts = path.split("/")
    if not all(_NAME.fullmatch(part) for part in parts):
        raise AgentError(f"{path!r} is no name of a log")
    try:
        return read_end(run.attempt.plogs.joinpath(*parts), run.runs, limit)
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror or error}") from error
