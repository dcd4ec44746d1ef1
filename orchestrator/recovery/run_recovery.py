"""The recovery of one run: its situation is looked at, the next attempt decided on and made ready to start.

The monitor tells it what happens (`control/monitor_protocols.Recovery`). What is decided is pure
(`recovery/decide`); here are the questions to hosts, and the bytes that move.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from types import ModuleType
from typing import Any

from orchestrator.config.inventory import Host
from orchestrator.control.attempts import kept_step
from orchestrator.control.decisions import Choice, Decision, DeviceFault, Ground
from orchestrator.control.held_hosts import Held
from orchestrator.control.let_go import LettingGo
from orchestrator.control.run_record import RunRecord
from orchestrator.control.spare_view import SpareState
from orchestrator.control.spares import SpareWatch
from orchestrator.control.start import Staying
from orchestrator.core.ends import EndKind
from orchestrator.core.errors import HostsFailed, OrchestrateError, RunNotFound, TransportError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.diagnosis.evidence import Case
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.plan.launch_plan import LaunchPlan, read_hosts
from orchestrator.recovery.decide import decide
from orchestrator.recovery.read_situation import Now, host_states, situation_of
from orchestrator.recovery.situation import HostState

__all__ = ["RunRecovery", "recovery_of"]

log = logging.getLogger(__name__)
# Hosts that are away are asked so often whether they are back, and held devices are held on to, in seconds.
_LOOK = 15.0
_HOLD = 60.0
_SOON = 1.0
# So long a host is not taken that refused an attempt.
_REFUSED_FOR = 30.0
# So long the end of a monitor waits for hosts that are to let go; those that take longer are asked on.
_LETTING_GO = 5.0
# Ends for which the monitor's own judgement stands: nobody's log tells of them.
_SEEN_BY_US = frozenset({EndKind.HANG, EndKind.NO_FIRST_STEP, EndKind.LOST})


def recovery_of(
    control: ControlDir, plan: LaunchPlan, fleet: Fleet, scheduling: Scheduling
) -> RunRecovery | None:
    """What goes on by itself with a run; None where its job does not ask for that."""
    return RunRecovery(control, plan, fleet, scheduling) if plan.restart.max else None


class RunRecovery:
    """Of one run, over the connections of its monitor; `plan` is that of the attempt in force."""

    def __init__(self, control: ControlDir, plan: LaunchPlan, fleet: Fleet, scheduling: Scheduling) -> None:
        self._control, self._fleet, self._scheduling = control, fleet, scheduling
        self._policy, self._run_id = plan.restart, plan.run_id
        self._wanted = _first_hosts(control, plan)
        self._spares = SpareWatch(fleet, plan, scheduling)
        # Hosts of the run that no attempt uses now: whether they answer, as far as that is known.
        self._answers: dict[str, bool] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._look_at = self._hold_at = 0.0
        self._refuses: dict[str, tuple[str, float]] = {}
        self._fatal: OrchestrateError | None = None
        # What was told when an attempt had ended, and of which: of devices, or all that a diagnosis looks at.
        self._told: tuple[int, tuple[DeviceFault, ...], Case | None] = (0, (), None)
        self._letting_go: LettingGo | None = None
        # Hosts that had not been heard when the attempt ended: back or not, they are looked at again.
        self._unheard: set[str] = set()
        self._counts: tuple[int, ...] | None = None

    # What the monitor tells.

    def begin(self, plan: LaunchPlan) -> None:
        """An attempt of this plan has started."""
        self._fatal = None
        for name in plan.manifests:
            self._answers.pop(name, None)  # what is heard of it from now on is in the record
            self._asked.pop(name, None)
        self._unheard.clear()
        _planning()
        self._spares.hold_all(plan)

    def tend(self, record: RunRecord) -> RunRecord:
        """Once a turn."""
        now = self._scheduling.monotonic()
        self._take_answers()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            used = record.hosts if record.state is not RunState.RESTARTING else {}
            for name in self._fleet.hosts.keys() - used.keys() - self._asked.keys():
                self._asked[name] = self._fleet.begin(lambda agent: agent.clock(), name)
        if record.state is RunState.RESTARTING and now >= self._hold_at:
            # Else supervisors whose workers have ended would let go of the devices.
            self._hold_at = now + min(_HOLD, self._policy.lease / 4)
            for name in self._reachable(record):
                self._fleet.begin(lambda agent: agent.renew(self._run_id), name)
        return self._spares.noted(record, now)

    def decide(self, record: RunRecord, plan: LaunchPlan) -> Decision:
        """What becomes of a run whose attempt has ended."""
        now = self._scheduling.time()
        if self._fatal is not None:
            return Decision(Choice.GIVE_UP, Ground.CANNOT_START, now)
        before = record.attempts[-1].decision
        waits_since = before.time if before is not None and before.choice is Choice.WAIT else None
        self._unheard |= {each.name for each in host_states(record).values() if not each.answers}
        faults, case = self._evidence(record, plan)
        known = Now(
            now,
            self._states(record, plan),
            faults=faults,
            kept=kept_step(record),
            fits=self._fits(plan),
            waits_since=waits_since,
            unreachable=plan.timeouts.unreachable,
        )
        situation = situation_of(record, plan, known if case is None else known.by_evidence(case))
        decision = decide(situation)
        if decision.ground is Ground.TOO_FEW_HOSTS and self._unknown(record):
            # Who may take part has not been heard of yet: this monitor has just begun.
            decision = Decision(Choice.WAIT, Ground.HOSTS_MISSING, now, not_before=now + _SOON)
        if decision.choice is Choice.WAIT and waits_since is not None:
            # Since when it waits is in the record, so that another monitor waits no longer.
            decision = dataclasses.replace(decision, time=waits_since)
        if decision != before:
            log.info("decided: %s", decision)
        return decision

    def next_plan(self, record: RunRecord, plan: LaunchPlan, decision: Decision) -> LaunchPlan:
        """The plan of the attempt that was decided on; the hosts have what it goes on from."""
        chosen = tuple(self._fleet.hosts[name] for name in decision.hosts)
        with self._fleet.part(self._reachable(record, decision.hosts)) as part:
            complete: LaunchPlan = _planning().planned(self._control, record, plan, chosen, part)
        others = tuple(host for name, host in self._fleet.hosts.items() if name not in decision.hosts)
        return dataclasses.replace(complete, spares=others)

    def staying(self, plan: LaunchPlan, before: LaunchPlan, decision: Decision) -> Staying:
        """The hosts that were in the attempt before, on the devices that they had; who failed is suspect."""
        devices = {
            name: manifest.devices
            for name, manifest in before.manifests.items()
            if name in plan.manifests
            and len(manifest.devices) == len(plan.manifests[name].devices)
            and not set(manifest.devices) & set(decision.devices_out.get(name, ()))
        }
        suspects = tuple(name for name in devices if name == decision.host or name in self._unheard)
        meeting = _meeting_of(before) if plan.master.name == before.master.name else None
        if meeting is None and plan.master.name in devices:
            suspects = tuple(dict.fromkeys((*suspects, plan.master.name)))
        return Staying(devices, suspects, meeting, decision.devices_out)

    def failed(self, error: OrchestrateError) -> None:
        """The launch of the attempt that was decided on came to nothing: hosts are to blame, or nobody is."""
        now = self._scheduling.monotonic()
        errors = error.errors if isinstance(error, HostsFailed) else {error.where: error}
        named = {name: each for name, each in errors.items() if name in self._fleet.hosts}
        if not named:
            self._fatal = error
        for name, each in named.items():
            if isinstance(each, TransportError):
                self._answers[name] = False
            else:
                self._refuses[name] = (str(each.what), now)

    def ending(self, record: RunRecord) -> RunRecord:
        """With the hosts that may hold something, who let go by themselves after the lease."""
        names = tuple(dict.fromkeys((*self._reachable(record), *self._spares.names)))
        return dataclasses.replace(record, held=Held(names, self._scheduling.time() + self._policy.lease))

    def let_go(self, record: RunRecord) -> RunRecord:
        """Of a run that is over nothing is held any more."""
        if not record.state.is_terminal:
            return record
        # One that had ended before the record said so: whoever may hold something is asked once.
        held = record.held or self.ending(record).held or Held()
        if self._letting_go is None:
            self._spares.give_up()
            spares = self._fleet.hosts.keys() - record.hosts.keys()
            self._letting_go = LettingGo(self._fleet, self._run_id, held.hosts, spares)
        left = self._letting_go.step(_LETTING_GO) if held.at(self._scheduling.time()) else ()
        if record.held is None or left == held.hosts:
            return record
        return dataclasses.replace(record, held=dataclasses.replace(held, hosts=left))

    def close(self) -> None:
        """Who has not let go is in the record."""
        if self._letting_go is not None:
            self._letting_go.close()

    # What is known of the hosts.

    def _take_answers(self) -> None:
        for name, future in list(self._asked.items()):
            if future.done():
                del self._asked[name]
                self._answers[name] = not future.cancelled() and future.result()[1] is None

    def _reachable(self, record: RunRecord, more: Iterable[str] = ()) -> list[str]:
        """Hosts that can be asked now, as far as it is known."""
        seen = [name for name, view in record.hosts.items() if not view.error and not view.lost]
        others = [name for name in self._fleet.hosts if name not in record.hosts and self._answers.get(name)]
        return list(dict.fromkeys((*seen, *others, *more)))

    def _unknown(self, record: RunRecord) -> list[str]:
        """Hosts that might take part, of which it is not known yet whether they answer."""
        others = [name for name in self._fleet.hosts if name not in record.hosts]
        return [
            name for name in others if name not in self._answers and not self._spares.state_of(name).is_ready
        ]

    def _states(self, record: RunRecord, plan: LaunchPlan) -> dict[str, HostState]:
        """Hosts of the attempt as they were last heard; others by what they have answered since."""
        states = host_states(record)
        for name in self._fleet.hosts:
            if (seen := states.get(name)) is not None:
                newest = self._answers.get(name)
                states[name] = dataclasses.replace(
                    seen,
                    answers=seen.answers if newest is None else newest,
                    is_gone=seen.is_gone and not newest,
                    refuses=self._refusal_of(name),
                    free_devices=_free_devices(self._fleet.hosts[name], record, plan),
                )
                continue
            spare = self._spares.state_of(name)
            answers = self._answers.get(name, False) or spare.is_ready
            unfit = spare.why if spare.state is SpareState.UNFIT else ""
            states[name] = HostState(
                name,
                answers=answers,
                is_ready=answers and not unfit,
                refuses=self._refusal_of(name) or unfit,
            )
        return states

    def _fits(self, plan: LaunchPlan) -> tuple[int, ...]:
        """Numbers of hosts, fewer than all, on which the job can be laid out."""
        if self._policy.min_hosts is None or plan.job is None:
            return ()
        if self._counts is None:
            self._counts = _planning().counts_that_fit(plan, self._wanted)
        return self._counts

    def _evidence(self, record: RunRecord, plan: LaunchPlan) -> tuple[tuple[DeviceFault, ...], Case | None]:
        """What devices told when the attempt had ended; where it is not sure who failed, the evidence of all
        hosts that answer, which has them in it. They are asked once."""
        number = record.attempts[-1].number
        if record.state is RunState.FAILED and self._told[0] != number:
            heard = [name for name in self._reachable(record) if self._answers.get(name, True)]
            if _is_doubtful(record):
                own = [name for name in heard if name in plan.manifests]
                self._told = (number, (), _asking().ask_for_evidence(self._fleet, record, plan, own))
            elif plan.ascend:
                told = _asking().ask_devices(self._fleet, plan, heard, self._scheduling.time())
                self._told = (number, told, None)
        return self._told[1:] if self._told[0] == number else ((), None)

    def _refusal_of(self, name: str) -> str:
        what, since = self._refuses.get(name, ("", 0.0))
        return what if what and self._scheduling.monotonic() < since + _REFUSED_FOR else ""


def _planning() -> ModuleType:
    # Late, but before the run has failed: it brings in numpy, which no launch needs.
    from orchestrator.recovery import plan_attempt

    return plan_attempt


def _asking() -> ModuleType:
    # Late: many a run never fails, and most of those that do tell by whom.
    from orchestrator.recovery import ask_devices

    return ask_devices


def _is_doubtful(record: RunRecord) -> bool:
    """Whether an attempt crashed, and the hosts' first words do not say outright by whom."""
    cause = record.cause
    return cause is not None and not cause.sure and cause.end.kind not in _SEEN_BY_US


def _first_hosts(control: ControlDir, plan: LaunchPlan) -> tuple[Host, ...]:
    """The hosts that the run was launched on."""
    if plan.attempt.number == 1:
        return plan.hosts
    try:
        return read_hosts(control.plan_of(1)).hosts
    except RunNotFound:
        return plan.hosts


def _free_devices(host: Host, record: RunRecord, plan: LaunchPlan) -> int:
    """How many of a host's devices the run neither uses nor has given up; whether others use them is asked
    when the attempt is made ready."""
    used = set(plan.manifests[host.name].devices) if host.name in plan.manifests else set()
    for attempt in record.attempts:
        if attempt.decision is not None:
            used |= set(attempt.decision.devices_out.get(host.name, ()))
    return len({device.id for device in host.devices} - used)


def _meeting_of(plan: LaunchPlan) -> str | None:
    scheduler: Mapping[str, str] = {}
    found = plan.manifests[plan.master.name].scheduler
    if found is not None:
        scheduler = found.env
    return scheduler.get("MS_SCHED_HOST")
