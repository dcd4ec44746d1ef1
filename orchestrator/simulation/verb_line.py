"""The line of verbs to a simulated monitor, in the place of its socket, and by the world's clock."""

from __future__ import annotations

from orchestrator.config.run_terms import Timeouts
from orchestrator.control.monitor_socket import Watched
from orchestrator.control.run_record import RunRecord
from orchestrator.control.stop_progress import StopProgress
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.states import RunState
from orchestrator.hosts.scheduling import Scheduling

__all__ = ["VerbLine"]

_LOOK = 0.1
_LAST_WORD = 5.0


class VerbLine:
    """What `control.monitor_socket` does for one monitor; who waits looks for news ten times a second."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._grace, self._patience = timeouts.grace, timeouts.connect + 5.0
        self._record: RunRecord | None = None
        self._watch: Watched | None = None
        self.is_open = False

    def open(self) -> bool:
        self.is_open = True
        return True

    def tell(self, record: RunRecord) -> None:
        self._record = record

    def attend(self, watch: Watched | None) -> None:
        self._watch = watch

    def close(self) -> None:
        """The monitor has ended, or is dead."""
        self.is_open = False

    def stop(
        self, reason: StopReason, scheduling: Scheduling
    ) -> tuple[RunRecord, dict[str, OrchestrateError]] | None:
        """As `monitor_client.stop_by_monitor`: None where the monitor is gone before it is done."""
        watch = self._watch
        if watch is None or self._newest.state is RunState.PREPARING:
            return None
        watch.stop(reason)
        watch.wake()
        progress = StopProgress(self._grace, self._patience, scheduling.monotonic())
        while True:
            was_open, record = self.is_open, self._newest
            progress.note(record, scheduling.monotonic())
            if progress.is_done(record) or watch.refusals:
                break
            if not was_open:
                return None
            scheduling.sleep(_LOOK)
        errors = {**watch.refusals} or progress.errors(record)
        deadline = scheduling.monotonic() + _LAST_WORD
        while not (errors or self._newest.state.is_terminal) and scheduling.monotonic() < deadline:
            if not self.is_open:
                break
            scheduling.sleep(_LOOK)
        return self._newest, errors

    def newest(self) -> RunRecord | None:
        """As `monitor_client.newest_record`: None where no monitor answers."""
        return self._record if self.is_open else None

    @property
    def _newest(self) -> RunRecord:
        assert self._record is not None  # a monitor tells its first one as soon as it is open
        return self._record
