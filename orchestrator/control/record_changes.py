"""The changes between two records of a run, and the lines of the journal that they are written down in.

A change is a place and what is there now: `[["hosts", "h1", "status", "ranks", 3, "state"], "failed"]`. It is
made of two values and applied to the JSON of the first, which then is that of the second.

A journal has a line of JSON for every time that something has changed. The first says to which snapshot the
journal belongs; each other one has its number, from 1, and its changes. All end with the CRC-32 of what is
before it in the line, so that one which was cut, or damaged, is known for that:

    {"format": 1, "snapshot": "9f0c…", "crc32": "…"}
    {"sequence": 1, "set": [[["phase"], "running"], …], "crc32": "…"}
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.core.codec import DecodeError, NewerFormat, parse, to_json

__all__ = [
    "Change",
    "Journal",
    "apply_changes",
    "change_line",
    "differ",
    "differences",
    "differences_of",
    "header_line",
]

Change = Sequence[Any]

_FORMAT = 1
_NONE: frozenset[str] = frozenset()
_PLAIN = frozenset((str, int, float, bool, type(None)))
_MARK = b', "crc32": "'
_END = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\Z')


def differences(
    before: Any, after: Any, place: tuple[str | int, ...] = (), but: frozenset[str] = _NONE
) -> list[list[Any]]:
    """The changes that make `after` of `before`: of dataclasses, and of tuples and mappings of them, by part.

    Fields of the names in `but` are left as they were, except in what is another one as a whole. What is the
    same object is not looked into, so that it costs next to nothing.
    """
    found: list[list[Any]] = []
    if before is not after:
        _collect(before, after, place, found, but)
    return found


def differences_of(
    before: Any, after: Any, place: tuple[str | int, ...], names: frozenset[str]
) -> list[list[Any]]:
    """What `differences` without these names has left out; `before` is as when that was last taken along."""
    found: list[list[Any]] = []
    if before is not after:
        _collect_of(before, after, place, found, names)
    return found


def _collect(
    before: Any, after: Any, place: tuple[str | int, ...], found: list[list[Any]], but: frozenset[str]
) -> None:
    """Of two objects, into one list: through generators of generators each change of a rank would go five
    times."""
    kind = type(after)
    parts = _parts(kind, but) if type(before) is kind else None
    if parts is not None:
        for name, old, new in zip(_names(kind, but), parts(before), parts(after), strict=True):
            if old is new:
                continue
            if type(old) is type(new) not in _PLAIN:
                _collect(old, new, (*place, name), found, but)
            elif old != new:  # plain, or nothing of it was there: it has no parts to compare
                found.append([(*place, name), to_json(new)])
    elif kind not in _PLAIN and _alike(before, after):
        items = after.items() if isinstance(after, Mapping) else enumerate(after)
        for key, value in items:
            if before[key] is not value:
                _collect(before[key], value, (*place, key), found, but)
    elif before != after:
        found.append([place, to_json(after)])


def _collect_of(
    before: Any, after: Any, place: tuple[str | int, ...], found: list[list[Any]], names: frozenset[str]
) -> None:
    """Into one list, as `_collect`. What has such fields and is another one as a whole counts as a whole."""
    kind = type(after)
    parts = _parts(kind, _NONE) if type(before) is kind else None
    if parts is not None:
        for name, old, new in zip(_names(kind, _NONE), parts(before), parts(after), strict=True):
            if old is not new and name in names:
                _collect(old, new, (*place, name), found, _NONE)
            elif old is not new and type(new) not in _PLAIN:
                _collect_of(old, new, (*place, name), found, names)
    elif _alike(before, after):
        items = after.items() if isinstance(after, Mapping) else enumerate(after)
        for key, value in items:
            if before[key] is not value:
                _collect_of(before[key], value, (*place, key), found, names)
    elif _may_have_fields(after) and before != after:
        found.append([place, to_json(after)])


def _may_have_fields(value: Any) -> bool:
    """Whether it is a dataclass, or a collection of some."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
    return any(_names(type(each), _NONE) for each in inner)


def _names_of(kind: type, but: frozenset[str]) -> tuple[str, ...]:
    """The fields of a dataclass, except for some; of another type none."""
    if not dataclasses.is_dataclass(kind):
        return ()
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in but)


_names: Callable[..., tuple[str, ...]] = functools.cache(_names_of)


def _parts_of(kind: type, but: frozenset[str]) -> Callable[[Any], tuple[Any, ...]] | None:
    """What reads all these fields at once, instead of one by one; None where there are none."""
    names = _names(kind, but)
    if len(names) < 2:
        return (lambda value: tuple(getattr(value, name) for name in names)) if names else None
    return operator.attrgetter(*names)


_parts: Callable[..., Callable[[Any], tuple[Any, ...]] | None] = functools.cache(_parts_of)


def _alike(before: Any, after: Any) -> bool:
    """Whether both are collections of dataclasses with the same places."""
    if type(after) is tuple and type(before) is tuple:
        return len(before) == len(after) > 0 and bool(_names(type(after[0]), _NONE))
    if type(after) is dict and type(before) is dict:
        return bool(_names(type(next(iter(after.values()), None)), _NONE)) and before.keys() == after.keys()
    return False


def differ(before: Any, after: Any, but: frozenset[str]) -> bool:
    """Whether two values differ in more than fields of these names."""
    if before is after:
        return False
    parts = _parts(type(after), but) if type(before) is type(after) else None
    if parts is not None:
        for old, new in zip(parts(before), parts(after), strict=True):
            if old is not new and differ(old, new, but):
                return True
        return False
    if _alike(before, after):
        keys = after if isinstance(after, Mapping) else range(len(after))
        return any(differ(before[key], after[key], but) for key in keys)
    return bool(before != after)


def apply_changes(data: dict[str, Any], changes: Iterable[Change]) -> None:
    """Change the JSON of a value in place. Raises DecodeError for what cannot be a change of it."""
    for change in changes:
        try:
            (*way, last), value = change
            inner: Any = data
            for step in way:
                inner = inner[step]
            if isinstance(inner, list) and not 0 <= last < len(inner):
                raise IndexError(last)
            if not isinstance(inner, dict if isinstance(last, str) else list):
                raise TypeError(type(inner))
            inner[last] = value
        except (LookupError, TypeError, ValueError):
            raise DecodeError("a change of what is not there") from None


def header_line(snapshot: str) -> bytes:
    """The first line of the journal of the snapshot of this name."""
    return _line({"format": _FORMAT, "snapshot": snapshot})


def change_line(sequence: int, changes: Sequence[Change]) -> bytes:
    """The line for the changes with this number."""
    return _line({"sequence": sequence, "set": changes})


# What is written has been made of values just now, and holds nothing twice: nobody looks for rings.
_encode = json.JSONEncoder(check_circular=False).encode


def record_text(data: Mapping[str, Any]) -> bytes:
    """The JSON of a part of a record, or of all of it."""
    return _encode(data).encode()


def _line(data: Mapping[str, Any]) -> bytes:
    text = record_text(data)[:-1]
    return b'%s%s%08x"}\n' % (text, _MARK, zlib.crc32(text))


@dataclasses.dataclass(frozen=True)
class Journal:
    """What a journal says: of which snapshot it is, and its changes in their order.

    A last line that is not whole was being written; it counts for nothing. `problem` says where one before it
    is damaged: what lies behind it does not count. It is empty else.
    """

    snapshot: str = ""
    changes: tuple[Sequence[Change], ...] = ()
    problem: str = ""

    @classmethod
    def of(cls, content: bytes) -> Journal:
        """Read a journal. Raises NewerFormat for one of a newer version."""
        first, *lines = content.split(b"\n")
        if lines and not lines[-1]:
            lines.pop()
        header = _checked(first)
        if header is None:
            return cls(problem=_problem(1, len(lines)))
        if isinstance(header.get("format"), int) and header["format"] > _FORMAT:
            raise NewerFormat(f"its journal has format {header['format']}, a newer version's")
        changes: list[Sequence[Change]] = []
        problem = ""
        for number, line in enumerate(lines, start=1):
            found = _checked(line)
            if found is None or found.get("sequence") != number or not isinstance(found.get("set"), list):
                problem = _problem(number + 1, len(lines) - number)
                break
            changes.append(found["set"])
        return cls(str(header.get("snapshot")), tuple(changes), problem)


def _problem(line: int, behind: int) -> str:
    """What is said of a damaged line; nothing of the last one."""
    return f"line {line} is damaged: it and the {behind} behind it do not count" if behind else ""


def _checked(line: bytes) -> dict[str, Any] | None:
    """What a whole line says; None for another one."""
    found = _END.search(line[-32:])
    if found is None:
        return None
    text = line[: len(line) - (found.end() - found.start())]
    if int(found.group(1), 16) != zlib.crc32(text):
        return None
    try:
        data = parse(line)
    except DecodeError:
        return None
    return data if isinstance(data, dict) else None
