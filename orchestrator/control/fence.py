"""The fence between attempts: on hosts that answer, those before are dead before the next one starts.

A host that does not answer may still run one. It is asked again and again while the run is watched, and
ends it at the first contact; so does whatever else asks it about the run, see agent/attempt_guard.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.control.attempts import with_news_of
from orchestrator.control.run_record import AttemptRecord, RunRecord
from orchestrator.core.claims import Tombstone
from orchestrator.core.errors import AgentError, HostsFailed, OrchestrateError, RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.core.states import RunState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.plan.launch_plan import read_hosts

__all__ = ["Fence", "FleetOf", "stone_of"]

log = logging.getLogger(__name__)
FleetOf = Callable[[Sequence[Host], SshOptions], Fleet]

_PATIENCE = 60.0  # for a host to end what it runs, beyond the grace period
_AGAIN = 15.0


def stone_of(record: RunRecord, attempt: AttemptRecord, now: float) -> Tombstone:
    """What hosts are told of an attempt that another has followed."""
    state = f"attempt {record.attempts[-1].number} follows"
    return Tombstone(record.run_id, Attempt(attempt.number, attempt.token), state, record.claim, now)


class Fence:
    """The attempts of a run before the one in force, as far as they may still run somewhere.

    `fleet` are the hosts of the attempt in force; `fleet_of` makes connections to others. While a launch is
    under way all hosts of the attempt before are asked, later those that have not answered.
    """

    def __init__(
        self, control: ControlDir, record: RunRecord, fleet: Fleet, fleet_of: FleetOf, scheduling: Scheduling
    ) -> None:
        self._record, self._fleet, self._scheduling = record, fleet, scheduling
        self._stones: dict[str, Tombstone] = {}
        self._patience = _PATIENCE
        # By attempt the hosts that have not said that nothing of it runs there.
        self.left: dict[int, list[str]] = {}
        others: dict[str, Host] = {}
        ssh: SshOptions | None = None
        is_launch = record.state is RunState.PREPARING and len(record.attempts) > 1
        # Where the run goes on by itself it is known which hosts have ended, and they keep their devices.
        goes_on = (
            is_launch and (decided := record.attempts[-2].decision) is not None and decided.choice.goes_on
        )
        newest = record.attempts[-2].number if is_launch and not goes_on else 0
        for attempt in reversed(record.attempts[:-1]):
            names = attempt.hosts if attempt.number == newest else attempt.left
            hosts = _hosts(control, attempt, names)
            if hosts is None:
                continue
            known, ssh = hosts
            self.left[attempt.number] = list(known)
            for name, host in known.items():
                self._stones.setdefault(name, stone_of(record, attempt, scheduling.time()))
                if fleet.hosts.get(name) != host:
                    others.setdefault(name, host)
        self._others = fleet_of(list(others.values()), ssh) if others and ssh is not None else None
        if self._others is not None:
            self._others.address(*fleet.addresses)
        self._asked: dict[str, Future[Any]] = {}
        self._said: dict[str, str] = {}
        self._due = 0.0

    @property
    def is_down(self) -> bool:
        """Whether nothing is behind it any more."""
        return not self._stones

    def close_in(self) -> None:
        """End what is left of the attempts before on every host that answers.

        Raises the errors of hosts that answer, and on which it does not end or another control node acts.
        """
        answers: dict[str, OrchestrateError | None] = {}
        for fleet, names in self._fleets():
            found = fleet.each(self._bury, names)
            answers.update(dict.fromkeys(found.values))
            answers.update(found.errors)
        refused = {name: error for name, error in answers.items() if isinstance(error, AgentError)}
        for name, error in answers.items():
            if error is None:
                self._forget(name)
        if refused:
            raise HostsFailed.of(refused)
        self._due = self._scheduling.monotonic() + _AGAIN

    def step(self, record: RunRecord) -> RunRecord:
        """Ask hosts that have not answered yet once more, if it is time; the record with what is known."""
        for name, future in list(self._asked.items()):
            if not future.done():
                continue
            del self._asked[name]
            _, error = future.result() if not future.cancelled() else (None, OrchestrateError("cancelled"))
            if error is None:
                self._forget(name)
            elif isinstance(error, AgentError):
                self._refused(name, error)
        now = self._scheduling.monotonic()
        if now >= self._due and self._stones:
            self._due = now + _AGAIN
            for fleet, names in self._fleets():
                for name in names:
                    if name not in self._asked:
                        self._asked[name] = fleet.begin(self._bury, name)
        return self.noted(record)

    def _refused(self, name: str, error: AgentError) -> None:
        if self._said.get(name) != error.what:  # it is asked again and again, and says the same
            log.warning("%s: %s", name, error.what)
        self._said[name] = error.what
        if error.kind == "claim":
            self._stones.clear()  # another control node looks after the run

    def noted(self, record: RunRecord) -> RunRecord:
        """The record with the hosts of which it is not known that nothing runs there."""
        for number, names in self.left.items():
            if tuple(names) != next((e.left for e in record.attempts if e.number == number), ()):
                record = with_news_of(record, number, names)
        return record

    def close(self) -> None:
        if self._others is not None:
            self._others.close()

    def _fleets(self) -> Iterable[tuple[Fleet, list[str]]]:
        others = self._others.hosts if self._others is not None else {}
        yield self._fleet, [name for name in self._stones if name not in others]
        if self._others is not None:
            yield self._others, [name for name in self._stones if name in others]

    def _bury(self, agent: Agent) -> None:
        try:
            agent.bury(self._stones[agent.host], timeout=self._patience)
        except AgentError as error:
            # In the place of what was over is a later one, or nothing.
            if error.kind not in ("no_run", "newer_attempt"):
                raise

    def _forget(self, name: str) -> None:
        self._stones.pop(name, None)
        for names in self.left.values():
            if name in names:
                names.remove(name)


# Of attempts with hosts that have been away for long: those hosts, which each later attempt asks for.
_kept: dict[tuple[Path, str], tuple[Mapping[str, Host], SshOptions]] = {}
_MOST_KEPT = 1000


def _hosts(
    control: ControlDir, attempt: AttemptRecord, names: Sequence[str]
) -> tuple[Mapping[str, Host], SshOptions] | None:
    """The hosts of these names in the plan of an attempt that is over, which is the same for ever."""
    if not names:
        return None
    key = (control.plan_of(attempt.number), attempt.token)
    known = _kept.get(key)
    if known is None or not known[0].keys() >= set(names):
        try:
            plan = read_hosts(key[0])
        except RunNotFound as error:
            log.warning("what attempt %s may have left cannot be looked at: %s", attempt.number, error)
            return None
        known = {host.name: host for host in plan.hosts if host.name in names}, plan.ssh
        if len(known[0]) <= _MOST_KEPT:
            _kept[key] = known
        while len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    hosts, ssh = known
    return {name: hosts[name] for name in names if name in hosts}, ssh
