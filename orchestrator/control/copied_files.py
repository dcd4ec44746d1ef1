"""What owners have said of their copied shards: by it alone a copy counts as a replica of the shard.

It came to the monitor while the owner was there, and is in the record of its attempt.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TypeAlias

from orchestrator.control.run_record import RunRecord
from orchestrator.core.codec import DecodeError, load
from orchestrator.core.paths import ControlDir

__all__ = ["OwnersWord", "owners_word"]

OwnersWord: TypeAlias = Mapping[tuple[int, str, str], str]
"""By attempt, owner and name below the owner's checkpoint, the SHA-256 of the shard."""


def owners_word(control: ControlDir, record: RunRecord, numbers: Container[int] | None = None) -> OwnersWord:
    """What is known of all attempts, or of those with these numbers; of one whose record cannot be read,
    nothing."""
    said: dict[tuple[int, str, str], str] = {}
    newest = record.attempts[-1].number
    for attempt in record.attempts:
        if numbers is not None and attempt.number not in numbers:
            continue
        if attempt.number == newest:
            said.update(_said_in(record, newest))
            continue
        try:
            kept = load(RunRecord, control.kept_record(attempt.number), control.runs)
        except (OSError, DecodeError):
            continue
        said.update(_said_in(kept, attempt.number))
    return said


def _said_in(record: RunRecord, number: int) -> dict[tuple[int, str, str], str]:
    copies = {
        host: view.status.copies
        for host, view in record.hosts.items()
        if view.status is not None and view.status.copies is not None
    }
    return {
        (number, host, file.name): file.sha256 for host, status in copies.items() for file in status.files
    }
