"""A look at all hosts, from nothing to the report: connect, gather, check."""

from __future__ import annotations

from orchestrator.fleet import fleet_of
from orchestrator.inventory import SshOptions
from orchestrator.preflight.gather import gather
from orchestrator.preflight.needs import Needs
from orchestrator.preflight.report import Report
from orchestrator.preflight.table import run_checks

__all__ = ["look_at_hosts"]


def look_at_hosts(needs: Needs, options: SshOptions) -> Report:
    """Check the hosts of `needs`, over connections of its own. Those that do not answer are rows of it."""
    with fleet_of(needs.hosts, options) as fleet:
        facts, errors = gather(needs, fleet)
    return run_checks(needs, facts, errors)
