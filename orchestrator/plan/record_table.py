"""Many records of one kind as a table: JSON in which what all of them share stands once.

    {"same": {"job": "train", …}, "each": {"host": ["h1", "h2", …], "workers": {"rows": …, "spans": …}, …}}

`each` has a column for every field that is not the same in all records. A column is one of

    [0, 1, …]                             plain values, one a record
    {"values": [a, b], "at": [0, 0, 1]}   values of any kind: the different ones, and which of them each has
    {"map": {"RANK": ["0", "1"], "N": "2"}}   mappings of texts that have the same names: a list of one text a
                                          record, or the text that all have
    {"rows": TABLE, "spans": [[0, 8], [8, 16]]}   lists of records: all records there are, and from where to
                                          where (first, behind the last, first, …) of them each list goes

The manifests of a thousand hosts are a twentieth of their plain JSON so, are read in a tenth of the time, and
equal parts of them are one object. A table that was read is as large as its file lets it be, up to a limit
for what repeats.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import chain, repeat
from operator import attrgetter
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from orchestrator.core.codec import DecodeError, from_json, to_json
from orchestrator.core.visible_text import visible

__all__ = ["lists_of", "lists_read", "records_read", "table_of"]

T = TypeVar("T")

# Of what is repeated by a few characters so much is read: a damaged file must not take all memory.
_MOST_REPEATED = 1 << 24
_INT = 1 << 63
_TEXT, _WHOLE, _TEXT_OR_NONE = frozenset((str,)), frozenset((int,)), frozenset((str, NoneType))
_PLAIN = frozenset((str, int, float, bool, NoneType))


def table_of(kind: type[T], records: Sequence[T]) -> dict[str, Any]:
    """The table of these records, as `json` can write it."""
    same: dict[str, Any] = {}
    each: dict[str, Any] = {}
    of: Any = kind
    if records:
        for name, hint in _hints(of).items():
            values = list(map(attrgetter(name), records))
            # The number of records is that of a column: at least one there must be.
            if _are_equal(values) and (each or name != _last_name(of)):
                same[name] = to_json(values[0])
            else:
                each[name] = _column(hint, values)
    return {"same": same, "each": each}


def lists_of(kind: type[T], lists: Sequence[Sequence[T]]) -> dict[str, Any]:
    """The column of these lists of records."""
    pool: list[T] = []
    numbers: dict[int, int] = {}  # by the object; all of them live as long as this
    by_value: dict[T, int] | None = {} if _is_hashable(lists) else None
    found: dict[int, list[int]] = {}  # nearly always many have the same list
    for items in lists:
        if id(items) in found:
            continue
        spans = found[id(items)] = []
        for item in items:
            number = numbers.get(id(item))
            if number is None:
                number = len(pool) if by_value is None else by_value.setdefault(item, len(pool))
                if number == len(pool):
                    pool.append(item)
                numbers[id(item)] = number
            if spans and spans[-1] == number:
                spans[-1] += 1
            else:
                spans += (number, number + 1)
    return {"rows": table_of(kind, pool), "spans": [found[id(items)] for items in lists]}


def records_read(kind: type[T], data: Any) -> list[T]:
    """The records of a table. Raises DecodeError with the place of what is wrong."""
    of: Any = kind
    parts = _object(data)
    same, each = (_part(parts, name) for name in ("same", "each"))
    if not each:
        return []
    columns: dict[str, Iterable[Any]] = {}
    count: int | None = None
    for name, hint in _hints(of).items():
        if name in each:
            columns[name] = found = _within(f".each.{name}", _column_read, hint, each[name])
            count = len(found) if count is None else count
            if len(found) != count:
                raise DecodeError(f"expected {count} values, got {len(found)}", f".each.{name}")
        elif name in same:
            columns[name] = repeat(_within(f".same.{name}", from_json, hint, same[name]))
        else:
            columns[name] = repeat(_default(_fields(of)[name]))
    if count is None:
        raise DecodeError("no column of what is known", ".each")
    return list(map(kind, *columns.values()))


def lists_read(kind: type[T], data: Any) -> list[tuple[T, ...]]:
    """The lists of a column that `lists_of` made; equal ones are one object. Raises DecodeError."""
    parts = _object(data)
    rows = _within(".rows", records_read, kind, parts.get("rows"))
    spans = _within(".spans", from_json, tuple[tuple[int, ...], ...], parts.get("spans"))
    made: dict[tuple[int, ...], tuple[T, ...]] = {}
    total = 0
    for number, span in enumerate(spans):
        if span in made:
            continue
        pairs = list(zip(span[::2], span[1::2], strict=False))
        if len(span) % 2 or any(not 0 <= begin < end <= len(rows) for begin, end in pairs):
            raise DecodeError(f"no spans of {len(rows)} rows", f".spans[{number}]")
        total += sum(end - begin for begin, end in pairs)
        if total > _MOST_REPEATED:
            raise DecodeError("they repeat too much", ".spans")
        made[span] = tuple(chain.from_iterable(rows[begin:end] for begin, end in pairs))
    return [made[span] for span in spans]


# Of a kind of record.


@functools.cache
def _fields(kind: Any) -> dict[str, Field[Any]]:
    return {each.name: each for each in fields(kind) if each.init}


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The type of each field, in the order in which a record is made of them."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in _fields(kind)}


@functools.cache
def _last_name(kind: Any) -> str:
    return list(_fields(kind))[-1]


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return item.default
    if item.default_factory is not MISSING:
        return item.default_factory()
    raise DecodeError("is missing", f".each.{item.name}")


def _listed_kind(hint: Any) -> Any:
    """The kind of record of which a value of this type is a list; None where it is none."""
    args = get_args(hint)
    is_list = get_origin(hint) is tuple and len(args) == 2 and args[1] is ...
    return args[0] if is_list and is_dataclass(args[0]) else None


def _is_of_texts(hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    return args == (str, str) and isinstance(origin, type) and issubclass(origin, Mapping)


def _is_hashable(lists: Iterable[Sequence[Any]]) -> bool:
    """Whether their records can be found by what is in them; those with mappings in them cannot."""
    first = next(chain.from_iterable(lists), None)
    try:
        hash(first)
    except TypeError:
        return False
    return True


# Columns that are written.


def _are_equal(values: Sequence[Any]) -> bool:
    return values[0] == values[-1] and values.count(values[0]) == len(values)


def _column(hint: Any, values: list[Any]) -> Any:
    if _PLAIN.issuperset(map(type, values)):
        return values
    kind = _listed_kind(hint)
    if kind is not None and _distinct_items(values) <= _MOST_REPEATED:
        return lists_of(kind, values)
    if _is_of_texts(hint) and len(values[0]) * len(values) <= _MOST_REPEATED:
        found = _map_column(values)
        if any(isinstance(texts, list) for texts in found.values()):  # one must tell how many there are
            return {"map": found}
    return _few(values)


def _map_column(values: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The texts of each name; nothing where the names differ, or stand in another order."""
    names = tuple(values[0])
    if any(tuple(value) != names for value in values):
        return {}
    columns = zip(*(value.values() for value in values), strict=True)
    return {
        name: texts[0] if _are_equal(texts) else list(texts)
        for name, texts in zip(names, columns, strict=True)
    }


def _distinct_items(lists: Iterable[Sequence[Any]]) -> int:
    return sum(map(len, {id(items): items for items in lists}.values()))


def _few(values: Iterable[Any]) -> dict[str, Any]:
    """The different ones of these values, and which of them each is."""
    known: dict[str, int] = {}
    by_object: dict[int, int] = {}
    found: list[Any] = []
    at: list[int] = []
    for value in values:
        number = by_object.get(id(value))
        if number is None:
            data = to_json(value)
            number = by_object[id(value)] = known.setdefault(json.dumps(data), len(found))
            if number == len(found):
                found.append(data)
        at.append(number)
    return {"values": found, "at": at}


# Columns that are read.


def _column_read(hint: Any, data: Any) -> Sequence[Any]:
    if isinstance(data, list):
        return _plain_read(hint, data)
    parts, kind = _object(data), _listed_kind(hint)
    if "rows" in parts and kind is not None:
        return lists_read(kind, parts)
    if "map" in parts and _is_of_texts(hint):
        maps: Sequence[Any] = _within(".map", _maps_read, parts["map"])
        return maps
    if "values" not in parts:
        raise DecodeError("expected a column: rows and spans, a map, or values and at")
    values: Sequence[Any] = _within(".values", from_json, tuple[hint, ...], parts["values"])
    at = _within(".at", from_json, tuple[int, ...], parts.get("at"))
    if at and not 0 <= min(at) <= max(at) < len(values):
        raise DecodeError(f"there are {len(values)} values", ".at")
    return [values[number] for number in at]


def _plain_read(hint: Any, data: list[Any]) -> Sequence[Any]:
    """One value a record; equal texts are one object."""
    kinds = set(map(type, data))
    if hint is int and kinds <= _WHOLE and data and -_INT <= min(data) <= max(data) < _INT:
        return data
    if hint is str and kinds <= _TEXT:
        return list(map(sys.intern, data))
    if kinds <= _TEXT_OR_NONE and hint == (str | None):
        return [None if text is None else sys.intern(text) for text in data]
    return from_json(tuple[hint, ...], data)


def _maps_read(data: Any) -> list[dict[str, str]]:
    columns: list[Iterable[str]] = []
    count: int | None = None
    for name, texts in _object(data).items():
        if isinstance(texts, str):
            columns.append(repeat(texts))
            continue
        found = _within(f".{visible(name[:40])}", from_json, tuple[str, ...], texts)
        count = len(found) if count is None else count
        if len(found) != count:
            raise DecodeError(f"expected {count} texts, got {len(found)}", f".{visible(name[:40])}")
        columns.append(map(sys.intern, found))
    if count is None:
        raise DecodeError("it has no list")
    if count * len(columns) > _MOST_REPEATED:
        raise DecodeError("it repeats too much")
    return [dict(zip(data, row, strict=True)) for row in zip(*columns, strict=False)]


def _object(data: Any) -> dict[str, Any]:
    return from_json(dict, data)


def _part(parts: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = _within(f".{name}", from_json, dict, parts.get(name, {}))
    return found


def _within(place: str, read: Any, *args: Any) -> Any:
    """What `read` gives; its errors say that it was at this place."""
    try:
        return read(*args)
    except DecodeError as error:
        raise error.within(place) from None
