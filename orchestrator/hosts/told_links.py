"""The links of a feed that can be read: told by the threads that hear of it, taken by who reads them.

What is urgent wakes who reads at once. What is not, how far ranks are and that somebody is there, waits until
it is looked for, and then all of it is taken together: a thousand hosts that say so one after the other would
wake a thousand times. Nobody looks where nothing comes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from orchestrator.hosts.host_link import Link
from orchestrator.hosts.scheduling import Signal

__all__ = ["ToldLinks"]

# What can wait is looked for so often, in seconds: while nobody looks at the run, and while somebody does.
_CALM, _CALM_SHOWN = 1.0, 0.2


class ToldLinks:
    """`tell` and `tell_calmly` are for any thread, all else for the one that reads; `signal` wakes that."""

    def __init__(self, signal: Signal, clock: Callable[[], float]) -> None:
        self.due = math.inf
        """When it is to be looked again for what can wait, though nobody is woken (of `clock`)."""
        self._signal, self._clock = signal, clock
        self._links: deque[Link] = deque()
        self._pause = _CALM
        self._is_calm = False  # whether any link tells what can wait from what cannot

    def set_viewers(self, count: int) -> None:
        """So many look at the run."""
        self._pause = _CALM_SHOWN if count else _CALM

    def tell(self, link: Link) -> None:
        """This link can be read."""
        self._add(link)
        self._signal.set()

    def tell_calmly(self, link: Link) -> None:
        """This link can be read, and there is nothing urgent."""
        self._is_calm = True
        self._add(link)
        if self.due == math.inf:  # only now: `take` says that it will not look before it does
            self._signal.set()

    def _add(self, link: Link) -> None:
        if not link.is_told:
            link.is_told = True
            self._links.append(link)

    def take(self) -> Iterator[Link]:
        """Those that were told by now, each once."""
        self.due = math.inf
        count = len(self._links)
        for _ in range(count):
            link = self._links.popleft()
            link.is_told = False
            yield link
        if count and self._is_calm:
            self.due = self._clock() + self._pause
