"""What may be left of an attempt's containers when those who kept them are gone, and its removal.

A keeper writes down the id of its container and which processes of the host are in it, and takes the notes
away once nothing is left. Notes that are still there when supervisor and keepers are dead are of containers
that may be there, too: the guardian sees to them, and where it is dead as well, who comes first to the host.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping

from orchestrator.agent import processes
from orchestrator.agent.container_command import labels_of
from orchestrator.agent.container_keeper import Place
from orchestrator.agent.container_runtime import kept_id, remove, remove_all
from orchestrator.core.codec import DecodeError, from_json
from orchestrator.core.paths import AttemptDir
from orchestrator.core.records import Attempt, Manifest, ProcessId
from orchestrator.core.safe_open import read_safely

__all__ = ["attempt_word", "has_remains", "known_processes", "oom_kills", "remove_remains", "told_end"]

_LARGEST = 1 << 14
_CALL = 10.0
# A runtime that hangs is not asked at each look.
_AGAIN = 60.0
_TRIED = "tried"
# Runtimes that hung when they were asked, and when: one listing of a host asks for many runs.
_hung: Dict[str, float] = {}


def attempt_word(attempt: Attempt) -> str:
    """How the labels of containers name an attempt."""
    return f"{attempt.number}-{attempt.token}"


def known_processes(place: Place, runs: Path) -> Dict[str, ProcessId]:
    """The container's first process and the worker, as far as its keeper has met them."""
    with contextlib.suppress(OSError, ValueError, DecodeError, AttributeError):
        found = json.loads(read_safely(place.processes, runs, _LARGEST))
        return {name: from_json(ProcessId, each) for name, each in found.items()}
    return {}


def told_end(path: Path, runs: Path) -> Mapping[str, Any]:
    """What the end of a container has beside its code; nothing for most."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_safely(path, runs, _LARGEST))
        return found if isinstance(found, dict) else {}
    return {}


def has_remains(attempt: AttemptDir) -> bool:
    """Whether a container of this attempt may be left, if nobody keeps it."""
    with contextlib.suppress(OSError):
        return any(not name.endswith(".end") for name in os.listdir(attempt.root / Place.FOLDER))
    return False


def remove_remains(attempt: AttemptDir, runs: Path, manifest: Manifest, *, again: bool = False) -> List[str]:
    """Kill and remove them; why some may still be there.

    To be called where supervisor and keepers are dead. `again`: not if it was tried a moment ago, and all
    calls of the runtime together take no longer than one may: who asks for a status waits for this.
    """
    container, folder = manifest.container, attempt.root / Place.FOLDER
    if container is None or not has_remains(attempt):
        return []
    tried = folder / _TRIED
    with contextlib.suppress(OSError):
        if again and time.time() - os.stat(tried).st_mtime < _AGAIN:
            return []
    if again and time.monotonic() < _hung.get(container.runtime, -math.inf) + _AGAIN:
        return []
    with contextlib.suppress(OSError):
        tried.touch()  # first: others that ask meanwhile are not to wait for the same
    ends = time.monotonic() + _CALL if again else math.inf
    names = sorted({name.rpartition(".")[0] for name in os.listdir(folder) if name != _TRIED})
    places = [Place(attempt.root, label) for label in names if label]
    for place in places:
        for process in known_processes(place, runs).values():
            processes.kill_one(process)
    ids = [found for place in places if (found := kept_id(place.cid)) is not None]
    troubles = [remove(container.runtime, found, min(_CALL, ends - time.monotonic())) for found in ids]
    # One that was being made has left no id.
    labels = labels_of(manifest.run_id, attempt_word(manifest.attempt), None, manifest.host)
    troubles.append(remove_all(container.runtime, labels, _CALL, ends))
    left = list(filter(None, troubles))
    if left:
        if time.monotonic() >= ends:
            _hung[container.runtime] = time.monotonic()
        return left
    notes = [path for place in places for path in (place.cid, place.processes, place.socket)]
    for path in (*notes, tried):
        with contextlib.suppress(OSError):
            path.unlink()
    return []


def oom_kills(attempt: AttemptDir, runs: Path) -> int:
    """How often the kernel has killed for want of memory in the containers of an attempt that have ended."""
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(attempt.root / Place.FOLDER):
            if name.endswith(".end"):
                count = told_end(attempt.root / Place.FOLDER / name, runs).get("oom_kills", 0)
                total += count if isinstance(count, int) else 0
    return total
