"""Phases of a worker: what it does when it makes no steps, told in the file of its metrics."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.records import Phase

__all__ = ["SAVE", "STACKS", "Phase", "Phases", "Saved"]

# What a worker announces, see `orchestrator.core.records.Phase`.
STACKS, SAVE = "stacks", "save"


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is whole: of this step; for how many seconds it held the steps up, and how many lay
    between the begin of the save and its end."""

    step: int
    stall: float
    write: float

    def as_line(self) -> dict[str, Any]:
        """What a line of the metrics says of it."""
        return {"saved": self.step, "stall_s": round(self.stall, 4), "write_s": round(self.write, 4)}


class Phases:
    """Lines of `orchestrator.core.records.Phase` in `metrics/rank_<rank>.jsonl` of `home`; without one, none.

    Each line says all that was announced before it: who reads only the end of the file misses nothing.
    """

    def __init__(self, home: Path | None = None, rank: int = 0) -> None:
        self._path = None if home is None else home / "metrics" / f"rank_{rank}.jsonl"
        self._can: list[str] = []
        self._phase = Phase.IMPORT
        self._lock = threading.Lock()

    def announce(self, what: str) -> None:
        """This worker can do that from now on; the next line says so."""
        if what not in self._can:
            self._can.append(what)

    def enter(self, phase: Phase, *, step: int | None = None, saved: Saved | None = None) -> None:
        """From now on it does this: `step` is what is being saved, `saved` a checkpoint that is whole."""
        with self._lock:
            self._phase = phase
            self._write({**({} if step is None else {"step": step}), **(saved.as_line() if saved else {})})

    def tell(self, saved: Saved) -> None:
        """A checkpoint is whole; the phase stays what it is. To be called by any thread."""
        with self._lock:
            self._write(saved.as_line())

    def _write(self, more: dict[str, Any]) -> None:
        line: dict[str, Any] = {"phase": str(self._phase), "time": time.time(), **more}
        if self._can:
            line["can"] = self._can
        # What a full disk refuses here ends no work; a metrics line or a checkpoint will, and says why.
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
