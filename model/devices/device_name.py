"""Names of devices as people write them, `cpu` or `Ascend:1`, and whether this machine has NPUs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from model.errors import ModelError

__all__ = ["CPU", "DeviceName", "npus_left_alone", "parse_device"]

_TARGETS = {"cpu": "CPU", "ascend": "Ascend"}


@dataclass(frozen=True, slots=True)
class DeviceName:
    """MindSpore's device target and device id; a machine has one CPU.

    `where` it was asked for is for messages.
    """

    target: str
    index: int = 0
    where: str = field(default="device", compare=False, repr=False)

    def __str__(self) -> str:
        return self.target if self.target == "CPU" else f"{self.target}:{self.index}"


CPU = DeviceName("CPU")


def parse_device(text: str, where: str = "--device") -> DeviceName:
    """`cpu`, `Ascend` (its first NPU) or `Ascend:3`, in any case. Raises ModelError."""
    found = re.fullmatch(r"(cpu|ascend)(?::([0-9]{1,4}))?", str(text).strip(), re.ASCII | re.IGNORECASE)
    name = DeviceName(_TARGETS[found[1].lower()], int(found[2] or 0), where) if found else None
    if name is None or (name.target == "CPU" and name.index):
        raise ModelError(f"expected cpu or Ascend:N, got {text!r}", where=where)
    return name


def npus_left_alone(devices: Path = Path("/dev")) -> str | None:
    """What to say of work that nobody gave a device and that the CPU does; None on a machine without NPUs.

    The driver's device files, /dev/davinci<N>, are the sign: cheap, and there before any tool is asked.
    """
    if not any(re.fullmatch(r"davinci[0-9]+", path.name) for path in devices.glob("davinci*")):
        return None
    return "this runs on the CPU, although the machine has NPUs"
