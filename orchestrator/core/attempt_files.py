"""The files in a run's own directory that belong to one of its attempts: kept for it, and given back.

While an attempt is in force its status, its events and what it was given (`inputs/`, `code/`, files of its
working directory) lie in the run's directory, which is the same for all attempts. When the next one is made
they are kept in the folder of the one before, and when that next one is discarded they come back:

    attempts/<n>/status.json, events.jsonl   of attempt n, once n + 1 is there
    attempts/<n>/replaced/<path>             what lay at <path> before attempt n brought another file
    attempts/<n>/added                       the paths at which nothing had been, a line each

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import List

from orchestrator.core.paths import AttemptDir, RunDir, atomic_write, leads_to

__all__ = ["give_back", "keep", "make_way"]

_REPLACED, _ADDED = "replaced", "added"


def keep(run: RunDir, number: int) -> None:
    """Put into the folder of an attempt that is over what it has in the run's directory.

    Its status stays there, too, until another one takes its place: somebody may be reading it. A folder that
    a program has put in the place of one of our links is what this attempt wrote.
    """
    folder = run.folder_of(number)
    with contextlib.suppress(FileNotFoundError):
        _same_file(run.status, folder / run.status.name)
    with contextlib.suppress(FileNotFoundError):
        os.replace(run.events, folder / run.events.name)
    for name in (*AttemptDir.FOLDERS, "answers"):
        own, kept = run.root / name, folder / name
        if own.is_symlink() or not own.is_dir():
            continue
        with contextlib.suppress(OSError):
            kept.rmdir()  # nobody wrote there
        if not kept.exists():
            os.rename(own, kept)
            os.symlink(leads_to(name), own)
    for socket in (run.control_socket, run.chat_socket):
        with contextlib.suppress(FileNotFoundError):
            socket.unlink()  # of processes that were killed: nobody could listen there again


def make_way(run: RunDir, number: int, path: str) -> None:
    """Attempt `number` is about to put a file at `path` in the run: what is there is kept until that goes.

    Raises OSError.
    """
    own, folder = run.root / path, run.folder_of(number)
    kept = folder / _REPLACED / path
    if os.path.lexists(own):
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.rename(own, kept)
        return
    with open(folder / _ADDED, "a") as added:
        added.write(path + "\n")


def give_back(run: RunDir, number: int, before: int) -> None:
    """Attempt `number` is about to be removed: bring back what the one before had in the run's directory."""
    lost, old = run.folder_of(number), run.folder_of(before)
    for added in _paths(lost / _ADDED):
        with contextlib.suppress(OSError):
            (run.root / added).unlink()
    replaced = lost / _REPLACED
    for folder, _, names in os.walk(replaced):
        for name in names:
            kept = Path(folder) / name
            with contextlib.suppress(OSError):
                os.replace(kept, run.root / kept.relative_to(replaced))
    with contextlib.suppress(FileNotFoundError):
        run.control_socket.unlink()
    for path in (run.status, run.events):
        with contextlib.suppress(FileNotFoundError):
            os.replace(old / path.name, path)
            os.unlink(old / path.name)  # there still where both were names of one file


def _same_file(old: Path, new: Path) -> None:
    """Have `new` be what `old` is, at once; where the file system has no hard links, a copy."""
    link = str(new.parent / f".{new.name}.{os.urandom(8).hex()}")
    try:
        os.link(old, link)
    except FileNotFoundError:
        raise
    except OSError:
        atomic_write(new, old.read_bytes())
        return
    os.rename(link, new)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)  # there still where both were names of one file: rename(2) does nothing then


def _paths(path: Path) -> List[str]:
    """Relative paths, one a line; none that leads out of the folder."""
    with contextlib.suppress(OSError, ValueError):
        lines = path.read_text().splitlines()
        return [line for line in lines if line and not line.startswith("/") and ".." not in line.split("/")]
    return []
