"""Virtual time: clocks, pauses and threads of a simulation, in which exactly one thread runs at any moment.

Threads of the system hand on a baton. Who waits (`sleep`, `Signal.wait`, `Pool.each`, reading from a channel)
parks; when all are parked the world goes on to its next event, and its clock with it. What happens depends on
the events and the seed alone, so that the same seed gives the same day.

Code that runs here may use locks of `threading`, but parks while it holds one only where none of its other
threads wants that lock: the baton would be held by one who waits for ever. `stuck` seconds of real time after
the last change of hands, in which that thread waited or did nothing but work, a simulation is ended with the
place where it stands.
"""

from __future__ import annotations

import _thread
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from orchestrator.simulation.timeline import OutOfTime, SimulationError, Timeline

__all__ = ["Deadlock", "Killed", "Process", "World"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

_STACK_BYTES = 512 * 1024
_LOOKS = 256  # so many changes of hands lie between two looks at the real clock


class Deadlock(SimulationError):
    """Everybody waits, and nothing will ever happen."""


class Killed(BaseException):
    """Raised wherever a thread of a killed process waits or asks for the time: it is no more."""


class Process:
    """Some of the world's threads that end together, as those of a process do; then `on_kill` is done."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.on_kill: list[Callable[[], None]] = []

    def require_alive(self) -> None:
        if not self.is_alive:
            raise Killed(self.name)


class _Task:
    """A thread of the world; `lock` is what it waits on while another has the baton."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.lock = threading.Lock()
        self.lock.acquire()
        self.thread: threading.Thread | None = None
        self.is_parked = self.was_woken = self.is_over = False
        self.waits_for = ""


class World(Timeline):
    """The events and the threads of one simulation. `run` is called once, by the thread that begins it.

    `limit` and `stuck` are seconds of real time: for all of it, and without a change of hands.
    """

    def __init__(self, *, seed: int = 0, limit: float = 600.0, stuck: float = 60.0) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.lost_errors: list[BaseException] = []  # of submitted work, which nobody looked at
        self._limit, self._stuck = limit, stuck
        self._ready: deque[_Task] = deque()
        self._tasks: dict[_Task, None] = {}
        self._main = _Task("main", Process("main"))
        self._running = self._main
        self._failure: BaseException | None = None
        self._is_over = False
        self._starter = threading.current_thread()
        self._deadline = 0.0
        self._hands = 0

    # What happens next.

    def _go_on(self) -> None:
        """Go on to what happens next, as long as there is time and anything to come."""
        if self.events_done % _LOOKS == 0:
            self._require_time()
        if not self.next_event():
            raise Deadlock("nothing will happen any more; who waits: " + self._who_waits())

    def _who_waits(self) -> str:
        found = [f"{task.name} ({task.waits_for})" for task in [self._main, *self._tasks] if task.is_parked]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return ", ".join(found[:8]) + more

    # Who runs.

    @property
    def process(self) -> Process:
        """That of the thread which runs."""
        return self._running.process

    @property
    def is_mine(self) -> bool:
        """Whether the thread that asks has the baton: others may touch nothing here."""
        return (self._running.thread or self._starter) is threading.current_thread()

    def park(self, waits_for: str, timeout: float | None = None, *, told: Callable[[object], None]) -> bool:
        """Have the running thread wait until it is woken; False where `timeout` seconds pass first.

        `told` is given what `wake` takes.
        """
        task = self._running
        task.process.require_alive()
        task.is_parked, task.was_woken, task.waits_for = True, False, waits_for
        told(task)
        timer = None if timeout is None else self.after(timeout, lambda: self._resume(task, False))
        self._hand_on(task)
        if timer is not None:
            timer.cancel()
        task.process.require_alive()
        return task.was_woken

    def wake(self, token: object) -> None:
        """Have one who parked go on, if it has not gone on already."""
        assert isinstance(token, _Task)
        self._resume(token, True)

    def _resume(self, task: _Task, was_woken: bool) -> None:
        if task.is_parked:
            task.is_parked, task.was_woken = False, was_woken
            self._ready.append(task)

    def spawn(self, name: str, work: Callable[[], None], process: Process | None = None) -> None:
        """Start a thread, of the running one's process or of another; it runs when its turn comes."""
        process = process or self.process
        process.require_alive()
        task = _Task(name, process)
        task.thread = threading.Thread(target=self._live, args=(task, work), name=name, daemon=True)
        before = threading.stack_size(_STACK_BYTES)
        try:
            task.thread.start()
        finally:
            threading.stack_size(before)
        self._tasks[task] = None
        self._ready.append(task)

    def kill(self, process: Process) -> None:
        """End all threads of a process where they wait."""
        if not process.is_alive:
            return
        process.is_alive = False
        for task in list(self._tasks):
            if task.process is process:
                self._resume(task, False)
        for action in process.on_kill:
            action()

    def _live(self, task: _Task, work: Callable[[], None]) -> None:
        task.lock.acquire()
        try:
            task.process.require_alive()
            work()
        except Killed:
            pass
        except BaseException as error:
            self._failure = self._failure or error
        task.is_over = True
        self._tasks.pop(task, None)
        if not self._is_over:
            self._hand_on(task)

    def _hand_on(self, task: _Task) -> None:
        """Give the baton to whoever is next, and wait for it unless this one is over."""
        following = self._following()
        if following is not task:
            self._hands += 1
            self._running = following
            following.lock.release()
            if not task.is_over:
                task.lock.acquire()
        if task is self._main and self._failure is not None:
            raise self._failure

    def _following(self) -> _Task:
        if self._ready and self._failure is None:
            return self._ready.popleft()
        begun = time.perf_counter()  # a thread's own CPU costs a system call
        try:
            while not self._ready and self._failure is None:
                self._go_on()
        except BaseException as error:
            self._failure = self._failure or error
        self.events_seconds += time.perf_counter() - begun
        if self._failure is not None:
            self._main.is_parked = False
            return self._main
        return self._ready.popleft()

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise OutOfTime(
                f"{self._limit:g} s of real time are over at {self.true_now:.0f} s of the simulation"
            )

    # The whole.

    def run(self, main: Callable[[], T]) -> T:
        """What `main` returns or raises, once; then every other thread has ended."""
        self._starter = threading.current_thread()
        self._deadline = time.monotonic() + self._limit
        watchdog_off = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(watchdog_off,), name="watchdog", daemon=True)
        watchdog.start()
        try:
            return main()
        finally:
            watchdog_off.set()
            self._end()

    def _end(self) -> None:
        """Let every thread unwind, one after the other."""
        self._is_over = True
        for task in list(self._tasks):
            task.process.is_alive = False
        while self._tasks:
            task = next(iter(self._tasks))
            self._tasks.pop(task)
            self._running = task
            task.lock.release()
            assert task.thread is not None
            task.thread.join(self._stuck)
        self._running = self._main

    def _watch(self, off: threading.Event) -> None:
        """End a simulation whose thread with the baton waits for something that nobody here will do.

        On a busy machine real time alone says nothing: a thread that works uses the CPU. One that has used
        as many seconds of it goes round in circles.
        """
        seen, since, used = (-1, -1), time.monotonic(), time.process_time()
        while not off.wait(min(1.0, self._stuck / 4)):
            before, seen = seen, (self.events_done, self._hands)
            if seen != before:
                since, used = time.monotonic(), time.process_time()
                continue
            worked = time.process_time() - used
            is_idle = worked < self._stuck / 60
            if time.monotonic() - since > self._stuck and (is_idle or worked > self._stuck):
                self._abort(self._running)
                return

    def _abort(self, task: _Task) -> None:
        frame = sys._current_frames().get((task.thread or self._starter).ident or 0)
        where = "".join(traceback.format_stack(frame)[-3:]) if frame is not None else ""
        held = f"{task.name} has held the baton for {self._stuck:g} s of real time"
        self._failure = SimulationError(f"{held}; it stands at\n{where}")
        if task is self._main:
            _thread.interrupt_main()
        else:
            self._tasks.pop(task, None)
            self._running = self._main
            self._main.lock.release()
