"""The network of the copies in an inventory: where shards of checkpoints go from host to host."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from orchestrator.config.job_fields import Positive
from orchestrator.config.schema import Check, Section, key
from orchestrator.config.yaml_messages import Invalid, show

__all__ = ["CopyNetwork"]

# A host that keeps copies is looked for on all of them.
_MOST_PORTS = 256


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Invalid(f"{show(text)} is no network: {error}", "write it as 10.20.0.0/16") from None


def _ports(value: Any) -> Any:
    """`29700-29731`, or one port, as the first and the last."""
    match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(value).strip(), re.ASCII)
    if match is None or isinstance(value, bool):
        raise Invalid(f"expected ports such as 29700-29731, got {show(value)}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1024 <= first <= last < 1 << 16:
        raise Invalid(f"expected ports from 1024 to 65535, the lower first; got {show(value)}")
    if last - first >= _MOST_PORTS:
        raise Invalid(f"has {last - first + 1} ports", f"at most {_MOST_PORTS}: each run takes one on a host")
    return first, last


@dataclass(frozen=True, slots=True)
class CopyNetwork(Section):
    """Where copies of checkpoints go: each host listens at its address in this network, on one of the ports.

    Nothing else is taken where that cannot be.
    """

    network: Annotated[str, Check(_network, "network, such as `10.20.0.0/16`")] = field(
        metadata={
            "description": "in which every host has an address; TLS both ways, with keys of the attempt"
        }
    )
    ports: Annotated[tuple[int, int], Check(_ports, "ports, such as `29700-29731`", before=True)] = field(
        metadata={"description": "of which each run takes one on each host"}
    )
    rate: Positive | None = key(
        None,
        "Gbit/s that a host can send there beside what else it does; `plan` reckons with it",
    )
