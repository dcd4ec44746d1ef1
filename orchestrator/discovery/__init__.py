"""What the hosts' own tools say about their devices, for rank tables and checks."""

from orchestrator.discovery.devices import FoundDevice, FoundHost, find_devices, first_calls, later_calls
from orchestrator.discovery.discover import TOOL_TIMEOUT, ask, discover

__all__ = [
    "TOOL_TIMEOUT",
    "FoundDevice",
    "FoundHost",
    "ask",
    "discover",
    "find_devices",
    "first_calls",
    "later_calls",
]
