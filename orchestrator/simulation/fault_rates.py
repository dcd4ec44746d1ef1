"""Fault rates: a fault schedule drawn at random, by how often what fails in large training runs.

The shares are those of the 419 unexpected interruptions in 54 days of pre-training Llama 3 405B on 16,384
GPUs ("The Llama 3 Herd of Models", arXiv:2407.21783, table 5: one in three hours). Each component there
becomes the kind of fault that its failure looks like from outside. Left out are its 6 silent data
corruptions, which end nobody's process. Not published, and assumed here: a link that fails is mended in 30
minutes, a device that runs hot does so for 30, a disk is full for an hour, a server that lost power, or one
in its place, is back after an hour, and a server under maintenance after 10 minutes.
"""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from orchestrator.core.errors import UsageError
from orchestrator.simulation.faults import FAULT_KEYS, Fault, Kind, Ranks

__all__ = ["SHARES", "Share", "drawn_faults"]

_MINUTE = 60.0
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Share:
    """How many of the interruptions a component caused, and as what a simulation shows its failure."""

    count: int
    component: str
    kind: Kind
    keys: Mapping[str, Any] = field(default_factory=dict)


def _ends_with(*lines: str) -> dict[str, Any]:
    return {"code": 1, "lines": lines}


_AICORE = _ends_with("RuntimeError: Ascend kernel runtime error, error code is 507015")
_HBM = _ends_with("RuntimeError: Sync stream failed, error code is 507054")
_BUG = _ends_with("Traceback (most recent call last):", "KeyError: 'labels'")
_NO_LIBRARY = _ends_with("ImportError: libhccl.so: cannot open shared object file")
_CUT_OFF = {"scope": "all", "seconds": 30 * _MINUTE}
_HOT = {"factor": 2.0, "delay": 0.0, "seconds": 30 * _MINUTE}
_BOOT = {"seconds": 10 * _MINUTE}
SHARES = (
    Share(148, "faulty GPU", "exit", _AICORE),
    Share(72, "GPU HBM3 memory", "exit", _HBM),
    Share(54, "software bug", "exit", _BUG),
    Share(35, "network switch or cable", "partition", _CUT_OFF),
    Share(32, "host maintenance", "reboot", _BOOT),
    Share(19, "GPU SRAM memory", "exit", _AICORE),
    Share(17, "GPU system processor", "exit", _AICORE),
    Share(7, "NIC", "partition", _CUT_OFF),
    Share(7, "NCCL watchdog time-outs", "hang"),
    Share(6, "GPU thermal interface and sensor", "slow", _HOT),
    Share(3, "SSD", "fill_disk", {"seconds": 60 * _MINUTE}),
    Share(3, "power supply", "power_off"),
    Share(2, "server chassis", "power_off"),
    Share(2, "IO expansion board", "reboot", _BOOT),
    Share(2, "dependency", "exit", _NO_LIBRARY),
    Share(2, "CPU", "reboot", _BOOT),
    Share(2, "system memory", "kill"),
)
_BACK = 60 * _MINUTE


def drawn_faults(mtbf: float, seconds: float, hosts: Ranks, seed: int) -> tuple[Fault, ...]:
    """The faults of `seconds` in a cluster of which anything fails every `mtbf` seconds on average.

    Their times are those of a Poisson process, each falls on a host or rank of the run with equal chance, and
    what loses its power has a `return` later. The same arguments give the same faults on every machine.
    Raises UsageError where there are more than a simulation takes.
    """
    if mtbf <= 0 or seconds / mtbf > _MOST / 2:
        raise UsageError(
            f"a fault every {mtbf:g} s makes too many of them in {seconds / 3600:g} h",
            remedy=f"{_MOST // 2:,} on average are the most",
        )
    found = list(_drawn(mtbf, seconds, hosts, random.Random(seed)))
    return tuple(sorted(found, key=lambda fault: fault.time))


def _drawn(mtbf: float, seconds: float, hosts: Ranks, chance: random.Random) -> Iterator[Fault]:
    # `random()` is the one draw that is the same in all versions of Python.
    names, world = tuple(hosts), sum(map(len, hosts.values()))
    limits = list(accumulate(share.count for share in SHARES))
    time = -mtbf * math.log(1 - chance.random())
    while time < seconds:
        share = SHARES[bisect(limits, chance.random() * limits[-1])]
        drawn = chance.random()
        host, rank = names[int(drawn * len(names))], int(drawn * world)
        if FAULT_KEYS[share.kind][0] == "rank":
            yield Fault(time, share.kind, rank=rank, **share.keys)
        else:
            yield Fault(time, share.kind, host=host, **share.keys)
        if share.kind == "power_off" and time + _BACK < seconds:
            yield Fault(time + _BACK, "return", host=host)
        time -= mtbf * math.log(1 - chance.random())
