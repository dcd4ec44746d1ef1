"""Waiting for what must become true, instead of for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["eventually"]

_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


def eventually(predicate: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """The first true value of `predicate`; fails when there is none within `timeout` seconds.

    Who looks by starting a process takes the machine from what is waited for: between two looks there is
    as much time as the last one took.
    """
    deadline = time.monotonic() + timeout
    while True:
        begin = time.monotonic()
        if value := predicate():
            return value
        now = time.monotonic()
        assert now < deadline, f"not within {timeout} s: {what or predicate}"
        time.sleep(min(max(_PAUSE, now - begin), _LONGEST_PAUSE))
