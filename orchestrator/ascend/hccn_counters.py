"""What `hccn_tool` counts and measures on a device's port: link changes, packets, the optical module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.ascend.tool_answers import find, pairs, refuse_known, unreadable

__all__ = ["LinkChange", "LinkStat", "Optical", "parse_link_stat", "parse_optical", "parse_stat"]

# `[devid 0]` of newer drivers, `[device 0]` of older ones.
_DEVICE = re.compile(r"^\[dev(?:id|ice) \d+\]", re.MULTILINE)
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?) [A-Za-z]+")


@dataclass(frozen=True, slots=True)
class LinkChange:
    """One change of a link, at the device's own time as the tool writes it."""

    when: str
    up: bool


@dataclass(frozen=True, slots=True)
class LinkStat:
    """How often a link came up and went down since start; `down_count` None where the driver is too old."""

    up_count: int
    down_count: int | None
    changes: tuple[LinkChange, ...]


@dataclass(frozen=True, slots=True)
class Optical:
    """The optical module of a port; `values` are all fields as printed, by their names."""

    present: bool
    values: Mapping[str, str]

    def number(self, name: str) -> float | None:
        """A measured value without its unit (mW, mV, C, dB); None where it is not measured."""
        match = _NUMBER.fullmatch(self.values.get(name, ""))
        return float(match[1]) if match else None

    @property
    def loss_of_signal(self) -> bool:
        """Whether any lane receives no light."""
        flag = self.values.get("Rx Los Flag", "0x0")
        return bool(re.fullmatch(r"0x[0-9a-fA-F]+", flag)) and int(flag, 16) != 0

    def weak_lanes(self) -> list[str]:
        """The lanes whose received power is under the module's own threshold."""
        least = self.number("RxPower Low Thres")
        lanes = [name for name in self.values if re.fullmatch(r"Rx Power\d+", name)]
        return [
            lane for lane in lanes if least is not None and (power := self.number(lane)) and power < least
        ]


def parse_link_stat(text: str) -> LinkStat:
    """`-link_stat -g`. Raises ToolOutputError."""
    bare = _DEVICE.sub("", text)
    source = "hccn_tool -link_stat"
    up = find(source, bare, r"^\s*link up count\s*:\s*(\d+)", "`link up count : NUMBER`")
    down = re.search(r"^\s*link down count\s*:\s*(\d+)", bare, re.MULTILINE)
    changes = re.findall(r"^\s+(\S.*\S)\s{2,}LINK (UP|DOWN)\s*$", bare, re.MULTILINE)
    return LinkStat(
        int(up[1]),
        int(down[1]) if down else None,
        tuple(LinkChange(when, way == "UP") for when, way in changes),
    )


def parse_stat(text: str) -> dict[str, int]:
    """`-stat -g`: the packet counters by name. Raises ToolOutputError."""
    source = "hccn_tool -stat"
    refuse_known(source, text)
    counters = {
        name: int(value) for name, value in re.findall(r"^\s*(\w+)\s*:\s*(\d+)\s*$", text, re.MULTILINE)
    }
    if not counters:
        unreadable(source, text, "`COUNTER:NUMBER` lines")
    return counters


def parse_optical(text: str) -> Optical:
    """`-optical -g`. Raises ToolOutputError."""
    match = find("hccn_tool -optical", text, r"^\s*present\s*:\s*(not present|present)", "`present : ...`")
    return Optical(match[1] == "present", pairs(text))
