"""The memory of the control groups that workers run in: how often the kernel has killed there for want of it,
and how much they may have; of version 1 and version 2.

The kernel counts since a group was made. So the counts are noted when a run is prepared: then the agent is in
the group in which its supervisor and the workers will be. Files: cgroup-v2.rst (memory.events, whose counts
are those of a group and all below it, memory.max) and cgroup-v1/memory.rst (memory.oom_control,
memory.limit_in_bytes).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union

from orchestrator.core.codec import DecodeError, parse
from orchestrator.core.paths import AttemptDir
from orchestrator.core.safe_open import open_safely, read_safely

__all__ = ["NOTE", "Kills", "kills_since", "note_counts", "read_note"]

# Beside an attempt's manifest.
NOTE = "memory_at_launch.json"
_LARGEST_NOTE = 1 << 16
_LARGEST = 1 << 14
_DEEPEST = 32
_UNLIMITED = 1 << 60  # version 1 says so with the largest number of pages
_COUNT = re.compile(r"^oom_kill (\d{1,18})$", re.MULTILINE)


class Kills(NamedTuple):
    """How many processes were killed for memory since the launch in the workers' groups and on the host, and
    the least limit of those groups in bytes; None where it is not known."""

    in_groups: Optional[int] = None
    on_host: Optional[int] = None
    limit: Optional[int] = None


class _Group(NamedTuple):
    """A group's folder, and its files for the count and for the limit."""

    folder: str
    counts: str
    limit: str


def note_counts(attempt: AttemptDir, *, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> None:
    """Write down what is counted now; where that cannot be, it is not known later."""
    chain = _chain("self", proc, cgroups)
    counts = {group.folder: _count(group) for group in chain}
    note = {"groups": counts, "host": _of_host(proc)}
    path = attempt.root / NOTE
    with contextlib.suppress(OSError):
        handle = open_safely(path, attempt.root, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(note))


def read_note(attempt: AttemptDir, runs: Path) -> Optional[Mapping[str, Any]]:
    """What was written down at the launch; None where there is nothing, as of an older version."""
    try:
        found = parse(read_safely(attempt.root / NOTE, runs, _LARGEST_NOTE))
    except (OSError, DecodeError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("groups"), dict) else None


def kills_since(
    note: Optional[Mapping[str, Any]],
    pids: Iterable[int] = (),
    *,
    launched: float = 0.0,
    proc: str = "/proc",
    cgroups: str = "/sys/fs/cgroup",
) -> Kills:
    """What has been counted since the note was written, at `launched`; `pids` are workers that live."""
    before: Mapping[str, Any] = {} if note is None else note["groups"]
    chains = [[_group(Path(folder)) for folder in before], *(_chain(pid, proc, cgroups) for pid in pids)]
    counted: Dict[str, int] = {}
    limits: List[int] = []
    for chain in chains:
        limits += filter(None, map(_limit, chain))
        group = next((each for each in chain if _count(each) is not None), None)
        if group is None:
            continue
        now, was = _count(group), before.get(group.folder)
        if now is None or (was is None and not _is_made_since(group, launched)):
            continue
        counted[group.folder] = max(0, now - (was if isinstance(was, int) else 0))
    outer = [folder for folder in counted if not any(folder.startswith(f"{other}/") for other in counted)]
    host, was_host = _of_host(proc), (note or {}).get("host")
    on_host = max(0, host - was_host) if host is not None and isinstance(was_host, int) else None
    in_groups = sum(counted[folder] for folder in outer) if outer else None
    return Kills(in_groups, on_host, min(limits, default=None))


def _chain(pid: Union[int, str], proc: str, cgroups: str) -> List[_Group]:
    """The group of a process, those around it, and none that is not there; the innermost first."""
    text = _text(f"{proc}/{pid}/cgroup")
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        names, _, inner = rest.partition(":")
        if number == "0" and not names:
            root = f"{cgroups}/unified" if os.path.isdir(f"{cgroups}/unified") else cgroups
        elif "memory" in names.split(","):
            root = f"{cgroups}/memory"
        else:
            continue
        chain = [group for group in _upwards(root, inner) if os.path.isfile(group.counts)]
        if chain:
            return chain
    return []


def _upwards(root: str, inner: str) -> List[_Group]:
    parts = [part for part in inner.replace(" (deleted)", "").split("/") if part]
    if ".." in parts:
        return []  # of a namespace that is not ours
    folders = [Path(root, *parts[:count]) for count in range(min(len(parts), _DEEPEST), -1, -1)]
    return [_group(folder) for folder in folders]


def _group(folder: Path) -> _Group:
    if (folder / "memory.oom_control").is_file():
        return _Group(str(folder), str(folder / "memory.oom_control"), str(folder / "memory.limit_in_bytes"))
    return _Group(str(folder), str(folder / "memory.events"), str(folder / "memory.max"))


def _count(group: _Group) -> Optional[int]:
    found = _COUNT.search(_text(group.counts))
    return int(found[1]) if found is not None else None


def _limit(group: _Group) -> Optional[int]:
    text = _text(group.limit).strip()
    limit = int(text) if re.fullmatch(r"\d{1,19}", text) else None
    return limit if limit is not None and limit < _UNLIMITED else None


def _is_made_since(group: _Group, launched: float) -> bool:
    try:
        return os.stat(group.folder).st_ctime >= launched
    except OSError:
        return False


def _of_host(proc: str) -> Optional[int]:
    """Kills for want of memory anywhere on the host since its boot (/proc/vmstat, since Linux 4.13)."""
    found = _COUNT.search(_text(f"{proc}/vmstat", 1 << 17))
    return int(found[1]) if found is not None else None


def _text(path: str, limit: int = _LARGEST) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""
