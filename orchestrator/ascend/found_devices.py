"""The devices that were found on a host, as values; a plan keeps them, and asks no tool again."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.inventory import Chip

__all__ = ["FoundDevice", "FoundHost"]


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """One device; `id` is its physical id. `source` says who named `ip`; without one `trouble` says why.

    `vnic` is its address in its super pod's own network (A3).
    """

    id: int
    ip: str | None = None
    source: str = ""
    super_device_id: str | None = None
    trouble: str = ""
    remedy: str = ""
    vnic: str | None = None


@dataclass(frozen=True, slots=True)
class FoundHost:
    """One host's devices. `chip` is the name that npu-smi gives, `kind` what that is.

    `super_pod_id` is None but on an A3 whose devices name one and the same.
    """

    host: str
    devices: tuple[FoundDevice, ...]
    chip: str | None = None
    super_pod_id: str | None = None
    warnings: tuple[str, ...] = ()
    kind: Chip | None = None

    def device(self, device_id: int) -> FoundDevice:
        """The device of this id; one without an address where the host has none."""
        missing = FoundDevice(device_id, trouble="there is no such device", remedy="correct `devices:`")
        return next((device for device in self.devices if device.id == device_id), missing)
