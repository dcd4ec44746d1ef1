"""The next attempt of a run that has ended: what `resume` hands over when its plan is complete."""

from __future__ import annotations

from orchestrator.core.paths import ControlDir
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["start_next_attempt"]


def start_next_attempt(control: ControlDir, plan: LaunchPlan) -> None:
    """Put the plan's attempt in force here, and hand it to a monitor; the record tells how it goes.

    `plan.attempt` has the number after that of the attempt in force, and a token of its own. Where its launch
    comes to nothing the record is again as it was before, and `refused` of it says why. Raises UsageError for
    a run that has not ended, or another number; TransportError where its monitor lives on another machine;
    PreflightError where nothing can be written here. Then nothing has changed.
    """
    raise NotImplementedError
