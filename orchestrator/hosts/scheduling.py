"""The scheduling of a control node's work: its clocks, its pauses, and what it does side by side.

What decides over a run (the fleet, the watch, the monitor, the verbs) asks for time and threads here and
nowhere else, so that a simulation can give it a clock of its own: there a thousand hosts live through a day
in a minute, and the same seed gives the same day. `SystemScheduling` is the machine's.

Code that is to run under both waits only by `sleep`, by `Signal.wait`, by `Pool.each` and by reading from a
channel; it holds no lock meanwhile that another of its threads may want.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

__all__ = ["SYSTEM", "Pool", "Scheduling", "Signal", "SystemScheduling"]

A = TypeVar("A")
B = TypeVar("B")


class Signal(Protocol):
    """A flag that any thread may set and one thread waits for; `threading.Event` is one."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is set, after at most `timeout` seconds."""
        ...


class Pool(ABC):
    """At most so many pieces of work at a time, the others in the order in which they came."""

    @abstractmethod
    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        """Begin `work(*args)` as soon as there is room. Who wants its result has it told by `work`."""

    @abstractmethod
    def each(self, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """`work` of every item, in their order, when all are done. The first that raises is raised."""

    @abstractmethod
    def close(self) -> None:
        """Begin nothing any more; what has begun is not waited for."""


class Scheduling(ABC):
    """Clocks, pauses and work side by side."""

    @abstractmethod
    def time(self) -> float:
        """Seconds since the epoch: for what is shown and written down."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets: for what is waited for."""

    @abstractmethod
    def sleep(self, seconds: float) -> None: ...

    @abstractmethod
    def signal(self) -> Signal: ...

    @abstractmethod
    def pool(self, workers: int) -> Pool: ...


class SystemScheduling(Scheduling):
    """This machine's clocks and threads."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def signal(self) -> Signal:
        return threading.Event()

    def pool(self, workers: int) -> Pool:
        return _ThreadPool(workers)


class _ThreadPool(Pool):
    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=max(1, workers))

    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        self._executor.submit(work, *args)

    def each(self, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
        return list(self._executor.map(work, items))

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


SYSTEM = SystemScheduling()
