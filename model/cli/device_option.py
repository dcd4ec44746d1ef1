"""`--device`: where a verb that is no job's computes; and how much MindSpore says there."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

from model.devices.device_name import CPU, DeviceName, npus_left_alone, parse_device

__all__ = ["add_device", "device_of", "set_log_level"]


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it computes: nobody's NPU is taken unasked."""
    text = "cpu, or Ascend:N, the NPU with that number (default cpu)"
    parser.add_argument("--device", metavar="DEVICE", help=text)


def device_of(args: argparse.Namespace, devices: Path = Path("/dev")) -> DeviceName:
    """What the option says, else the CPU, with a line on stderr where there are NPUs. Raises ModelError.

    To be called before MindSpore is imported.
    """
    device = parse_device(args.device) if args.device is not None else CPU
    set_log_level(device.target)
    if args.device is None and (text := npus_left_alone(devices)):
        print(f"note: {text}; --device Ascend:0 uses one", file=sys.stderr, flush=True)
    return device


def set_log_level(target: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Errors only on a CPU, where warnings on every connection would bury a worker's own lines.

    On an Ascend warnings too: there they tell of a CANN that does not fit, or of HCCL. MindSpore reads GLOG_v
    when it is imported; a value that the user has set stays.
    """
    env.setdefault("GLOG_v", "2" if target == "Ascend" else "3")
