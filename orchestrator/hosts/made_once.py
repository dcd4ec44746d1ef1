"""What many threads ask for at once is made once: by the first of them, while the others wait.

`functools.cache` alone has each of them make it: it only keeps what has been made before it was asked for.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["made_once"]

P = ParamSpec("P")
T = TypeVar("T")


def made_once(make: Callable[P, T]) -> Callable[P, T]:
    """`make`, called once for each set of arguments; for what is the same for all hosts of a process.

    `make` must not ask for another result of its own. What it raises is not kept.
    """
    kept: dict[object, T] = {}
    making = threading.Lock()

    @functools.wraps(make)
    def found(*args: P.args, **named: P.kwargs) -> T:
        asked = (args, frozenset(named.items()))
        with making:
            if asked not in kept:
                kept[asked] = make(*args, **named)
            return kept[asked]

    return found
