"""What a device's own network is set to, and what it says: /etc/hccn.conf and `hccn_tool -i N -<command> -g`.

Formats: hccn_tool's own source (its file has `key_<physical id>=value` lines, which `hccn_tool -cfg recovery`
sets up again), MindFormers' documents, and answers as MindCluster's collectors captured them; where versions
differ in spelling, both are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.ascend.tool_answers import address, find, search
from orchestrator.core.errors import ToolOutputError

__all__ = [
    "HccnConf",
    "IpConfig",
    "Ping",
    "TlsSwitch",
    "Vnic",
    "parse_gateway",
    "parse_hccn_conf",
    "parse_ip",
    "parse_ipv6",
    "parse_link",
    "parse_net_health",
    "parse_netdetect",
    "parse_ping",
    "parse_tls",
    "parse_vnic",
]

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


@dataclass(frozen=True, slots=True)
class IpConfig:
    """A device's address in its normal spelling; `netmask` None where the tool names none."""

    address: str
    netmask: str | None = None


@dataclass(frozen=True, slots=True)
class TlsSwitch:
    """Whether the device wants TLS on its links; it must be the same on every device of a job."""

    on: bool
    preconfigured: bool | None = None


@dataclass(frozen=True, slots=True)
class Vnic:
    """A device's end of its super pod's HCCS network; `address` None where it has none."""

    up: bool
    address: str | None


@dataclass(frozen=True, slots=True)
class Ping:
    """The summary of a ping from device to device."""

    sent: int
    received: int

    @property
    def ok(self) -> bool:
        return self.sent > 0 and self.received == self.sent


def parse_ip(text: str) -> IpConfig | None:
    """`-ip -g`; None where no address is set: `no ip was preset there!`, or silence of older drivers."""
    if not text.strip() or "no ip was preset" in text:
        return None
    source = "hccn_tool -ip"
    match = find(source, text, r"^\s*ipaddr\s*:[ \t]*(\S*)[ \t]*\r?$", "`ipaddr:ADDRESS`")
    found = address(source, match[0], match[1])
    mask = search(r"^\s*netmask\s*:[ \t]*(\S*)", text)
    if mask is None:
        if not text.endswith("\n"):
            # A shortened address is an address, too: of 10.20.0.11 it leaves 10.20.0.1.
            raise ToolOutputError(f"{source}: the answer ends in the middle, after {match[0].strip()!r}")
        return IpConfig(found)
    return IpConfig(found, address(source, mask[0], mask[1]))


def parse_ipv6(text: str) -> IpConfig | None:
    """`-ip -inet6 -g`; None where no address is set."""
    if not text.strip() or "no ip was preset" in text or "no ipv6 was preset" in text:
        return None
    source = "hccn_tool -ip -inet6"
    match = find(source, text, r"^\s*ipv6_address\s*:[ \t]*(\S*)", "`ipv6_address:ADDRESS`")
    return IpConfig(address(source, match[0], match[1].partition("/")[0]))


def parse_link(text: str) -> bool:
    """`-link -g`: whether the link is up."""
    match = find("hccn_tool -link", text, r"link status\s*:\s*(UP|DOWN)\b", "`link status: UP` or `DOWN`")
    return match[1].upper() == "UP"


def parse_net_health(text: str) -> str:
    """`-net_health -g`: the tool's own word, such as `Success`, `Init`, `Socket fail`, `Unreachable`."""
    expected = "`net health status: WORDS`"
    match = find("hccn_tool -net_health", text, r"net health status\s*:[ \t]*(\w[\w ]*)", expected)
    word = match[1].strip()
    return "Socket fail" if word.lower().startswith("socket fail") else word


def parse_netdetect(text: str) -> str | None:
    """`-netdetect -g`: the address that net health pings; None where none, or 0.0.0.0, is set."""
    source = "hccn_tool -netdetect"
    if "no netdetect" in text.lower() or "was preset there" in text:
        return None
    match = find(
        source, text, r"netdetect addr(?:ess)?\s*:[ \t]*(\S*)[ \t]*\r?$", "`netdetect address: ADDRESS`"
    )
    found = address(source, match[0], match[1])
    return None if found == "0.0.0.0" else found


def parse_gateway(text: str) -> str | None:
    """`-gateway -g`; None where no gateway is set."""
    if "no gateway was preset" in text:
        return None
    source = "hccn_tool -gateway"
    match = find(source, text, r"gateway\s*:[ \t]*([^\s,]*)", "`default gateway:ADDRESS`")
    return address(source, match[0], match[1])


def parse_tls(text: str) -> TlsSwitch:
    """`-tls -g`; the certificate blocks behind the first line are not needed."""
    match = find("hccn_tool -tls", text, r"tls switch\[(\d)\]", "`tls switch[0]` or `[1]`")
    preset = search(r"tls preconfigured\[(\d)\]", text)
    return TlsSwitch(match[1] == "1", preset[1] == "1" if preset else None)


def parse_vnic(text: str) -> Vnic:
    """`-vnic -g` of an A3: `vnic link status: UP`, `vnic ipaddr: A`, `vnic netmask: M`."""
    source = "hccn_tool -vnic"
    match = find(source, text, r"vnic link status\s*:\s*(\w+)", "`vnic link status: UP` or `DOWN`")
    found = search(r"vnic ipaddr\s*:[ \t]*(\S+)", text)
    ip = address(source, found[0], found[1]) if found else None
    return Vnic(match[1].upper() == "UP", None if ip == "0.0.0.0" else ip)


def parse_ping(text: str) -> Ping:
    """`-ping -g address X` or `-hccs_ping`. Only the summary is read: the other lines differ by version.

    hccn_tool's source ends the one with `packet loss`, the other with `packets loss`.
    """
    pattern = r"(\d+) packets? transmitted, (\d+) (?:packets? )?received, \d+(?:\.\d+)?% packets? loss"
    match = find("hccn_tool -ping", text, pattern, "`N packets transmitted, N received, 0.00% packet loss`")
    return Ping(int(match[1]), int(match[2]))
