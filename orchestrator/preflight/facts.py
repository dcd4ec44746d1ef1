"""What is known of one host, as its checks see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.ascend.answers import ToolAnswer, ToolAnswers
from orchestrator.discovery import FoundHost
from orchestrator.yaml_words import plain

__all__ = ["AddressFacts", "Facts", "HostFacts", "PingTry", "text_of", "variables_of"]

# Longer than any variable that works; LD_LIBRARY_PATH can be some thousand characters.
_LONGEST_VALUE = 65536


@dataclass(frozen=True, slots=True)
class PingTry:
    """One device of this host pinged the device of the same number of another host."""

    device: int
    peer: str
    address: str
    answer: ToolAnswer


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """What a host's names mean, there and on this machine: IP addresses in the order of preference.

    `own` are those at which the host can listen. Two hosts of one `network` have the same interfaces, and so
    the same loopback; it is "" where unknown.
    """

    candidates: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    network: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host: `probe` is the agent's (agent/probe.py), `tools` and `found` None where no tool was asked.

    `addresses` is None where nothing hangs on them.

    `clock_ahead` is how many seconds its clock is ahead of ours, at least; behind is negative.
    """

    probe: Mapping[str, Any]
    clock_ahead: float = 0.0
    tools: ToolAnswers | None = None
    found: FoundHost | None = None
    pings: tuple[PingTry, ...] = ()
    addresses: AddressFacts | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that HCCL and CANN look at, as the workers will have them."""
        return variables_of(self.probe.get("environment"))

    @property
    def packages(self) -> dict[str, str]:
        """The versions of the packages that are installed for the workers."""
        said = variables_of(self.probe.get("packages"))
        return {plain(name): plain(version) for name, version in said.items() if version}

    @property
    def has_tools(self) -> bool:
        return self.tools is not None and (self.tools.has_tool("hccn_tool") or self.tools.has_tool("npu-smi"))


def text_of(value: Any) -> str | None:
    """A short text of a host's answer, fit to be shown in a line; None where it is none."""
    return plain(value) if isinstance(value, str) and value else None


def variables_of(value: Any) -> dict[str, str]:
    """Names and texts of a host's answer; what is none, or too long to be true, is left out."""
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {str(name): each for name, each in pairs if isinstance(each, str) and len(each) <= _LONGEST_VALUE}


# The hosts that answered, by name, in the order of the inventory.
Facts = Mapping[str, HostFacts]
