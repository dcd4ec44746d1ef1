"""What is said of the attempts of a run, where it has had more than one, or another one came to nothing."""

from __future__ import annotations

from typing import Any

from orchestrator.cli.live_view import duration
from orchestrator.cli.sentences import cause_sentence
from orchestrator.control.run_record import AttemptRecord, RunRecord

__all__ = ["attempt_name", "attempt_notes", "without_attempts"]

# Of an attempt in the JSON of a run that has had no other; the rest is told where there are several.
_OF_ONE = ("number", "token", "state", "started", "ended")


def attempt_name(record: RunRecord) -> str:
    """`attempt 2`; nothing for a run that has had one alone."""
    number = record.attempts[-1].number
    return f"attempt {number}" if number > 1 or len(record.attempts) > 1 else ""


def attempt_notes(record: RunRecord) -> list[str]:
    """A line for each attempt before, on a launch that came to nothing, and on who acts if not we."""
    lines = [_before(attempt) for attempt in record.attempts[:-1]]
    if name := attempt_name(record):
        lines.append(f"{name} is in force")
    if record.refused is not None:
        why = record.refused.errors[0] if record.refused.errors else "it is not known why"
        lines.append(f"attempt {record.refused.number} came to nothing: {why}")
    if record.claim.epoch == 0 and record.claim.holder:
        lines.append(f"watched from here: {record.claim.holder} acts on it (attach --take-over changes that)")
    return lines


def _before(attempt: AttemptRecord) -> str:
    took = ""
    if attempt.started is not None and attempt.ended is not None:
        took = f" ({duration(attempt.ended - attempt.started)})"
    step = "" if attempt.last_step is None else f" at step {attempt.last_step}"
    cause = "" if attempt.cause is None else f": {cause_sentence(attempt.cause)}"
    left = f"; not heard of since: {', '.join(attempt.left)}" if attempt.left else ""
    return f"attempt {attempt.number} {attempt.state}{step}{took}{cause}{left}"


def without_attempts(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a record, without what is told only where there are several attempts, or several claims."""
    attempts = data["attempts"]
    if data.get("refused") is None:
        data.pop("refused", None)
    if data["claim"]["epoch"] == 1 or not data["claim"]["holder"]:
        del data["claim"]
    if len(attempts) == 1:
        data["attempts"] = [{key: attempts[0][key] for key in _OF_ONE}]
    return data
