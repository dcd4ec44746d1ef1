"""The watch over a run's spares: they are checked, prepared and held ready, and nothing waits for them.

A spare that fails its check or stops answering is noted and tried again. It never fails the run.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from concurrent.futures import Future

from orchestrator.control.check_spare import DevicesBusy, check_spare, facts_of_master, free_devices
from orchestrator.control.run_record import RunRecord
from orchestrator.control.spare_view import SpareState, SpareView
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from orchestrator.core.spare_records import SpareAnswer, Warmth
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.push_content import content_files, push_missing
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.preflight.host_facts import HostFacts

__all__ = ["SpareWatch"]

log = logging.getLogger(__name__)

# Of seconds, at most, between two renewals; between two looks at one that still imports; until one whose
# devices were in use is checked again, and one that was found to be unfit.
_RENEWED, _IMPORTING, _BUSY, _UNFIT = 60.0, 5.0, 30.0, 300.0
# In which an agent that is there has answered what costs nothing.
_PATIENCE = 30.0

# Our own file there, of which a message of Python's begins with a folder and the hash.
_AGENT_FILE = re.compile(r"[^\s'\":]*/[0-9a-f]{64}\.pyz")

Outcome = tuple[SpareAnswer, None] | tuple[None, OrchestrateError]


class SpareWatch:
    """Of one run, over a fleet that has its hosts and its spares. To be called by one thread.

    The plan is that of the attempt in force; each later one is told with `hold_all`. Nothing here waits for a
    host.
    """

    def __init__(self, fleet: Fleet, plan: LaunchPlan, scheduling: Scheduling) -> None:
        self._fleet, self._plan, self._scheduling = fleet, plan, scheduling
        self._views: dict[str, SpareView] = {}
        self._asked: dict[str, Future[Outcome]] = {}
        self._due: dict[str, float] = {}
        self._every = min(plan.restart.lease / 4, _RENEWED)
        # The facts of the run's first host, which may be another one in the next attempt.
        self._known: tuple[str, HostFacts | None] = ("", None)
        self._is_released = False

    @property
    def states(self) -> Mapping[str, SpareView]:
        """Every spare that the run has or has had."""
        return dict(self._views)

    def state_of(self, name: str) -> SpareView:
        """How a spare is; of a host that is none, that it is not looked at."""
        return self._views.get(name, SpareView())

    def hold_all(self, plan: LaunchPlan | None = None) -> None:
        """Begin to hold the spares of this plan; those that it has as hosts are used."""
        self._plan, self._is_released = plan or self._plan, False
        for host in self._plan.hosts:
            if host.name in self._views:
                self._note(host.name, SpareState.USED)
        for spare in self._plan.spares:
            if self.state_of(spare.name).state is SpareState.USED or spare.name not in self._views:
                self._note(spare.name, SpareState.CHECKING)
                self._due[spare.name] = -1.0
        self.look(self._scheduling.monotonic())

    def look(self, now: float) -> None:
        """Take what hosts have answered, and ask those that are due; `now` is of the monotonic clock."""
        for name, future in list(self._asked.items()):
            if future.done():
                del self._asked[name]
                self._take(name, future, now)
        if self._is_released:
            return
        for name in self._names():
            if name not in self._asked and self._due.get(name, -1.0) <= now:
                renews = self._views[name].is_ready or self._views[name].state is SpareState.AWAY
                self._asked[name] = self._fleet.begin(self._renew if renews else self._hold, name)

    def noted(self, record: RunRecord, now: float) -> RunRecord:
        """As `look`; the record with what is known of the spares."""
        self.look(now)
        return record if record.spares == self._views else dataclasses.replace(record, spares=self.states)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are held, or are to be: also those that only a monitor before has looked at."""
        unseen = [host.name for host in self._plan.spares if host.name not in self._views]
        return (*self._names(), *unseen)

    def give_up(self) -> None:
        """None is wanted any more: what is under way is taken back. Who holds is told by `LettingGo`."""
        self._is_released = True
        self._views.clear()

    def _names(self) -> list[str]:
        """Those that are held, or are to be."""
        return [name for name, view in self._views.items() if view.state is not SpareState.USED]

    # What hosts are asked, by other threads.

    def _renew(self, agent: Agent) -> SpareAnswer:
        try:
            return agent.spare_renew(self._plan.run_id, timeout=_PATIENCE)
        except AgentError as error:
            if error.kind != "no_spare":
                raise
        return self._hold(agent)

    def _hold(self, agent: Agent) -> SpareAnswer:
        """Check, bring and hold; one that is held already, by a monitor before this one, stays as it is."""
        plan, spare = self._plan, self._fleet.hosts[agent.host]
        try:
            return agent.spare_renew(plan.run_id, timeout=_PATIENCE)
        except AgentError as error:
            if error.kind not in ("no_spare", "unknown_verb"):
                raise
        first, known = self._known
        if known is None or first != plan.master.name:
            known = facts_of_master(plan, self._fleet)
            self._known = plan.master.name, known
        devices = free_devices(plan, agent, spare)
        check_spare(plan, self._fleet, spare, devices, known)
        sources = content_files(plan.sources, may_be_gone=True)
        if sources:
            push_missing(agent, sources, timeout=plan.timeouts.prepare)
        if self._is_released:
            raise AgentError("it is not wanted any more", where=spare.name)
        held = agent.spare_hold(
            plan.run_id,
            devices,
            spare.lock_dir,
            lease=plan.restart.lease,
            # What is in an image a process of the host cannot import.
            packages=plan.packages if spare.container is None else (),
            env_script=spare.env_script if spare.container is None else None,
            inputs=sorted(sources),
            timeout=plan.timeouts.prepare,
        )
        if self._is_released:
            agent.spare_release(plan.run_id)
        return held

    # What becomes of it.

    def _take(self, name: str, future: Future[Outcome], now: float) -> None:
        self._due[name] = now + self._every
        if future.cancelled() or self.state_of(name).state is SpareState.USED or name not in self._views:
            return
        try:
            answer, error = future.result()
        except Exception as broken:
            log.exception("a spare could not be looked at")
            answer, error = None, OrchestrateError(f"internal error: {broken!r}", where=name)
        if isinstance(error, TransportError):
            self._note(name, SpareState.AWAY, error.what)
        elif error is not None:
            self._due[name] = now + (_BUSY if isinstance(error, DevicesBusy) else _UNFIT)
            self._note(name, SpareState.UNFIT, error.what)
        elif answer is not None and answer.warmth is Warmth.IMPORTING:
            self._due[name] = now + min(self._every, _IMPORTING)
            self._note(name, SpareState.HELD, "", answer.devices)
        elif answer is not None:
            trouble = f"cannot import beforehand: {answer.trouble}" if answer.trouble else ""
            self._note(name, SpareState.READY, trouble, answer.devices)

    def _note(self, name: str, state: SpareState, why: str = "", devices: tuple[int, ...] = ()) -> None:
        why = _AGENT_FILE.sub("agent.pyz", why)
        before = self._views.get(name)
        if before is not None and (before.state, before.why, before.devices) == (state, why, devices):
            return
        if state in (SpareState.AWAY, SpareState.UNFIT):
            log.warning("spare %s is %s: %s", name, state, why)
        is_same = before is not None and before.state is state
        since = before.since if before is not None and is_same else self._scheduling.time()
        self._views[name] = SpareView(state, since, why, devices)
