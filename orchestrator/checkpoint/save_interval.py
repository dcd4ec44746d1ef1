"""How often to save: at the interval at which saves, and the work that failures undo, cost least. Pure.

A save that holds the steps up for `stall` seconds every `interval` costs stall / interval of the time, and a
failure half an interval of work on average: the sum is least at sqrt(2 * stall * mtbf) (J. W. Young, "A First
Order Approximation to the Optimum Checkpoint Interval", CACM 17:9, 1974; J. T. Daly, FGCS 22:3, 2006, who
shows that it holds while stall is small against mtbf). Seconds, all of them.
"""

from __future__ import annotations

import math

__all__ = [
    "BYTES_COPIED",
    "BYTES_WRITTEN",
    "DEFAULT_SOURCE",
    "best_interval",
    "default_mtbf",
    "guessed_stall",
    "lost_share",
]

# "The Llama 3 Herd of Models", arXiv:2407.21783, 3.3.4: 419 unexpected interruptions in 54 days, 16,384 GPUs.
_DEVICES, _SECONDS = 16_384, 54 * 86_400 / 419
DEFAULT_SOURCE = "Llama 3's rate, one failure in 3 h on 16,384 devices (arXiv:2407.21783)"

# Assumed until a save was seen, bytes a second of one rank: what a share of a local disk takes, with the
# checksum on the way, and what goes from a device to the host's memory while its neighbours copy, too.
BYTES_WRITTEN = 0.5e9
BYTES_COPIED = 4e9


def default_mtbf(devices: int) -> float:
    """The time between two failures of so many devices together, at the published rate."""
    return _SECONDS * _DEVICES / max(1, devices)


def guessed_stall(nbytes: int, *, asynchronous: bool) -> float:
    """For how long a save of a shard of this size holds the steps up, as long as nobody has seen one."""
    return nbytes / (BYTES_COPIED if asynchronous else BYTES_WRITTEN)


def best_interval(stall: float, mtbf: float, write: float = 0.0) -> float:
    """The time from one save to the next; `write` is that until a save is whole, of which one is under way.

    Beyond half of `mtbf` the formula does not hold: a failure is then likelier than not before the next save.
    """
    return max(min(math.sqrt(2 * stall * mtbf), mtbf / 2), write, stall)


def lost_share(interval: float, stall: float, mtbf: float) -> float:
    """The share of the time that saves, and work that failures throw away, take at this interval."""
    return stall / interval + interval / (2 * mtbf)
