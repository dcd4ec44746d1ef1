"""Stop request: a rank that trains was sent SIGTERM, and all ranks stop after the same step for it.

A signal reaches ranks at different times, or some of them only. So it is noted, and goes as a number into the
sum over all ranks that every step makes anyway: all see the same sum, in the same step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest"]

# A step that takes longer than this, and than so many of the longest one, is taken for one that never ends.
_LEAST, _STEPS = 60.0, 5


class StopRequest:
    """Whether this process was sent SIGTERM. Until `listen` the signal ends it at once, as any process.

    A step that waits for a rank that is gone never ends, and then nobody asks what was noted. Whoever sent
    the signal may not mind: MindSpore sends it to its own process when it has lost its cluster. So a step
    that does not end after the signal is given up: `give_up` is called with what to say.
    """

    def __init__(
        self, give_up: Callable[[str], None] | None = None, least: float = _LEAST, look: float = 1.0
    ) -> None:
        self.asked = False
        self._give_up, self._look = give_up or _end_process, look
        self._agreed = threading.Event()
        self._listens = False
        self._began: float | None = None  # the step that is computed now
        self._limit = least  # of seconds

    def listen(self) -> None:
        """Note the signal from now on; called again, it does nothing."""
        if self._listens:
            return
        self._listens = True
        self._learn(1)  # this step has compiled, and may have more to compile
        awake, wake = os.pipe()
        os.set_blocking(wake, False)
        # The interpreter writes there at once, also while its main thread waits in native code.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_forget)
        threading.Thread(target=self._watch, args=(awake,), name="stop request", daemon=True).start()
        signal.signal(signal.SIGTERM, self._note)
        signal.siginterrupt(signal.SIGTERM, False)  # native code may not expect to be interrupted

    @contextmanager
    def during_step(self) -> Iterator[None]:
        """A step is computed, with all the other ranks."""
        self._began = time.monotonic()
        was_listening = self._listens
        yield
        if was_listening:
            self._learn(_STEPS)
        self._began = None

    def agree(self) -> None:
        """All ranks have seen the request."""
        self._agreed.set()

    def _learn(self, times: int) -> None:
        if self._began is not None:
            self._limit = max(self._limit, times * (time.monotonic() - self._began))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def _watch(self, awake: int) -> None:
        while signal.SIGTERM not in os.read(awake, 64):
            pass
        told = time.monotonic()
        limit = self._limit
        while not self._agreed.wait(self._look):
            began = self._began
            if began is not None and time.monotonic() - max(told, began) > limit:
                self._give_up(f"got SIGTERM, and the step did not end in {limit:.0f} s: nothing is saved")
                return


def _forget() -> None:
    """In a process that was forked off: its parent ends it with this signal."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_process(message: str) -> None:
    """The main thread waits in native code, which nothing can interrupt."""
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(1)
