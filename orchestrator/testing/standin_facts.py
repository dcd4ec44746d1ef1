"""The facts of a stand-in host, which its tools tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

__all__ = ["DeviceFacts", "HostFacts", "Kind", "host_facts"]

Kind = Literal["910A", "910B", "A3"]
# How a tool can be broken, for all its calls that begin with a text: `{"hccn_tool -i 3": "hang"}`.
Fault = Literal["hang", "garbage", "half", "chinese", "root", "busy", "crash"]


@dataclass(frozen=True)
class DeviceFacts:
    """One device; `ip` None for none set, `process` a pid that is on it."""

    id: int
    ip: str | None = None
    netmask: str = "255.255.0.0"
    gateway: str | None = "10.20.255.254"
    netdetect: str | None = "10.20.255.254"
    link: str = "UP"
    net_health: str = "Success"
    tls: int = 0
    health: str = "OK"
    error_code: str = "NA"
    ecc_double: int = 0
    ecc_isolated: int = 0
    process: int | None = None
    super_device_id: int | None = None
    vnic: str | None = None
    vnic_link: str = "UP"


@dataclass(frozen=True)
class HostFacts:
    """One host. `old_driver` chooses the other spelling where two are known.

    `cann` and `compiler` are CANN's release and its compiler's version; `python` the modules that it gives,
    `exports` what its set_env.sh exports besides.
    """

    name: str
    kind: Kind
    devices: tuple[DeviceFacts, ...]
    driver: str = "23.0.5"
    firmware: str = "7.1.0.7.220"
    cann: str = "8.3.RC1"
    compiler: str = "8.3.0.1.200"
    python: tuple[str, ...] = ("hccl", "te", "tbe")
    exports: dict[str, str] = field(default_factory=dict)
    super_pod_id: int = 0
    server_index: int = 0
    old_driver: bool = False
    missing: tuple[str, ...] = ()
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def chips_per_npu(self) -> int:
        return 2 if self.kind == "A3" else 1

    def change(self, device_id: int, **changes: Any) -> HostFacts:
        """The same host with one device changed."""
        devices = [replace(each, **changes) if each.id == device_id else each for each in self.devices]
        return replace(self, devices=tuple(devices))

    def to_yaml(self) -> str:
        data = asdict(self)
        lists = {name: list(data[name]) for name in ("devices", "missing", "python")}
        return yaml.safe_dump({**data, **lists})

    @classmethod
    def read(cls, path: Path) -> HostFacts:
        data = yaml.safe_load(path.read_text())
        devices = tuple(DeviceFacts(**device) for device in data.pop("devices"))
        lists = {name: tuple(data[name]) for name in ("missing", "python") if name in data}
        return cls(**{**data, "devices": devices, **lists})


def host_facts(index: int, kind: Kind = "910B", count: int | None = None) -> HostFacts:
    """Host `index` (from 0) of a sound cluster: npu001 with 10.20.0.1 to .8, npu002 with 10.20.1.1 ..."""
    count = count or (16 if kind == "A3" else 8)
    devices = tuple(
        DeviceFacts(
            id=number,
            ip=_ip(kind, index, number),
            super_device_id=(index << 18) + number if kind == "A3" else None,
            vnic=f"192.168.{index}.{1 + number}" if kind == "A3" else None,
        )
        for number in range(count)
    )
    return HostFacts(f"npu{index + 1:03d}", kind, devices, server_index=index)


def _ip(kind: Kind, host: int, device: int) -> str:
    # On a 910A devices i and i + 4 share one of four subnets, the same on all hosts.
    if kind == "910A":
        return f"10.{21 + device % 4}.{host}.{1 + device // 4}"
    return f"10.20.{host}.{1 + device}"
