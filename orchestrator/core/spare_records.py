"""What is written down and told of a host that stands ready for a run: its spare.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
from typing import Optional, Tuple

from orchestrator.core.codec import Stored
from orchestrator.core.record_class import dataclass
from orchestrator.core.records import ProcessId

__all__ = ["SpareAnswer", "SpareNote", "Warmth"]


class Warmth(str, enum.Enum):
    """Whether a process there has imported what the workers will import."""

    NOTHING = "nothing"  # there is nothing to import: the job's own command is not known
    IMPORTING = "importing"
    READY = "ready"
    FAILED = "failed"  # it has ended, which costs only time

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class SpareNote(Stored):
    """Who holds a host ready; `inputs` are contents of the store that its run will ask for."""

    LARGEST = 16 << 20

    run_id: str
    holder: Optional[ProcessId] = None
    created: float = 0.0
    inputs: Tuple[str, ...] = ()
    devices: Tuple[int, ...] = ()


@dataclass(frozen=True)
class SpareAnswer:
    """What a holder says: the devices that it holds, and how far the import is, with its last line."""

    run_id: str
    devices: Tuple[int, ...]
    warmth: Warmth = Warmth.NOTHING
    trouble: str = ""
    warm_seconds: Optional[float] = None
