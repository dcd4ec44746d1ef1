"""The newest step that is complete over all hosts, as the monitor has told it: `complete_step.json` of a run.

Who removes old shards removes neither it nor what is newer: only the monitor sees all hosts.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional, Tuple

from orchestrator.core.paths import atomic_write
from orchestrator.core.safe_open import read_safely

__all__ = ["read_told_step", "write_told_step"]

_NAME = "complete_step.json"
_LARGEST = 1 << 12


def read_told_step(run: Path) -> Optional[Tuple[int, int]]:
    """(attempt, step) as it was last told to the run of this directory; None where nothing was, or is read.

    That counts as told nothing, so that the more stays.
    """
    try:
        data = json.loads(read_safely(run / _NAME, run, _LARGEST))
        return int(data["attempt"]), int(data["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_told_step(run: Path, attempt: int, step: int, *, back: bool = False) -> None:
    """Note it down, unless a newer one is told already. With `back` this one counts: a person went back."""
    told = read_told_step(run)
    if back or told is None or told < (attempt, step):
        atomic_write(run / _NAME, json.dumps({"format": 1, "attempt": attempt, "step": step}))
