"""What is said of the attempts of a run, and of what was decided at their ends.

Where it has had more than one, where another one came to nothing, and while it waits for the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.cli.decision_sentences import decision_sentence, is_told
from orchestrator.cli.language import language
from orchestrator.cli.sentences import cause_sentence, duration
from orchestrator.control.attempts import finished
from orchestrator.control.decisions import Choice, Decision
from orchestrator.control.run_record import AttemptRecord, RunRecord
from orchestrator.core.states import RunState

__all__ = [
    "DecisionLog",
    "attempt_name",
    "attempt_notes",
    "decided_line",
    "restarts_by_itself",
    "without_attempts",
]

# Of an attempt in the JSON of a run that has had no other; the rest is told where there are several.
_OF_ONE = ("number", "token", "state", "started", "ended")
# On a screen of 24 lines there is room for the last ones.
_MOST_ATTEMPTS = 3


def attempt_name(record: RunRecord) -> str:
    """`attempt 2`; nothing for a run that has had one alone."""
    number = record.attempts[-1].number
    return f"attempt {number}" if number > 1 or len(record.attempts) > 1 else ""


def attempt_notes(record: RunRecord) -> list[str]:
    """Lines for the last attempts before, on a launch that came to nothing, and on who acts if not we."""
    restarts = record.state is RunState.RESTARTING
    over = record.attempts if restarts else record.attempts[:-1]
    lines = [f"{_attempts(len(over) - _MOST_ATTEMPTS)} before: --json has all"] * (len(over) > _MOST_ATTEMPTS)
    for attempt in over[-_MOST_ATTEMPTS:]:
        lines += _end_lines(attempt, record)
    if (name := attempt_name(record)) and not restarts:
        lines.append(f"{name} is in force")
    if record.state.is_terminal and (line := decided_line(record.attempts[-1])):
        lines.append(f"  {line}")
    if record.refused is not None:
        why = record.refused.errors[0] if record.refused.errors else "it is not known why"
        lines.append(f"attempt {record.refused.number} came to nothing: {why}")
    if record.claim.epoch == 0 and record.claim.holder:
        lines.append(f"watched from here: {record.claim.holder} acts on it (attach --take-over changes that)")
    return lines


def _attempts(count: int) -> str:
    return f"{count} attempt{'s' * (count != 1)}"


def restarts_by_itself(record: RunRecord) -> bool:
    """Whether the attempt in force was, or the next one will be, decided on by the run's own policy."""
    before = record.attempts[-2].decision if len(record.attempts) > 1 else None
    return record.state is RunState.RESTARTING or (
        before is not None and before.choice not in (Choice.STOP, Choice.GIVE_UP)
    )


class DecisionLog:
    """What is decided of a run, as lines, each told once."""

    def __init__(self) -> None:
        self._told: dict[int, Decision] = {}

    def news(self, record: RunRecord) -> list[str]:
        """How attempts have ended and what was decided, as far as it is not told yet; of many the last."""
        lines: list[str] = []
        for attempt in record.attempts[-_MOST_ATTEMPTS:]:
            decision = attempt.decision
            goes_on = attempt.number != record.attempts[-1].number or record.state is RunState.RESTARTING
            if decision is None or not goes_on or self._told.get(attempt.number) == decision:
                continue
            is_new = attempt.number not in self._told
            self._told[attempt.number] = decision
            lines += _end_lines(attempt, record)[0 if is_new else 1 :]
        return lines


def _end_lines(attempt: AttemptRecord, record: RunRecord) -> list[str]:
    """How an attempt of the run has ended, and what was decided then."""
    if attempt is record.attempts[-1]:  # what is kept of it is noted when the next one has begun
        attempt = replace(finished(record), state=RunState.FAILED)
    line = decided_line(attempt)
    return [_before(attempt), *[f"  {line}"] * bool(line)]


def decided_line(attempt: AttemptRecord) -> str:
    """What was decided when the attempt had ended; empty where nothing was that one would not know."""
    decision = attempt.decision
    if decision is None or not is_told(decision):
        return ""
    return decision_sentence(decision, language(), brief=attempt.cause is not None)


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
        decided = ["decision"] * (attempts[0]["decision"] is not None)
        data["attempts"] = [{key: attempts[0][key] for key in (*_OF_ONE, *decided)}]
    return data
