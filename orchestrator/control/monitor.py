"""One run from its plan to its end, as the monitor process lives it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
from collections.abc import Callable, Iterator, Sequence

from orchestrator.config.inventory import Host
from orchestrator.control.attempts import came_to_nothing, ended_again, next_record, told_why, with_decision
from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.fence import Fence, FleetOf
from orchestrator.control.finish_launch import finish_or_undo
from orchestrator.control.found_runs import free_of_what_is_over
from orchestrator.control.monitor_process import explained
from orchestrator.control.monitor_protocols import Recovery, RecoveryOf, Verbs
from orchestrator.control.monitor_socket import MonitorSocket
from orchestrator.control.next_attempt import plan_in_force, put_next_in_force
from orchestrator.control.our_claim import address_of
from orchestrator.control.record_journal import RecordWriter
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.start import Staying, check_hosts, start_run
from orchestrator.control.watch import Watch
from orchestrator.core.errors import Interrupted, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.allocation import WAITED_FOR, Allocation, StaticAllocation
from orchestrator.hosts.fleet import Fleet, error_lines, fleet_of
from orchestrator.hosts.scheduling import SYSTEM, Scheduling
from orchestrator.plan.launch_plan import LaunchPlan, write_plan

__all__ = ["Monitor"]

log = logging.getLogger(__name__)
_INTERVAL = 0.5
_LEFTOVERS_INTERVAL = 2.0
_LAST_WORD = 10.0
# A turn waits at most so long for something to happen. The next one begins no sooner than that later: what a
# thousand hosts say at once is then taken together.
_PATIENCE = 5.0
_PACE = 0.1
# The hosts of a run that has a lease are told so often, in seconds, that it is watched; at most.
_RENEWED = 60.0
# While missing hosts are waited for, it is looked so often whether they are back.
_LOOK_AGAIN = 2.0
_NOBODY = Staying()
_SEEN_ON_DISK = 1.0  # without a socket, by those who look on


class Monitor:
    """Launches and watches one run, its attempts one after the other, and writes down what has changed.

    `allocation` are its hosts, by default those of its plan and those that stand ready, which are always
    there. They are given back when the run has ended. Time and threads are those of `scheduling`.
    `has_socket`: verbs can ask it (by threads of their own, which `scheduling` does not know); `verbs` stands
    for that socket. `told` is given every record; `fleet_of` connects to hosts of attempts before.
    `recovery_of` makes what goes on by itself, or nothing where the job does not ask for that.
    """

    def __init__(
        self,
        control: ControlDir,
        allocation: Allocation | None = None,
        *,
        scheduling: Scheduling = SYSTEM,
        has_socket: bool = False,
        verbs: Verbs | None = None,
        told: Callable[[RunRecord], None] = lambda record: None,
        fleet_of: FleetOf = fleet_of,
        recovery_of: RecoveryOf = lambda control, plan, fleet, scheduling: None,
    ) -> None:
        self._control = control
        self._scheduling = scheduling
        self._record = dataclasses.replace(read_record(control), elsewhere="")
        self._plan = plan_in_force(control, self._record)
        self._fleet_of, self._recovery_of = fleet_of, recovery_of
        self._fence: Fence | None = None
        self._recovery: Recovery | None = None
        self._allocation = allocation or StaticAllocation(_all_hosts(self._plan), self._plan.ssh)
        self._writer = RecordWriter(control, clock=scheduling.monotonic)
        self._told = told
        self._is_unwritten = self._has_started = False
        self._socket = verbs
        if has_socket:
            timeouts = self._plan.timeouts
            self._socket = MonitorSocket(control, grace=timeouts.grace, connect=timeouts.connect)

    def run(self, *, watch_only: bool) -> None:
        """Launch, unless only watching is asked for, then watch until the run has ended."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._give_back)
            stack.callback(self._writer.close)
            if self._socket is not None:
                stack.callback(self._socket.close)
                if not self._socket.open():
                    self._writer.every = _SEEN_ON_DISK
                self._socket.tell(self._record)
            fleet = self._begun(stack, watch_only)
            if fleet is None:
                return
            with _told_to_end():
                self._watch(fleet)
                while self._restarts:
                    self._go_on(fleet)
                    self._watch(fleet)

    def _begun(self, stack: contextlib.ExitStack, watch_only: bool) -> Fleet | None:
        """The fleet of a run that has been launched or found again; None where there is nothing to watch."""
        try:
            fleet = stack.enter_context(self._granted())
            self._recovery = self._recovery_of(self._control, self._plan, fleet, self._scheduling)
            stack.callback(self._end_recovery)
            self._fence_in(fleet)
            stack.callback(self._fence_out)
            if watch_only:
                # A run that has started is watched on.
                if self._record.state is RunState.PREPARING:
                    finish_or_undo(fleet.part(self._plan.manifests), self._plan.run_id)
            else:
                self._launch(fleet)
        except KeyboardInterrupt:
            if self._has_started:
                self._note_start()  # it came too late to undo anything: the run goes on
            elif not watch_only:
                self._fail(Interrupted("the launch was interrupted and has been undone"))
            return None
        except Exception as error:
            if self._record.state is not RunState.PREPARING:
                raise  # only the watch is over: the run goes on
            self._fail(explained(self._control, error))
            if not self._restarts:
                return None
            # The attempt before is in force again, and the next one is the one after it.
            self._plan = plan_in_force(self._control, self._record)
            self._fence_in(fleet)
        return fleet

    @property
    def _restarts(self) -> bool:
        return self._record.state is RunState.RESTARTING

    def _fence_in(self, fleet: Fleet) -> None:
        """From now on what is asked means the attempt in force; those before are fenced off."""
        fleet.address(address_of(self._record))
        self._fence_out()
        self._fence = Fence(self._control, self._record, fleet, self._fleet_of, self._scheduling)

    def _fence_out(self) -> None:
        if self._fence is not None:
            self._fence.close()
            self._fence = None

    def _let_go(self) -> bool:
        """Of a run that is over nothing is held any more; whether what is left of that is written."""
        if self._recovery is None or (record := self._recovery.let_go(self._record)) is self._record:
            return True
        return self._save(record)

    def _end_recovery(self) -> None:
        if self._recovery is not None:
            try:
                self._let_go()
            finally:
                self._recovery.close()

    def _launch(self, fleet: Fleet, staying: Staying = _NOBODY) -> None:
        """Until the run has started its record and plan must be written: else nobody could find it again."""
        self._has_started = False
        if self._fence is not None and not self._fence.is_down and staying is _NOBODY:
            self._report("ending what is left of attempts before")
            self._fence.close_in()
            self._record = self._fence.noted(self._record)
        with fleet.part(self._plan.manifests) as part:
            free = functools.partial(free_of_what_is_over, part, runs=self._control.runs)
            self._plan = check_hosts(self._plan, part, self._report, self._warn, free, staying=staying)
            write_plan(self._control.plan, self._plan)
            start_run(self._plan, part, self._report)
            self._has_started = True
        self._note_start()

    def _note_start(self) -> None:
        self._save(dataclasses.replace(self._record, state=RunState.STARTING, phase="starting"))

    def _granted(self) -> Fleet:
        """The hosts, once they are ours."""
        while self._allocation.state in WAITED_FOR:
            self._report(f"waiting for hosts ({self._allocation.state})")
            self._scheduling.sleep(_INTERVAL)
        return self._allocation.fleet()

    def _give_back(self) -> None:
        if self._record.state.is_terminal:
            self._allocation.release()

    def _watch(self, fleet: Fleet) -> None:
        """Until the attempt in force has ended and the record says what becomes of the run; of a run that is
        over until nothing is left on hosts that it had lost."""
        if self._restarts:
            return
        if self._record.state.is_terminal:
            fleet.address(address_of(self._record))
            self._let_go()
        elif self._recovery is not None:
            self._recovery.begin(self._plan)
        part = fleet.part(self._plan.manifests)
        watch = self._watch_of(part)
        if self._socket is not None:
            self._socket.attend(watch)
        written = True
        try:
            while self._record.needs_monitor_at(self._scheduling.time()) or not written:
                begun = self._scheduling.monotonic()
                with _logged("a turn of the watch broke off"):
                    watch.record = self._judged(watch.step(_PATIENCE))
                    if watch.record.state.is_terminal and not self._record.state.is_terminal:
                        fleet.address(address_of(watch.record))  # from now on it is over wherever it is met
                    written = self._save(watch.record)
                    if self._record.state.is_terminal:
                        written = self._let_go() and written  # not only when nothing is left on lost hosts
                        watch.record = self._record
                if self._restarts:
                    break
                self._scheduling.sleep(self._rest(begun, written))
        finally:
            if self._socket is not None:
                self._socket.attend(None)
            # What is under way over its sessions is taken first: others ask over them after it.
            watch.hand_back() if self._recovery is not None else watch.close()
            part.close()

    def _judged(self, record: RunRecord) -> RunRecord:
        """The record of a turn, with what attempts before and what stands ready have to tell."""
        if self._fence is not None and not self._fence.is_down:
            record = self._fence.step(record)
        if self._recovery is not None and not record.state.is_terminal:
            record = self._recovery.tend(record)
        if record.state.is_terminal and not self._record.state.is_terminal:
            record = self._decided(record)
        return record

    def _watch_of(self, fleet: Fleet) -> Watch:
        placed = {
            name: frozenset(worker.rank for worker in manifest.workers)
            for name, manifest in self._plan.manifests.items()
        }
        restart = self._plan.restart
        return Watch(
            self._record,
            fleet,
            self._plan.timeouts,
            placed=placed,
            scheduling=self._scheduling,
            health=self._plan.health,
            stages={item.rank: item.pp for item in self._plan.placements},
            stacks_file=self._control.hang_stacks,
            ends_hangs=restart.ends_hangs,
            renew_every=min(restart.lease / 4, _RENEWED) if restart.max else None,
        )

    # The next attempt.

    def _decided(self, record: RunRecord) -> RunRecord:
        """The record of an attempt that has ended, with what becomes of the run."""
        if self._recovery is None:
            return record
        try:
            decision = self._recovery.decide(record, self._plan)
        except Exception:
            # Else the run would neither go on nor end, in whichever monitor.
            log.exception("how the run goes on cannot be decided")
            decision = Decision(Choice.GIVE_UP, Ground.CANNOT_START, self._scheduling.time())
        record = with_decision(record, decision)
        return self._recovery.ending(record) if record.state.is_terminal else record

    def _go_on(self, fleet: Fleet) -> None:
        """Carry out what was decided, which is written down; where that comes to nothing decide again."""
        recovery = self._recovery
        decision = self._record.attempts[-1].decision
        if recovery is None or decision is None:
            raise OrchestrateError(f"run {self._plan.run_id} restarts, and its plan has no policy for that")
        now = self._scheduling.time()
        if decision.choice is Choice.WAIT or now < decision.not_before:
            with _logged("a turn of waiting broke off"):
                self._save(recovery.tend(self._record))
            self._scheduling.sleep(min(_LOOK_AGAIN, max(0.05, decision.not_before - now)))
            if decision.choice is Choice.WAIT:
                self._save(self._decided(ended_again(self._record)))
            return
        before, self._has_started = self._plan, False
        try:
            self._report("planning")
            plan = recovery.next_plan(self._record, before, decision)
            put_next_in_force(self._control, self._record, plan, self._scheduling.time())
            self._record = next_record(self._record, plan, self._scheduling.time())
            self._plan = plan
            self._fence_in(fleet)
            self._launch(fleet, recovery.staying(plan, before, decision))
        except KeyboardInterrupt:
            if not self._has_started:
                self._take_back(before, Interrupted("the launch was interrupted and has been undone"))
            raise
        except Exception as error:
            found = explained(self._control, error)
            log.warning("the next attempt came to nothing: %s", found)
            self._take_back(before, found)
            self._fence_in(fleet)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._save(self._record)  # it may be written that this attempt is in force
                self._scheduling.sleep(_LOOK_AGAIN)
                return  # what was decided stands, and is done once there is room
            recovery.failed(found)
            decided = self._decided(ended_again(self._record))
            self._save(told_why(decided, error_lines(found), found.exit_code, self._scheduling.time()))

    def _take_back(self, before: LaunchPlan, error: OrchestrateError) -> None:
        if self._record.state is RunState.PREPARING:
            self._fail(error)
        self._plan = before

    def _rest(self, begun: float, written: bool) -> float:
        """Seconds until the next turn, of one that began then."""
        if not self._record.state.is_terminal:
            return max(0.0, begun + (_PACE if written else _INTERVAL) - self._scheduling.monotonic())
        if self._record.needs_monitor_at(self._scheduling.time()):
            return _LEFTOVERS_INTERVAL
        return 0.0 if written else _INTERVAL

    def _report(self, phase: str) -> None:
        self._write(dataclasses.replace(self._record, phase=phase, updated=self._scheduling.time()))

    def _warn(self, warnings: Sequence[str]) -> None:
        for line in warnings:
            log.warning(line)
        self._write(dataclasses.replace(self._record, warnings=tuple(warnings)))

    def _fail(self, error: OrchestrateError) -> None:
        """Write down why nothing was started, as soon as there is room for it."""
        number, now = self._record.attempts[-1].number, self._scheduling.time()
        record = came_to_nothing(self._control, self._record, error_lines(error), error.exit_code, now)
        deadline = self._scheduling.monotonic() + _LAST_WORD
        is_taken_back = record.attempts[-1].number != number
        if is_taken_back:
            with contextlib.suppress(OSError):  # the record says which it is
                self._control.put_in_force(record.attempts[-1].number)
        with contextlib.suppress(KeyboardInterrupt):
            while not (written := self._save(record)) and self._scheduling.monotonic() < deadline:
                self._scheduling.sleep(_INTERVAL)
            if is_taken_back and written:
                self._control.discard(number)

    def _write(self, record: RunRecord) -> None:
        """Keep and write the record. Raises OSError where that cannot be."""
        self._record = dataclasses.replace(record, watched=self._scheduling.time(), unwatched=None)
        self._told(self._record)
        if self._socket is not None:
            self._socket.tell(self._record)
        self._writer.save(self._record)

    def _save(self, record: RunRecord) -> bool:
        """As `_write`, but that the disk is full for a while ends no watch: the next turn writes again."""
        try:
            self._write(record)
        except OSError as error:
            if not self._is_unwritten:
                log.warning("the record cannot be written: %s", error)
            self._is_unwritten = True
            return False
        self._is_unwritten = False
        return True


def _all_hosts(plan: LaunchPlan) -> tuple[Host, ...]:
    """Those of the attempt in force, and those that stand ready."""
    return (*plan.hosts, *plan.spares)


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """The monitor may be ended at any time; what it watches goes on, and what it had begun was undone."""
    try:
        yield
    except KeyboardInterrupt:
        log.info("the monitor was told to end; the run goes on")


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """A bug in one turn, say of what one host's words led to, must not leave the run without a watch."""
    try:
        yield
    except Exception:
        log.exception(what)
