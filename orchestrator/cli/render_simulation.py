"""A simulated day as text: what happened, folded, where the time went, and what the controller took."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from orchestrator.cli.account_lines import PARTS, account_data
from orchestrator.cli.decision_sentences import decision_sentence, is_told
from orchestrator.cli.sentences import cause_sentence
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.control.time_account import TimeAccount
from orchestrator.core.codec import to_json
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.core.states import RunState
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import AttemptSeen
from orchestrator.simulation.simulated_day import LivedAttempt, SimulatedDay

__all__ = ["day_data", "day_lines", "timeline"]

_WIDTH = 80
_NEAR = 30.0  # what is the same and happens within so many seconds shares a line
_MOST_LINES = 40
_ALWAYS = frozenset({"productive", "lost", "waiting", "restarting", "saving", "starting"})


@dataclass
class Row:
    """A line of the timeline: what happened at `time`, to which hosts and ranks."""

    time: float
    what: str
    hosts: set[str] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)

    def line(self) -> str:
        whom = []
        if self.ranks:
            whom.append(f"rank {fold_numbers(self.ranks, ',', 3)}")
        if self.hosts:
            whom.append(f"{'on ' if self.ranks else ''}{fold(self.hosts)}")
        text = f"{moment(self.time)}  {self.what}{': ' if whom else ''}{' '.join(whom)}"
        return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def moment(seconds: float) -> str:
    """`  3:07:12`: hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600:3d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def timeline(day: SimulatedDay) -> list[Row]:
    """What happened in the order of its times; the same of many hosts or ranks is one row."""
    rows: list[Row] = []
    open_rows: dict[str, Row] = {}
    for time, written, host, rank in _happenings(day):
        what = _plain(written)
        if what is None:
            continue
        row = open_rows.get(what)
        if row is None or time - row.time > _NEAR:
            row = open_rows[what] = Row(time, what)
            rows.append(row)
        row.hosts |= {host} if host else set()
        row.ranks |= {rank} if rank is not None else set()
    return sorted(rows, key=lambda row: row.time)


def _plain(what: str) -> str | None:
    """What happened as one reads it; None for the steps of a launch, and for what is said twice."""
    head, _, rest = what.partition(": ")
    if head in ("preparing", "starting", "attempt 1 is begun"):
        return None
    if head in tuple(RunState) and rest:
        return f"the run is {head}"
    state, _, kind = what.removesuffix(")").partition(" (")
    return state if kind in (state, "exited", "signalled") else what


def _happenings(day: SimulatedDay) -> Iterator[tuple[float, str, str, int | None]]:
    for number, attempt in enumerate(day.attempts, 1):
        resumed = f", from step {attempt.resumed}" if attempt.resumed else ""
        yield attempt.launched, f"attempt {number} is launched{resumed}", "", None
        for each in attempt.outcome.happenings:
            yield attempt.launched + each.time, each.what, each.host, each.rank


def day_lines(day: SimulatedDay, hosts: int, ranks: int, seed: int) -> Iterator[str]:
    """The whole report, in lines of 80 columns at most."""
    yield "SIMULATED hosts, network and workers; the controller is the real one."
    yield f"{hosts:,} hosts, {ranks:,} ranks, {day.seconds / 3600:.1f} h, seed {seed}"
    yield ""
    rows = [row.line() for row in timeline(day)]
    yield from _most(rows)
    yield ""
    for number, attempt in enumerate(day.attempts, 1):
        yield from _wrapped(f"Attempt {number}: {_end_of(attempt)}")
        if restarts := _restarts_of(attempt):
            yield from _wrapped(f"  {restarts}", "    ")
        if why := _why_over(attempt):
            yield from _wrapped(f"  {why}", "    ")
    yield f"Step {day.step:,} is what the run has come to."
    yield ""
    yield from _account_lines(day.account)
    yield ""
    yield from _cost_lines(day)


def _most(lines: Sequence[str]) -> Iterator[str]:
    """The first and the last ones, where there are more than a screen or two."""
    half = _MOST_LINES // 2
    if len(lines) <= _MOST_LINES:
        yield from lines
        return
    yield from lines[:half]
    yield f"           ({len(lines) - 2 * half} lines more; --json has all of it)"
    yield from lines[-half:]


def _end_of(attempt: LivedAttempt) -> str:
    outcome = attempt.outcome
    steps = f"{outcome.steps:,} steps"
    if outcome.cause is not None:
        return f"{outcome.state} after {steps}; cause: {cause_sentence(outcome.cause)}"
    if not outcome.state.is_terminal:
        return f"goes on, {steps} so far"
    why = outcome.record.errors[:1] if outcome.state is not RunState.SUCCEEDED else ()
    return "; ".join([f"{outcome.state} after {steps}", *why])


def _restarts_of(attempt: LivedAttempt) -> str:
    """How often it went on by itself after what; empty where it never did."""
    seen = attempt.outcome.attempts
    grounds = Counter(each.decision.ground for each in seen if each.decision is not None and each.restarts)
    if not grounds:
        return ""
    named = ", ".join(f"{count} x {ground.replace('_', ' ')}" for ground, count in grounds.most_common())
    count = len(seen) - 1
    return f"it went on by itself {count} time{'s' * (count != 1)}: {named}"


def _why_over(attempt: LivedAttempt) -> str:
    """What was decided where a run that might have gone on by itself did not; else empty."""
    seen = attempt.outcome.attempts
    last = seen[-1].decision if seen and not seen[-1].restarts else None
    return decision_sentence(last) if last is not None and is_told(last) else ""


def _wrapped(text: str, indent: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_long_words=True)


def _account_lines(account: TimeAccount) -> Iterator[str]:
    yield "Time"
    whole = account.whole or 1.0
    for name, seconds in account.parts().items():
        if seconds > 0 or name in _ALWAYS:
            yield f"  {PARTS[name][0]:<10} {moment(seconds)} {100 * seconds / whole:5.1f} %  {PARTS[name][2]}"
    yield f"  {'whole':<10} {moment(account.whole)}"


def _cost_lines(day: SimulatedDay) -> Iterator[str]:
    costs = [attempt.outcome.cost for attempt in day.attempts]
    cpu, memory = sum(cost.controller for cost in costs), max(cost.memory for cost in costs)
    lived = sum(attempt.outcome.seconds for attempt in day.attempts) - sum(cost.jumped for cost in costs)
    yield f"Controller: {cpu:.1f} s of CPU, {byte_size(memory)} of memory with the simulation's own"
    share = f"{100 * cpu / lived:.2f} % of a core" if lived > 0 else "nothing"
    yield f"  {share} over the {lived / 3600:.2f} h in which more happened than steps"
    real, others = sum(cost.seconds for cost in costs), sum(cost.hosts for cost in costs)
    yield f"Simulated in {real:.1f} s, with {others:.1f} s of CPU for hosts and network"


def day_data(day: SimulatedDay, hosts: int, ranks: int, seed: int) -> dict[str, Any]:
    """All of it as data."""
    return {
        "simulated": True,
        "hosts": hosts,
        "ranks": ranks,
        "seed": seed,
        "seconds": day.seconds,
        "step": day.step,
        "account": account_data(day.account),
        "attempts": [_attempt_data(attempt) for attempt in day.attempts],
    }


def _attempt_data(attempt: LivedAttempt) -> dict[str, Any]:
    outcome, cost = attempt.outcome, attempt.outcome.cost
    cause = outcome.cause
    return {
        "launched": attempt.launched,
        "ended": attempt.times.ended,
        "state": str(outcome.state),
        "exit_code": outcome.exit_code,
        "resumed": attempt.resumed,
        "restarts": [_seen_data(each) for each in outcome.attempts],
        "steps": outcome.steps,
        "kept": attempt.kept,
        "errors": list(outcome.record.errors),
        "cause": None
        if cause is None
        else {
            "host": cause.host,
            "rank": cause.rank,
            "sure": cause.sure,
            "kind": cause.end.kind.value,
            "text": cause_sentence(cause),
        },
        "faults": _faults_data(attempt.faults),
        "happenings": [
            {"time": each.time, "what": each.what, "host": each.host, "rank": each.rank}
            for each in outcome.happenings
        ],
        "controller_cpu": cost.controller,
        "controller_launch_cpu": cost.launch,
        "controller_watch_share": cost.watch,
        "told": cost.told,
        "hosts_cpu": cost.hosts,
        "memory": cost.memory,
        "seconds_of_real_time": cost.seconds,
        "jumped": cost.jumped,
    }


def _seen_data(seen: AttemptSeen) -> dict[str, Any]:
    """One of the attempts of a run that goes on by itself; times are seconds since its launch."""
    decision = seen.decision
    decided = None if decision is None else {**to_json(decision), "sentence": decision_sentence(decision)}
    names = ("number", "begun", "resumed", "first", "ended", "steps", "saved")
    return {**{name: getattr(seen, name) for name in names}, "decision": decided}


def _faults_data(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    return [{part.name: getattr(fault, part.name) for part in fields(fault)} for fault in faults]
