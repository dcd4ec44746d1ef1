"""The check of the copies' network: an address and a port on each host, TLS, and both directions."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.preflight.host_facts import Facts, Needs
from orchestrator.preflight.report import Level, Result

__all__ = ["copies_get_there"]

_MEND = "mend `copy:` of the inventory, or the network: copies take no other way"


def copies_get_there(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Every host can listen for copies, and reaches the hosts that it copies to and keeps for."""
    ring = needs.copies
    for host, fact in facts.items():
        found = fact.copies
        if ring is None or found is None:
            continue  # most jobs make none, of which nothing is to be said
        if found.trouble:
            yield Result(host, Level.FAIL, found.trouble, _MEND)
        if not found.has_tls:
            what = "its Python has no ssl module, without which no copies are made"
            yield Result(host, Level.FAIL, what, "give another one as `python:`")
        for peer, why in found.unreached.items():
            yield Result(host, Level.FAIL, f"does not reach {peer} at {why}", _MEND)
        if not found.trouble and found.has_tls and not found.unreached:
            yield Result(host, Level.OK, f"over {ring.network}")
