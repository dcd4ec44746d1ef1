"""/etc/hccn.conf: `key_<physical id>=value` lines, what `hccn_tool -cfg recovery` sets up again.

Format: hccn_tool's own source (it reads keys by physical id), MindFormers' documents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.ascend.text import address
from orchestrator.errors import ToolOutputError

__all__ = ["HccnConf", "parse_hccn_conf"]

SOURCE = "hccn.conf"
_NUMBERED = re.compile(r"([a-z][a-z0-9_]*)_([0-9]{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class HccnConf:
    """The values of each device, by physical id and then by key: `devices[0]["address"]`."""

    devices: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    def addresses(self) -> dict[int, str]:
        """The IP of each device that has one, by physical id."""
        return {device: values["address"] for device, values in self.devices.items() if values.get("address")}


def parse_hccn_conf(text: str) -> HccnConf:
    """The file's text, with any line ends, comments (`#`) and keys that we do not use.

    An empty file is one without devices. Raises ToolOutputError: a line that is no `key=value`, an address
    that is none, a key that comes twice with different values.
    """
    devices: dict[int, dict[str, str]] = {}
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        source = f"{SOURCE} line {number}"
        key, sign, value = (part.strip() for part in line.partition("="))
        if not sign:
            raise ToolOutputError(f"{source}: {line[:80]!r} is no `key_N=value`", remedy="correct the file")
        match = _NUMBERED.fullmatch(key)
        if match is None:
            continue
        name, device = match[1], int(match[2])
        if name == "address" and value:
            value = address(source, line, value)
        known = devices.setdefault(device, {}).setdefault(name, value)
        if name == "address" and known != value:
            what = f"{source}: {key} is {value}, and was {known} before"
            raise ToolOutputError(what, remedy="remove one of the two lines")
    return HccnConf(devices)
