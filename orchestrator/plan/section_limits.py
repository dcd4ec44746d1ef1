"""The limits that a schema sets to numbers, for sections that were read back from a file of ours.

Who reads what a person wrote tests each key (`config/schema`). What we have written has passed that; but a
disk may be damaged, and people do edit: a grace period of -1 s would be carried out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from orchestrator.config.schema import Limits, Section
from orchestrator.config.yaml_messages import words
from orchestrator.core.codec import DecodeError

__all__ = ["require_limits"]


def require_limits(sections: Sequence[Any]) -> None:
    """Raise DecodeError for the first number of these sections, all of one kind, that breaks its limits.

    Its place begins with the section's index.
    """
    if not sections:
        return
    kind: Any = type(sections[0])
    numbers, nested = _limited(kind)
    for name, limits in numbers:
        values = list(map(attrgetter(name), sections))
        known = [value for value in values if value is not None]
        # Of thousands the two outermost tell.
        for value in (min(known), max(known)) if known else ():
            for which, context in limits.broken(value):
                raise DecodeError(words(which, value, context)[0], f"[{values.index(value)}].{name}")
    for name in nested:
        lists = list(map(attrgetter(name), sections))
        try:
            require_limits(list(chain.from_iterable(lists)))
        except DecodeError:
            for number, each in enumerate(lists):
                try:
                    require_limits(each)
                except DecodeError as error:
                    raise error.within(f"[{number}].{name}") from None


@functools.cache
def _limited(kind: Any) -> tuple[list[tuple[str, Limits]], list[str]]:
    """The fields of a section that are numbers with limits, and those that are lists of sections."""
    hints = get_type_hints(kind, include_extras=True)
    numbers = [(name, mark) for name, hint in hints.items() for mark in _marks(hint)]
    lists = [
        name
        for name, hint in hints.items()
        if get_origin(hint) is tuple
        and isinstance(get_args(hint)[0], type)
        and issubclass(get_args(hint)[0], Section)
    ]
    return numbers, lists


def _marks(hint: Any) -> Iterator[Limits]:
    """The limits of a number, or of one that may be missing."""
    for each in (hint, *get_args(hint)):
        if get_origin(each) is Annotated:
            yield from (mark for mark in get_args(each)[1:] if isinstance(mark, Limits) and mark.given)
