"""One run from its plan to its end, as the monitor process lives it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence

from orchestrator.control.run_record import RunRecord, failed_launch, read_record, write_record
from orchestrator.control.start import check_hosts, start_run
from orchestrator.control.watch import Watch
from orchestrator.core.errors import AgentError, Interrupted, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.allocation import WAITED_FOR, Allocation, StaticAllocation
from orchestrator.hosts.fleet import Fleet, error_lines
from orchestrator.plan.launch_plan import read_plan, write_plan

__all__ = ["Monitor"]

log = logging.getLogger(__name__)
_INTERVAL = 0.5


class Monitor:
    """Launches and watches one run, writing its record at every turn.

    `allocation` are its hosts, by default those of its plan, which are always there. They are given back when
    the run has ended.
    """

    def __init__(self, control: ControlDir, allocation: Allocation | None = None) -> None:
        self._control = control
        self._plan = read_plan(control.plan)
        self._allocation = allocation or StaticAllocation(self._plan.hosts, self._plan.ssh)
        self._record = read_record(control)

    def run(self, *, watch_only: bool) -> None:
        """Launch, unless only watching is asked for, then watch until the run has ended."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._give_back)
            try:
                fleet = stack.enter_context(self._granted())
                if watch_only:
                    self._find_again(fleet)
                else:
                    self._plan = check_hosts(self._plan, fleet, self._report, self._warn)
                    write_plan(self._control.plan, self._plan)
                    start_run(self._plan, fleet, self._report)
            except KeyboardInterrupt:
                self._fail(Interrupted("the launch was interrupted and has been undone"))
                return
            except OrchestrateError as error:
                self._fail(error)
                return
            except Exception as error:
                log.exception("the launch broke off")
                self._fail(
                    OrchestrateError(f"internal error: {error!r}", where=str(self._control.monitor_log))
                )
                raise
            self._watch(fleet)

    def _granted(self) -> Fleet:
        """The hosts, once they are ours."""
        while self._allocation.state in WAITED_FOR:
            self._report(f"waiting for hosts ({self._allocation.state})")
            time.sleep(_INTERVAL)
        return self._allocation.fleet()

    def _give_back(self) -> None:
        if self._record.state.is_terminal:
            self._allocation.release()

    def _watch(self, fleet: Fleet) -> None:
        self._save(dataclasses.replace(self._record, state=RunState.STARTING, phase="starting"))
        watch = Watch(self._record, fleet, self._plan.timeouts)
        try:
            while not self._record.state.is_terminal:
                self._save(watch.step())
                time.sleep(_INTERVAL)
        except KeyboardInterrupt:
            log.info("the monitor was told to end; the run goes on")
        finally:
            watch.close()

    def _find_again(self, fleet: Fleet) -> None:
        """Make sure that a run whose monitor died has got off the ground; else say that it has not."""
        answers = fleet.each(lambda agent: agent.status(self._plan.run_id))
        unknown = [
            host
            for host, error in answers.errors.items()
            if isinstance(error, AgentError) and error.kind == "no_run"
        ]
        if unknown and not answers.values:
            raise OrchestrateError(
                "the launch broke off before the run had started", remedy="launch it again"
            )

    def _report(self, phase: str) -> None:
        self._save(dataclasses.replace(self._record, phase=phase, updated=time.time()))

    def _warn(self, warnings: Sequence[str]) -> None:
        for line in warnings:
            log.warning(line)
        self._save(dataclasses.replace(self._record, warnings=tuple(warnings)))

    def _fail(self, error: OrchestrateError) -> None:
        self._save(failed_launch(self._record, error_lines(error), error.exit_code))

    def _save(self, record: RunRecord) -> None:
        self._record = record
        write_record(self._control, record)
