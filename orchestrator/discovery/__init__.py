"""What the hosts' own tools say about their devices, for rank tables and checks."""

from orchestrator.discovery.devices import FoundDevice, FoundHost
from orchestrator.discovery.discover import ask, discover

__all__ = ["FoundDevice", "FoundHost", "ask", "discover"]
