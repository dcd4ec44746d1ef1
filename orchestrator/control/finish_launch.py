"""What becomes of a launch whose monitor died in its middle: finished where all have started, else undone."""

from __future__ import annotations

from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.hosts.fleet import Fleet

__all__ = ["finish_or_undo"]


def finish_or_undo(fleet: Fleet, run_id: str) -> None:
    """Ask the hosts of the launch how far it came. Nothing is done where that is not known of all.

    Raises OrchestrateError where it has been undone.
    """
    answers = fleet.each(lambda agent: agent.status(run_id))
    phases = {status.phase for status in answers.values.values()}
    if not answers.errors and phases <= {"started", "committed"}:
        fleet.each(lambda agent: agent.commit(run_id))
        return
    no_run = [isinstance(e, AgentError) and e.kind == "no_run" for e in answers.errors.values()]
    nobody_has_it = not phases and any(no_run)
    if nobody_has_it or (phases <= {"prepared", "started"} and all(no_run)):
        fleet.each(lambda agent: agent.undo(run_id))
        what = "the launch broke off before the run had started: its monitor was ended"
        raise OrchestrateError(what, remedy="launch it again")
