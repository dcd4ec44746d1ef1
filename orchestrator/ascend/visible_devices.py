"""ASCEND_RT_VISIBLE_DEVICES as CANN reads it: which devices a process sees, and under which numbers.

Device i of a process is the i-th that is listed. Source: CANN's environment variable reference, and
`Runtime::GetVisibleDevices` of its public runtime (hicann/runtime, src/runtime/core/src/runtime.cc).
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["VISIBLE_DEVICES", "Visible", "read_visible"]

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
# So many characters are read; 64 devices, all listed, are more.
_LONGEST = 128


class Visible(NamedTuple):
    """The ids in their order; `trouble` says what of the value CANN does not take, or is empty."""

    ids: tuple[int, ...]
    trouble: str = ""


def read_visible(value: str, count: int | None = None) -> Visible:
    """What a value means on a host of `count` devices, if that is known.

    Ids are separated by single commas and ascend. Reading ends at anything else; a value that is out of
    order, repeats an id or begins with no id leaves no device at all.
    """
    text = value[:_LONGEST]
    words = re.match(r"[0-9]+(?:,[0-9]+)*", text, re.ASCII)
    taken = words[0] if words else ""
    ids: list[int] = []
    for word in taken.split(",") if taken else ():
        number = int(word)
        if count is not None and number >= count:
            return Visible(tuple(ids), f"it ends before {word}, for there are {count} devices")
        if ids and number <= ids[-1]:
            return Visible((), "the ids must ascend")
        ids.append(number)
        if count is not None and len(ids) == count:
            return Visible(tuple(ids))
    if not ids:
        return Visible((), "it begins with no device id")
    if len(value) > _LONGEST:
        return Visible(tuple(ids), f"only {_LONGEST} characters are read")
    rest = text[len(taken) :]
    # One comma at the end is passed over in silence.
    return Visible(tuple(ids), f"it ends before {rest!r}" if rest not in ("", ",") else "")
