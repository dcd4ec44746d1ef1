"""Waiting for what must become true, instead of for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["eventually"]


def eventually(predicate: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    """The first true value of `predicate`; fails when there is none within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if value := predicate():
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or predicate}"
        time.sleep(0.02)
