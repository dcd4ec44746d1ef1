"""Whether hosts are fit for a job: facts of all hosts in, a report of every check out."""

from orchestrator.preflight.gather import gather
from orchestrator.preflight.look import look_at_hosts
from orchestrator.preflight.needs import Needs
from orchestrator.preflight.report import Level, Report, Result
from orchestrator.preflight.scheduler import scheduler_address
from orchestrator.preflight.table import CHECKS, run_checks

__all__ = [
    "CHECKS",
    "Level",
    "Needs",
    "Report",
    "Result",
    "gather",
    "look_at_hosts",
    "run_checks",
    "scheduler_address",
]
