"""Job + inventory -> everything a launch will do, as data."""

from orchestrator.plan.plan import LaunchPlan, make_plan
from orchestrator.plan.plan_file import read_plan, write_plan

__all__ = ["LaunchPlan", "make_plan", "read_plan", "write_plan"]
