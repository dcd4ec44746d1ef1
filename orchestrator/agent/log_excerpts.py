"""What a worker's logs tell of its end, as few lines: those that say who failed, and the last ones.

Of the worker's own log the end is read. CANN's logs (`plogs`) are read at both ends: what fails first is
written first, and the votes of HCCL at last. Which lines tell is `core.log_signatures`' to say.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List

from orchestrator.agent.line_times import time_of
from orchestrator.agent.plogs import list_plogs
from orchestrator.core.log_signatures import telling_lines
from orchestrator.core.paths import RunDir
from orchestrator.core.safe_open import open_safely

__all__ = ["Excerpt", "plog_lines", "plog_lines_of", "worker_lines"]

# A line as it is answered: `source`, `text`, `time` by this host's clock or None.
Excerpt = Dict[str, Any]

_END = 256 << 10
_BEGIN = 128 << 10
_BLOCK = 200  # as many lines are looked at together as `telling_lines` takes
_TAIL = 30
_MOST_TELLING = 60
_MOST_PLOG = 160
_WIDTH = 600
_FILES = {"debug": 4, "run": 2}
_OF_PLOGS = re.compile(r"([A-Za-z0-9_]+)/(debug|run)/(?:plog|device-\d+)/[^/]+")
# What of CANN's own logs tells: its errors, HCCL's votes, and who is which rank on which device.
_PLOG_TELLS = re.compile(
    r"^\[(?:ERROR|CRITICAL|EVENT)\]|\bcrimer rank\b|Cluster Exception Location|LINK_ERROR_INFO|"
    r"SetupAgent rankNum\[|HCCL_(?:EXEC|CONNECT)_TIMEOUT set by|\bE[A-Z0-9]\d{4}[:)]"
)
_EVENTS_THAT_TELL = re.compile(r"(?i)crimer|exception|error|fail|time ?out|lost|stuck")
_TRACEBACK = "Traceback (most recent call last):"


def worker_lines(path: Path, below: Path, source: str) -> List[Excerpt]:
    """Of the end of a log the lines that tell, its last traceback, and its tail; in their order."""
    try:
        with os.fdopen(open_safely(path, below), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _END))
            data = file.read(_END)
    except FileNotFoundError:
        return []
    lines = _lines(data, begins=size <= _END)
    kept = dict.fromkeys(_telling(lines))
    kept.update(dict.fromkeys(range(max(0, len(lines) - _TAIL), len(lines))))
    traceback = next((at for at in reversed(range(len(lines))) if _TRACEBACK in lines[at]), None)
    if traceback is not None:
        kept.update(dict.fromkeys(range(traceback, min(len(lines), traceback + _TAIL))))
    return [_excerpt(source, lines[at]) for at in sorted(kept)]


def plog_lines(run: RunDir, label: str) -> List[Excerpt]:
    """The same of CANN's logs of one worker: the newest files of `debug`, then of `run`, in their order."""
    newest: Dict[str, List[str]] = {kind: [] for kind in _FILES}
    for entry in list_plogs(run)["files"]:
        match = _OF_PLOGS.fullmatch(entry["path"])
        if match is not None and match[1] == label:
            newest[match[2]].append(entry["path"])
    found: List[Excerpt] = []
    for kind, most in _FILES.items():
        for path in reversed(newest[kind][:most]):
            found += _of_plog(run.attempt.plogs.joinpath(*path.split("/")), run.runs, f"plog/{kind}")
    return _bounded(found)


def plog_lines_of(folder: Path, pid: int) -> List[Excerpt]:
    """The same of the logs of one process in a folder that the job or the host has named for all."""
    found: List[Excerpt] = []
    for kind, most in _FILES.items():
        inner = folder / kind / "plog"
        try:
            with os.scandir(inner) as listed:
                named = [entry.name for entry in listed if entry.name.startswith(f"plog-{pid}_")]
        except OSError:
            continue
        for name in sorted(named)[-most:]:
            found += _of_plog(inner / name, folder, f"plog/{kind}")
    return _bounded(found)


def _bounded(lines: List[Excerpt]) -> List[Excerpt]:
    return lines if len(lines) <= _MOST_PLOG else [*lines[: _MOST_PLOG // 2], *lines[-_MOST_PLOG // 2 :]]


def _of_plog(path: Path, below: Path, source: str) -> Iterator[Excerpt]:
    try:
        with os.fdopen(open_safely(path, below), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            lines = _lines(file.read(_BEGIN), begins=True, ends=size <= _BEGIN)
            if size > _BEGIN:
                start = max(_BEGIN, size - _END)
                file.seek(start)
                lines += _lines(file.read(_END), begins=start == _BEGIN)
    except OSError:
        return  # CANN removes its oldest ones
    telling = set(_telling(lines))
    chosen = [at for at in range(len(lines)) if at in telling or _tells(lines[at])]
    for at in _both_ends(chosen, _MOST_TELLING):
        yield _excerpt(source, lines[at])


def _tells(line: str) -> bool:
    if _PLOG_TELLS.search(line) is None:
        return False
    return not line.startswith("[EVENT]") or _EVENTS_THAT_TELL.search(line) is not None


def _telling(lines: List[str]) -> List[int]:
    """Where the lines are that say who failed: the first and the last of them, each text once."""
    seen: Dict[str, int] = {}
    for start in range(0, len(lines), _BLOCK):
        block = lines[start : start + _BLOCK]
        told = set(telling_lines("\n".join(block)))
        for at, line in enumerate(block, start):
            if told and any(line.startswith(each) for each in told):
                seen.setdefault(line[:_WIDTH], at)
    return _both_ends(sorted(seen.values()), _MOST_TELLING)


def _both_ends(places: List[int], most: int) -> List[int]:
    half = most // 2
    return places if len(places) <= most else [*places[:half], *places[-half:]]


def _lines(data: bytes, *, begins: bool, ends: bool = True) -> List[str]:
    """Whole lines only, but for the last of a log, which may have no end yet."""
    lines = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    lines = lines if begins else lines[1:]
    return [line for line in (lines if ends else lines[:-1]) if line.strip()]


def _excerpt(source: str, line: str) -> Excerpt:
    return {"source": source, "text": line.rstrip()[:_WIDTH], "time": time_of(line)}
