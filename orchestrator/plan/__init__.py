"""Job + inventory -> everything a launch will do, as data."""

from orchestrator.plan.free_devices import on_free_devices
from orchestrator.plan.plan import make_plan
from orchestrator.plan.table import launch_table

__all__ = ["launch_table", "make_plan", "on_free_devices"]
