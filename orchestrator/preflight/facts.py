"""What is known of one host, as its checks see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.ascend.answers import ToolAnswer, ToolAnswers
from orchestrator.discovery import FoundHost

__all__ = ["Facts", "HostFacts", "PingTry"]


@dataclass(frozen=True, slots=True)
class PingTry:
    """One device of this host pinged the device of the same number of another host."""

    device: int
    peer: str
    address: str
    answer: ToolAnswer


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host: `probe` is the agent's (agent/probe.py), `tools` and `found` None where no tool was asked.

    `clock_ahead` is how many seconds its clock is ahead of ours, at least; behind is negative.
    """

    probe: Mapping[str, Any]
    clock_ahead: float = 0.0
    tools: ToolAnswers | None = None
    found: FoundHost | None = None
    pings: tuple[PingTry, ...] = ()

    @property
    def has_tools(self) -> bool:
        return self.tools is not None and (self.tools.has_tool("hccn_tool") or self.tools.has_tool("npu-smi"))


# The hosts that answered, by name, in the order of the inventory.
Facts = Mapping[str, HostFacts]
