"""The scheduling of a simulation: its world's clock, pauses, signals and pools, for who waits by them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from orchestrator.hosts.scheduling import Pool, Scheduling, Signal
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.virtual_time import Process, World

__all__ = ["VirtualScheduling"]

A = TypeVar("A")
B = TypeVar("B")


class VirtualScheduling(Scheduling):
    """The world's clock and threads, for one process of it; its clock is `offset` seconds wrong."""

    def __init__(self, world: World, process: Process | None = None, *, offset: float = 0.0) -> None:
        self.world = world
        self.offset = offset
        self._process = process

    def time(self) -> float:
        self._require_alive()
        return EPOCH + self.offset + self.world.now

    def monotonic(self) -> float:
        self._require_alive()
        return self.world.now

    def sleep(self, seconds: float) -> None:
        self.world.park(f"sleeps {seconds:g} s", seconds, told=lambda _: None)

    def signal(self) -> Signal:
        return _Signal(self.world)

    def pool(self, workers: int) -> Pool:
        return _Pool(self.world, max(1, workers))

    def _require_alive(self) -> None:
        if self._process is not None:
            self._process.require_alive()


class _Signal:
    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False
        self._waiting: list[object] = []

    def set(self) -> None:
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for token in waiting:
            self._world.wake(token)

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._is_set:
            with self._registered() as told:
                self._world.park("a signal", timeout, told=told)
        return self._is_set

    @contextlib.contextmanager
    def _registered(self) -> Iterator[Callable[[object], None]]:
        tokens: list[object] = []

        def told(token: object) -> None:
            tokens.append(token)
            self._waiting.append(token)

        try:
            yield told
        finally:
            self._waiting = [token for token in self._waiting if token not in tokens]


class _Pool(Pool):
    """Threads of the world; each is started when there is work and none is idle."""

    def __init__(self, world: World, workers: int) -> None:
        self._world = world
        self._workers = workers
        self._started = 0
        self._idle: deque[object] = deque()
        self._work: deque[tuple[Callable[[], None], Callable[[], None]]] = deque()
        self._is_closed = False

    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except Exception as error:
                self._world.lost_errors.append(error)

        self._add(run, lambda: None)

    def each(self, work: Callable[[A], B], items: Iterable[A]) -> list[B]:
        chosen = list(items)
        results: dict[int, B] = {}
        errors: dict[int, BaseException] = {}
        done = _Signal(self._world)

        def run(number: int, item: A) -> None:
            try:
                results[number] = work(item)
            except Exception as error:
                errors[number] = error
            finish()

        def cancel(number: int) -> None:
            errors[number] = CancelledError()
            finish()

        def finish() -> None:
            if len(results) + len(errors) == len(chosen):
                done.set()

        for number, item in enumerate(chosen):
            self._add(lambda n=number, i=item: run(n, i), lambda n=number: cancel(n))  # type: ignore[misc]
        try:
            while chosen and not done.is_set():
                done.wait()
            if errors:
                raise errors[min(errors)]
            return [results[number] for number in range(len(chosen))]
        finally:
            # An error that is a result has the frames below here, which have these: a ring of references.
            results, errors = {}, {}

    def close(self) -> None:
        self._is_closed = True
        work, self._work = self._work, deque()
        for _, cancel in work:
            cancel()
        while self._idle:
            self._world.wake(self._idle.popleft())

    def _add(self, run: Callable[[], None], cancel: Callable[[], None]) -> None:
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._work.append((run, cancel))
        if self._idle:
            self._world.wake(self._idle.popleft())
        elif self._started < self._workers:
            self._started += 1
            self._world.spawn(f"worker {self._started}", self._serve)

    def _serve(self) -> None:
        while True:
            while self._work:
                run, _ = self._work.popleft()
                run()
            if self._is_closed:
                return
            self._world.park("work", told=self._idle.append)
