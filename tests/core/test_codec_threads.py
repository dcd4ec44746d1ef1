"""The codec among threads: what one of them is still making, no other may read by."""

# ruff: noqa: UP006, UP035  # the hints of Python 3.8, which the agent has
from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Tuple

from orchestrator.core.codec import from_json

_entered = threading.Semaphore(0)
_go_on = threading.Event()


class _Slow(type):
    """A type that takes its time to be looked at."""

    def __getattr__(cls, name: str) -> object:
        if name == "model_validate":
            _entered.release()
            _go_on.wait(10)
        raise AttributeError(name)


class Count(int, metaclass=_Slow):
    pass


@dataclass(frozen=True)
class Answer:
    first: int
    slow: Count
    last: Tuple[int, ...]
    has_default: int = 0


def test_a_second_thread_reads_nothing_by_half_a_decoder() -> None:
    data = {"first": 1, "slow": 2, "last": [3], "has_default": 4}
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(from_json, Answer, data)
        assert _entered.acquire(timeout=10)
        other = pool.submit(from_json, Answer, data)
        # It makes its own, or, were it to read by the half that is there, has ended by now.
        _entered.acquire(timeout=1)
        _go_on.set()
        assert one.result(10) == other.result(10) == Answer(1, Count(2), (3,), 4)
