"""Rank tables and real servers: made from what their tools say, compared with it, and put there."""

from orchestrator.live_table.compare import Compared, compare_with_hosts, compare_with_inventory
from orchestrator.live_table.make import Made, make_for_hosts, make_for_this_server, own_address
from orchestrator.live_table.push import Pushed, push_table

__all__ = [
    "Compared",
    "Made",
    "Pushed",
    "compare_with_hosts",
    "compare_with_inventory",
    "make_for_hosts",
    "make_for_this_server",
    "own_address",
    "push_table",
]
