"""What a monitor works with and does not know: verbs that ask it, and what goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.control.decisions import Decision
from orchestrator.control.monitor_socket import Watched
from orchestrator.control.run_record import RunRecord
from orchestrator.control.start import Staying
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.scheduling import Scheduling
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Recovery", "RecoveryOf", "Verbs"]


class Verbs(Protocol):
    """What verbs ask: the socket, or what stands for it where there is none."""

    def open(self) -> bool: ...

    def tell(self, record: RunRecord) -> None: ...

    def attend(self, watch: Watched | None) -> None: ...

    def close(self) -> None: ...


class Recovery(Protocol):
    """What goes on by itself: made of rooms above this one, of which a watch knows nothing."""

    def begin(self, plan: LaunchPlan) -> None:
        """An attempt of this plan has started: what stands ready for the next one is seen to."""

    def tend(self, record: RunRecord) -> RunRecord:
        """Once a turn of the watch, and while the next attempt is waited for. Never waits for a host."""

    def decide(self, record: RunRecord, plan: LaunchPlan) -> Decision:
        """What becomes of a run whose attempt has ended; asks the hosts that matter for it."""

    def next_plan(self, record: RunRecord, plan: LaunchPlan, decision: Decision) -> LaunchPlan:
        """The plan of the attempt that was decided on, once the hosts have what it goes on from.

        Raises OrchestrateError.
        """

    def staying(self, plan: LaunchPlan, before: LaunchPlan, decision: Decision) -> Staying:
        """The hosts of `plan` that need not be looked at again."""

    def failed(self, error: OrchestrateError) -> None:
        """The launch of the attempt that was decided on came to nothing."""

    def ending(self, record: RunRecord) -> RunRecord:
        """The record of a run that is over now, with who may still hold something for it."""

    def let_go(self, record: RunRecord) -> RunRecord:
        """Have hosts let go of what they hold for a run that is over; with those that have not said so.

        Waits a few seconds for them. To be called again and again, until nobody is left.
        """

    def close(self) -> None:
        """The monitor ends."""


RecoveryOf = Callable[[ControlDir, LaunchPlan, Fleet, Scheduling], Recovery | None]
