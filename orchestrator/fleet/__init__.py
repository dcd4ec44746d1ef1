"""One thing on many hosts, in parallel."""

from orchestrator.fleet.fleet import Fleet, fleet_of
from orchestrator.fleet.results import HostResults, error_lines
from orchestrator.fleet.session import Session

__all__ = ["Fleet", "HostResults", "Session", "error_lines", "fleet_of"]
