"""The proof that a run hangs, for a policy that ends it then: two sets of stacks that are the same. Pure.

No step for longer than may be is a sign; that every rank is in the same functions half a limit later is the
proof. Who moves meanwhile is waited for, and what is not known proves nothing: a rank that tells no stacks, a
host that does not answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from orchestrator.control.hang_stacks import StackFold

__all__ = ["HangProof"]


class HangProof:
    """Of one run; times are of a steady clock. `due` is when there is something to do."""

    def __init__(self) -> None:
        self._before: StackFold | None = None
        self._again = self._settled = math.inf

    @property
    def due(self) -> float:
        return min(self._again, self._settled)

    def forget(self) -> None:
        """It went on."""
        self._before = None
        self._again = self._settled = math.inf

    def start_anew(self, now: float, half: float) -> None:
        """Nothing could be seen for a while: the first set is taken again."""
        self.forget()
        self._again = now + half

    def looked(
        self, stacks: StackFold, ranks: Collection[int], now: float, *, half: float, settle: float
    ) -> None:
        """A set of stacks is there; `ranks` are all that can be seen, none where a host cannot be.

        The next one is taken after `half` a limit. Where this one is as the one before, a step that was made
        before it has been told of within `settle` seconds.
        """
        is_whole = stacks.tells_of(ranks)
        is_same = is_whole and self._before is not None and stacks.is_like(self._before)
        self._before = stacks if is_whole else None
        self._again = math.inf if is_same else now + half
        self._settled = now + settle if is_same else math.inf

    def wants_stacks(self, now: float) -> bool:
        """Whether the next set is to be asked for; it is said once."""
        if now < self._again:
            return False
        self._again = math.inf
        return True

    def holds(self, now: float) -> bool:
        """Whether the run hangs, if it has made no step until now."""
        return now >= self._settled
