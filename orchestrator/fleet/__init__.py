"""One thing on many hosts, in parallel."""

from orchestrator.fleet.fleet import Fleet, fleet_of
from orchestrator.fleet.results import HostResults
from orchestrator.fleet.session import Session

__all__ = ["Fleet", "HostResults", "Session", "fleet_of"]
