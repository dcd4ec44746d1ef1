"""The fault codes of devices, as `npu-smi info -t health` prints them: how grave each is, and its kind.

Levels and repeats are MindCluster's; `device_codes.txt` beside this file has them, and their source.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from importlib import resources

from orchestrator.diagnosis.evidence import DeviceHealth

__all__ = [
    "PORT_DOWN",
    "Level",
    "Repeats",
    "fault_of",
    "is_bad",
    "level_of",
    "level_together",
    "plain",
    "repeats_of",
]

PORT_DOWN = "81078603"
"""A network port of the device has gone down: it is only noted, for it may come up again."""


class Level(enum.IntEnum):
    """How grave a code is, and what is to be done, by MindCluster's names."""

    NOTED = 0  # NotHandle
    SUB_HEALTHY = 1  # SubHealth: it goes on, perhaps slowly
    REQUEST = 2  # RestartRequest
    RUN = 3  # RestartBusiness: the run is to be started again
    FREE_RESET = 4  # FreeRestartNPU: the device is to be reset when it is free
    RESET = 5  # RestartNPU
    AVOID = 6  # PreSeparateNPU: what runs goes on, nothing new is started on it
    REPLACE = 7  # SeparateNPU

    @property
    def ends_what_runs(self) -> bool:
        return self >= Level.REQUEST and self is not Level.AVOID


_NAMES = {
    "NotHandle": Level.NOTED,
    "SubHealth": Level.SUB_HEALTHY,
    "RestartRequest": Level.REQUEST,
    "RestartBusiness": Level.RUN,
    "FreeRestartNPU": Level.FREE_RESET,
    "RestartNPU": Level.RESET,
    "PreSeparateNPU": Level.AVOID,
    "SeparateNPU": Level.REPLACE,
}


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often a code may come: `times` within `window` seconds and its device is taken out, for `released`
    seconds, None: for good."""

    times: int
    window: float
    released: float | None = None


@dataclass(frozen=True, slots=True)
class _Table:
    levels: dict[str, Level] = field(default_factory=dict)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    together: dict[str, dict[str, Level]] = field(default_factory=dict)  # by the other code


_MEMORY = re.compile(r"80E[01]|80F2180D")
_TS_HEARTBEAT = "8C204E00"
_BAD = frozenset({"alarm", "critical", "fault"})


def level_of(code: str) -> Level | None:
    """How grave a code is; None where the table lacks it. `0x80e01801` and `80E01801` are the same."""
    return _table().levels.get(plain(code))


def level_together(code: str, others: Collection[str]) -> Level | None:
    """How grave a code is that a device tells together with `others`: some are so only with another one."""
    table, code = _table(), plain(code)
    found = [table.levels.get(code)]
    found += [table.together[other].get(code) for other in map(plain, others) if other in table.together]
    return max((level for level in found if level is not None), default=None)


def repeats_of(code: str) -> Repeats | None:
    """How often a code may come; None: as often as it does."""
    return _table().repeats.get(plain(code))


def fault_of(device: DeviceHealth) -> tuple[str, str] | None:
    """The kind of a fault that ends what runs on the device, and its code; None where it has none.

    A device that is in alarm for codes that are only noted has none. One in alarm without a code, or with one
    that the table lacks, has.
    """
    codes = [plain(code) for code in device.codes]
    levels = {code: level_of(code) for code in codes}
    grave = [code for code in codes if (levels[code] or Level.NOTED).ends_what_runs]
    if not grave and is_bad(device):
        grave = [code for code in codes if levels[code] is None]
    if grave:
        code = max(grave, key=lambda each: levels[each] or Level.NOTED)
        return _kind(code), code
    if PORT_DOWN in codes:
        return "network_port_down", PORT_DOWN
    return ("device_fault", "") if is_bad(device) and not codes else None


def is_bad(device: DeviceHealth) -> bool:
    """Whether its health is an alarm."""
    return device.status.strip().lower() in _BAD


def _kind(code: str) -> str:
    if code == _TS_HEARTBEAT:
        return "device_lost"
    return "device_memory_fault" if _MEMORY.match(code) else "device_fault"


def plain(code: str) -> str:
    """A code as the table writes it."""
    return code.strip().upper().removeprefix("0X")


@functools.cache
def _table() -> _Table:
    text = resources.files("orchestrator.diagnosis").joinpath("device_codes.txt").read_text("ascii")
    table = _Table()
    for (what, *words), codes in _sections(text):
        if what == "level":
            table.levels.update(dict.fromkeys(codes, _NAMES[words[0]]))  # the graver ones come last
        elif what == "repeats":
            times, window, released = map(int, words)
            table.repeats.update(dict.fromkeys(codes, Repeats(times, window, released or None)))
        else:
            table.together.setdefault(words[0], {}).update(dict.fromkeys(codes, _NAMES[words[1]]))
    return table


def _sections(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """The words of each head, and what stands below it."""
    found: dict[str, list[str]] = {}
    head = ""
    for line in text.splitlines():
        if line.startswith("["):
            head = line.strip("[]")
        elif line and not line.startswith("#"):
            found.setdefault(head, []).extend(line.split())
    for head, codes in found.items():
        yield head.split(), codes
