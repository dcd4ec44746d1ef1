"""Situations for tests: attempts of a run that has ended, on hosts that are well unless it is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.run_terms import Restart
from orchestrator.control.decisions import DeviceFault, Level, Outcome
from orchestrator.recovery.situation import HostState, PastAttempt, Situation

NOW = 1_000_000.0
TEAM = ("a", "b", "c", "d")


def attempt(number: int = 1, outcome: Outcome = Outcome.CRASH, **fields: Any) -> PastAttempt:
    """One of 100 s that was the last of `number`, and kept a step unless it is said."""
    ended = NOW - 1 + (number - 10) * 200.0
    started = fields.pop("started", ended - 100)
    given = {"origin": 10 * number, "last_step": 10 * number + 12, "kept": 10 * number + 10, "hosts": TEAM}
    return PastAttempt(number, started, ended, outcome, **{**given, "key": str(outcome), **fields})


def idle(number: int = 1, outcome: Outcome = Outcome.CRASH, **fields: Any) -> PastAttempt:
    """One that has kept nothing new, and ended at a step of its own."""
    return attempt(number, outcome, **{"origin": 10, "kept": None, "last_step": 10 + number, **fields})


def gone(name: str) -> HostState:
    return HostState(name, answers=False, is_gone=True, is_ready=False)


def silent(name: str) -> HostState:
    return HostState(name, answers=False, is_ready=False)


def fault(host: str, device: int, code: str, level: Level, **fields: Any) -> DeviceFault:
    return DeviceFault(host, device, code, level, **{"time": NOW, **fields})


def situation(
    *attempts: PastAttempt,
    policy: Mapping[str, Any] | None = None,
    states: tuple[HostState, ...] = (),
    spares: tuple[str, ...] = (),
    **fields: Any,
) -> Situation:
    """Of a policy with five attempts; the last of `attempts` has just ended."""
    names = {*TEAM, *spares, *(host for each in attempts for host in each.hosts)}
    hosts = {name: HostState(name) for name in names} | {state.name: state for state in states}
    rules = Restart(**{"max": 5, **(policy or {})})
    given = {"wanted": TEAM, "hosts": hosts, "spares": spares}
    return Situation(now=NOW, policy=rules, attempts=attempts, **{**given, **fields})
