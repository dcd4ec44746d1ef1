"""The cycle collector of a monitor: none while its modules are imported, and seldom after that."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["rare_gc"]

# Python looks through what is new after 700 objects. Launching on a host makes thousands, and next to none of
# them are garbage in cycles: to look for it was a tenth of what a launch costs.
_NEW, _GENERATIONS = 20_000, 20


@contextlib.contextmanager
def rare_gc() -> Iterator[None]:
    """For the imports of a process: what they make stays, and is never looked through."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_NEW, _GENERATIONS, _GENERATIONS)
        gc.enable()
