"""Which devices, as people write it: `[0,8)` as for hccl_tools.py, `0-7`, `0,2,4`."""

from __future__ import annotations

import re

from orchestrator.errors import ConfigError, Problem
from orchestrator.inventory.hostrange import RangeError, numbers
from orchestrator.yaml_words import plain, show

__all__ = ["device_range", "visible"]

# hccl_tools.py of MindFormers wants `[0,8)`, its documents and run_distribute.sh write `[0,8]` for the same.
_HALF_OPEN = re.compile(r"\[\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*[])]", re.ASCII)
_MOST = 1024


def device_range(text: str, option: str = "--devices") -> tuple[int, ...]:
    """The numbers of a range; `[0,8)` and `[0,8]` are both 0 to 7. Raises ConfigError."""
    remedy = 'write "[0,8)" or 0-7'
    half_open = _HALF_OPEN.fullmatch(text.strip())
    if half_open:
        first, last = int(half_open[1]), int(half_open[2])
        if last <= first:
            raise _refusal(option, f"{text} holds no device", remedy)
        found = list(range(first, min(last, _MOST + 1)))
    else:
        try:
            found = [int(number) for number in numbers(text)]
        except RangeError:
            raise _refusal(option, f"expected a range of devices, got {show(text)}", remedy) from None
    if max(found) >= _MOST:
        raise _refusal(option, f"{text}: no server has that many devices", remedy)
    if len(set(found)) < len(found):
        raise _refusal(option, f"{text} names a device twice", "")
    return tuple(found)


def visible(devices: tuple[int, ...] | None, seen: tuple[int, ...]) -> tuple[int, ...]:
    """The physical ids behind `devices`, which count within `seen`; None means all. Raises ConfigError."""
    chosen = tuple(range(len(seen))) if devices is None else devices
    if max(chosen) >= len(seen):
        what = f"device {max(chosen)} is asked for, but --visible-devices has only {len(seen)}"
        raise _refusal("--devices", what, "devices count from 0 within the visible ones")
    return tuple(seen[number] for number in chosen)


def _refusal(where: str, what: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(where, plain(what), remedy)])
