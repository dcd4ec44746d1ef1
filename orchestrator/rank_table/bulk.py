"""Work on tens of thousands of small objects of which none is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["in_bulk"]


@contextmanager
def in_bulk() -> Iterator[None]:
    """Without the cycle collector, which would walk over all parts of a table again and again.

    It costs more than the rules themselves from about a thousand servers on.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
