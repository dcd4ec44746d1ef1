"""Phases of a worker: what it does when it makes no steps, told in the file of its metrics."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from orchestrator.core.records import Phase

__all__ = ["SAVE", "STACKS", "Phase", "Phases"]

# What a worker announces, see `orchestrator.core.records.Phase`.
STACKS, SAVE = "stacks", "save"


class Phases:
    """Lines of `orchestrator.core.records.Phase` in `metrics/rank_<rank>.jsonl` of `home`; without one, none.

    Each line says all that was announced before it: who reads only the end of the file misses nothing.
    """

    def __init__(self, home: Path | None = None, rank: int = 0) -> None:
        self._path = None if home is None else home / "metrics" / f"rank_{rank}.jsonl"
        self._can: list[str] = []

    def announce(self, what: str) -> None:
        """This worker can do that from now on; the next line says so."""
        if what not in self._can:
            self._can.append(what)

    def enter(self, phase: Phase, *, step: int | None = None, saved: int | None = None) -> None:
        """From now on it does this: `step` is what is being saved, `saved` that of a whole checkpoint."""
        numbers = {"step": step, "saved": saved}
        line: dict[str, Any] = {"phase": str(phase), "time": time.time()}
        line |= {name: number for name, number in numbers.items() if number is not None}
        if self._can:
            line["can"] = self._can
        # What a full disk refuses here ends no work; a metrics line or a checkpoint will, and says why.
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
