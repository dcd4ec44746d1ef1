"""The folding of logs: equal lines of several workers become one line with all their labels.

The order of each worker's lines stays. A line waits until no other worker has it further behind, at most for
a bounded time and in a bounded room.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from orchestrator.control.log_stream import LogBatch, LogLine, iter_lines

__all__ = ["FOLDED_BLOCK", "FoldedLine", "fold_lines"]

# What is to be read of a log at a time: several of each host have room.
FOLDED_BLOCK = 1 << 16
_MOST_HELD = 32 << 20  # characters, of all workers together
_A_LINE_COSTS = 300  # at least, whatever is in it
_LONGEST_WAIT = 1.0  # seconds: more than hosts that are asked every half second are apart


@dataclass(frozen=True, slots=True)
class FoldedLine:
    """A line and who wrote it, in the order of coming; the rest is of the first of them."""

    labels: tuple[str, ...]
    line: LogLine


def fold_lines(
    batches: Iterable[LogBatch | None],
    *,
    clock: Callable[[], float] = time.monotonic,
    most: int = _MOST_HELD,
    wait: float = _LONGEST_WAIT,
) -> Iterator[FoldedLine]:
    """The lines of these batches; those that `wait` seconds have gone by for, or that have no room, first."""
    waiting = _Waiting()
    for batch in batches:
        now = clock()
        if batch is not None:
            for line in iter_lines(iter([batch])):
                waiting.add(line, now)
        while waiting.held > most:
            yield waiting.take()
        late = waiting.count_before(now - wait)
        while late > 0:
            folded = waiting.take()
            late -= len(folded.labels)
            yield folded
    while waiting.held:
        yield waiting.take()


class _Waiting:
    """The lines that wait, a queue for each worker, and which of them are in front."""

    def __init__(self) -> None:
        self.held = 0
        self._queues: dict[str, deque[tuple[LogLine, float]]] = {}
        # How often a text waits in all, and whose queues it is in front of.
        self._count: Counter[str] = Counter()
        self._fronts: dict[str, dict[str, None]] = {}

    def count_before(self, moment: float) -> int:
        """How many lines wait since before that moment."""
        return sum(
            1 for queue in self._queues.values() for _ in takewhile(lambda item: item[1] < moment, queue)
        )

    def add(self, line: LogLine, now: float) -> None:
        queue = self._queues.setdefault(line.label, deque())
        queue.append((line, now))
        self._count[line.text] += 1
        self.held += _A_LINE_COSTS + len(line.text)
        if len(queue) == 1:
            self._fronts.setdefault(line.text, {})[line.label] = None

    def take(self) -> FoldedLine:
        """The text in front that no other worker has further behind; if there is none, the commonest."""
        text = next((text for text, labels in self._fronts.items() if len(labels) == self._count[text]), None)
        if text is None:
            text = max(self._fronts, key=lambda text: len(self._fronts[text]))
        labels = tuple(self._fronts.pop(text))
        line = self._queues[labels[0]][0][0]
        for label in labels:
            self._drop(label, text)
        return FoldedLine(labels, line)

    def _drop(self, label: str, text: str) -> None:
        queue = self._queues[label]
        queue.popleft()
        self.held -= _A_LINE_COSTS + len(text)
        self._count[text] -= 1
        if not self._count[text]:
            del self._count[text]
        if queue:
            self._fronts.setdefault(queue[0][0].text, {})[label] = None
        else:
            del self._queues[label]
