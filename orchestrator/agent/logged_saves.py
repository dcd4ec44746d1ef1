"""MindFormers' saves, as its log tells of them: which step is being saved, and when a checkpoint is whole.

The number of the step is said with the save from 1.3.0 on, that a checkpoint is whole from 1.3.2 on. Before,
a save ends with the next step, and which step is whole nobody says. Source: core/callback/callback.py and
checkpoint/checkpoint.py of the wheels. Pure.

    ......Saving ckpt......                                       the begin, all versions
    step_num: 10                                                  its step, from 1.3.0
    Finish saving ckpt of epoch 1 step 10 using 0.146 seconds     the end, from 1.3.2
    ....... Start to save checkpoint as new format .......        checkpoint 2.0, from 1.7.0
    At current iteration '10', the weight will be saved in: '…'.
    Save checkpoint cost time: 0.146s.
    successfully async saved checkpoint from step '10' to '…'.    of an asynchronous save, and of rank 0 alone
"""

from __future__ import annotations

import re
from collections import deque
from typing import Deque, Optional, Tuple

from orchestrator.core.record_class import dataclass

__all__ = ["Saves", "Whole", "is_save_begun"]

_BEGUN = frozenset({"Saving ckpt", "Start to save checkpoint as new format", "Start to save checkpoint"})
_STEP = re.compile(
    r"step_num: (\d{1,12})|At current iteration '(\d{1,12})', the weight will be saved in: .*", re.ASCII
)
_WHOLE = re.compile(r"Finish saving ckpt of epoch (\d{1,9}) step (\d{1,12}) using (-?\d{1,9}\.\d{3}) seconds")
_WHOLE_2 = re.compile(r"Save checkpoint cost time: (\d{1,9}\.\d{3})s")
_WHOLE_ASYNC = re.compile(r"successfully async saved checkpoint from step '(\d{1,12})' to .*")
_MOST = 16


def is_save_begun(words: str) -> bool:
    """Whether a line, without the points around it, tells the begin of a save."""
    return words in _BEGUN


@dataclass(frozen=True)
class Whole:
    """A save is over that began at `began`: of which step the checkpoint is, and the seconds that it took, as
    far as that is certain."""

    began: float
    step: Optional[int] = None
    seconds: Optional[float] = None


class Saves:
    """Of one worker. `initial`: the step from which it went on; `sink`: the steps of one, 0: not known."""

    def __init__(self) -> None:
        self.initial = self.sink = 0
        self._made: Optional[int] = None
        self._gap = 1  # between two steps that are printed
        self._each = 0
        self._is_sunk = False
        self._began = 0.0
        self._is_open = False
        self._pending: Deque[Tuple[int, float]] = deque(maxlen=_MOST)

    def note_step(self, step: int, each: int, *, is_sunk: bool) -> int:
        """A step was printed, of `each` of an epoch; how many after the one before it."""
        self._gap = step - self._made if self._made is not None and step > self._made else self._gap
        self._made, self._each, self._is_sunk, self._is_open = step, each, is_sunk, False
        return self._gap

    def begin(self, moment: float) -> None:
        """A save has begun; one that is told in two ways is one."""
        if not self._is_open:
            self._began, self._is_open = moment, True

    def take(self, words: str) -> Optional[Whole]:
        """What another line says of saves: that one is over, or nothing."""
        step = _STEP.fullmatch(words)
        if step is not None and self._is_open:
            self._name(int(step[1] or step[2]))
        whole = _WHOLE.fullmatch(words)
        if whole is not None:
            seconds = float(whole[3])
            return self._end(self._named(int(whole[1]), int(whole[2])), seconds if seconds >= 0 else None)
        whole = _WHOLE_2.fullmatch(words)
        if whole is not None and self._is_open:
            newest = self._pending[-1] if self._pending else None
            is_this = newest is not None and newest[1] == self._began
            return self._end(newest if is_this else None, float(whole[1]))
        whole = _WHOLE_ASYNC.fullmatch(words)
        if whole is not None:
            number = int(whole[1])
            return self._end(next((each for each in self._pending if each[0] == number), None), None)
        return None

    def _name(self, step: int) -> None:
        """The step that is being saved, if it can be: it was printed just now, or comes before the next."""
        is_near = self._made is not None and self._made <= step <= self._made + self._gap
        if is_near and not any(each[0] == step for each in self._pending):
            self._pending.append((step, self._began))

    def _named(self, epoch: int, step: int) -> Optional[Tuple[int, float]]:
        """Which of those that are being saved is meant by an epoch and its step.

        They are counted in what a sink takes, where there is one, and of a run that went on from its begin.
        """
        each = (self.sink or step) if self._is_sunk else self._each
        counted = (epoch - 1) * each + step
        return next((each for each in self._pending if each[0] - counted in (0, self.initial)), None)

    def _end(self, which: Optional[Tuple[int, float]], seconds: Optional[float]) -> Whole:
        self._is_open = False
        if which is None:
            return Whole(self._began)
        while self._pending and self._pending[0][0] <= which[0]:
            self._pending.popleft()
        return Whole(which[1], which[0], seconds)
