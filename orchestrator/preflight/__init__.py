"""Whether hosts are fit for a job: facts in, findings out."""

from orchestrator.preflight.checks import CHECKS, Finding, Needs, judge

__all__ = ["CHECKS", "Finding", "Needs", "judge"]
