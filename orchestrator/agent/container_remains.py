"""What may be left of an attempt's containers when those who kept them are gone, and its removal.

A keeper writes down the id of its container and which processes of the host are in it, and takes the notes
away once nothing is left. Notes that are still there when supervisor and keepers are dead are of containers
that may be there, too: the guardian sees to them, and who comes first to a host whose guardian is dead as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Dict, List

from orchestrator.agent import processes
from orchestrator.agent.container_keeper import Place
from orchestrator.agent.container_runtime import kept_id, remove, remove_all
from orchestrator.core.codec import DecodeError, from_json
from orchestrator.core.paths import AttemptDir
from orchestrator.core.records import Attempt, Manifest, ProcessId
from orchestrator.core.safe_open import read_safely

__all__ = ["attempt_word", "has_remains", "known_processes", "oom_kills", "remove_remains"]

_LARGEST = 1 << 14
_CALL = 10.0
# A runtime that hangs is not asked at each look.
_AGAIN = 60.0
_TRIED = "tried"


def attempt_word(attempt: Attempt) -> str:
    """How the labels of containers name an attempt."""
    return f"{attempt.number}-{attempt.token}"


def known_processes(place: Place, runs: Path) -> Dict[str, ProcessId]:
    """The container's first process and the worker, as far as its keeper has met them."""
    with contextlib.suppress(OSError, ValueError, DecodeError, AttributeError):
        found = json.loads(read_safely(place.processes, runs, _LARGEST))
        return {name: from_json(ProcessId, each) for name, each in found.items()}
    return {}


def has_remains(attempt: AttemptDir) -> bool:
    """Whether a container of this attempt may be left, if nobody keeps it."""
    with contextlib.suppress(OSError):
        return any(not name.endswith(".end") for name in os.listdir(attempt.root / Place.FOLDER))
    return False


def remove_remains(attempt: AttemptDir, runs: Path, manifest: Manifest, *, again: bool = False) -> List[str]:
    """Kill and remove them; why some may still be there.

    To be called where supervisor and keepers are dead. `again`: not if it was tried a moment ago.
    """
    container, folder = manifest.container, attempt.root / Place.FOLDER
    if container is None or not has_remains(attempt):
        return []
    tried = folder / _TRIED
    with contextlib.suppress(OSError):
        if again and time.time() - os.stat(tried).st_mtime < _AGAIN:
            return []
    labels = sorted({name.rpartition(".")[0] for name in os.listdir(folder) if name != _TRIED})
    places = [Place(attempt.root, label) for label in labels if label]
    for place in places:
        for process in known_processes(place, runs).values():
            if processes.is_alive(process):
                processes.kill_one(process)
    troubles = []
    for place in places:
        found = kept_id(place.cid)
        if found is not None:
            troubles.append(remove(container.runtime, found, _CALL))
    # One that was being made has left no id.
    troubles.append(remove_all(container.runtime, manifest.run_id, attempt_word(manifest.attempt), _CALL))
    left = list(filter(None, troubles))
    with contextlib.suppress(OSError):
        if left:
            tried.touch()
            return left
        for place in places:
            for path in (place.cid, place.processes, place.socket):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
        with contextlib.suppress(FileNotFoundError):
            tried.unlink()
    return left


def oom_kills(attempt: AttemptDir, runs: Path) -> int:
    """How often the kernel has killed for want of memory in the containers of this attempt that have ended."""
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(attempt.root / Place.FOLDER):
            if name.endswith(".end"):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    found = json.loads(read_safely(attempt.root / Place.FOLDER / name, runs, _LARGEST))
                    count = found.get("oom_kills", 0)
                    total += count if isinstance(count, int) else 0
    return total
