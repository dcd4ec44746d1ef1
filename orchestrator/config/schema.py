"""A schema as dataclasses: types with limits, the meaning of each key, and reading plain data into them.

Stdlib only: a worker reads its configuration with `read`, and its Python need not have pydantic. On the
control node pydantic reads the same dataclasses as parts of a job; `Limits` and `Check` tell it what they
mean. The meaning of a key, for the reference, is its `description`, a text among its type's marks, or the
docstring of its section. A key that is a word of Python's own has its name as the `alias` of its field, which
pydantic takes for the only name that is written, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from itertools import islice
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from orchestrator.config.yaml_messages import Finding, Invalid, Loc, nearest, words

__all__ = ["Check", "Limits", "Section", "key", "read", "written_name"]

T = TypeVar("T")


# Name as pydantic has it -> what holds within the limit, pydantic's name of the error.
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "gt": (operator.gt, "greater_than"),
    "ge": (operator.ge, "greater_than_equal"),
    "lt": (operator.lt, "less_than"),
    "le": (operator.le, "less_than_equal"),
}
_MOST_UNKNOWN = 200  # of a section; for each, what was meant is searched for
_PLAIN = {bool: "bool_type", int: "int_type", float: "float_type", str: "string_type"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a number, or none; text, booleans, NaN and infinity are never taken for a number."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    @property
    def given(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _BOUNDS if getattr(self, name) is not None}

    def broken(self, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The limit that a value breaks, as pydantic's kind of error and its context."""
        if not isfinite(value):
            yield "finite_number", {}
        for name, limit in self.given.items():
            holds, kind = _BOUNDS[name]
            if not holds(value, limit):
                yield kind, {name: limit}

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = {**handler(source), "strict": True, **self.given}
        return {**schema, "allow_inf_nan": False} if schema["type"] == "float" else schema


@dataclass(frozen=True, slots=True)
class Check:
    """A test beyond the type: `function` gives the value, perhaps changed, or raises Invalid.

    `noun` says in the reference what is taken. `before`: it sees what was written, before the type is tested.
    """

    function: Callable[[Any], Any]
    noun: str = ""
    before: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        kind = "function-before" if self.before else "function-after"
        function = {"type": "no-info", "function": self.function}
        return {"type": kind, "function": function, "schema": handler(source)}


class Section:
    """Base of dataclasses that people write as a mapping; unknown keys are refused, by pydantic too."""

    __slots__ = ()
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "serialize_by_alias": True}


def key(default: Any, meaning: str, *, alias: str = "") -> Any:
    """A key of a section: its default and, for the reference, its meaning in a line.

    `alias` is how it is written where that cannot be the name of a field.
    """
    named = {"alias": alias} if alias else {}
    return field(default=default, metadata={"description": meaning, **named})


def written_name(item: Field[Any]) -> str:
    """How a person writes the key that this field is."""
    return str(item.metadata.get("alias", item.name))


def read(cls: type[T], data: Any) -> T:
    """`cls` of what a person wrote. Raises Invalid with every finding; key paths start at `data`.

    A whole number may be written with a point (`4.0`), as programs do that write YAML.
    """
    found: list[Finding] = []
    value: T = _section(cls, data, (), found)
    if found:
        raise Invalid.many(found)
    return value


def _section(cls: Any, data: Any, loc: Loc, found: list[Finding]) -> Any:
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        return _refuse("dict_type", data, loc, found)
    known, hints = (
        {written_name(item): item for item in fields(cls)},
        get_type_hints(cls, include_extras=True),
    )
    before = len(found)
    unknown = islice((name for name in data if name not in known), _MOST_UNKNOWN)
    found += [((*loc, name), "unknown key", nearest(str(name), known)) for name in unknown]
    missing = [name for name, item in known.items() if item.default is item.default_factory is MISSING]
    found += [((*loc, name), "is missing", "") for name in missing if name not in data]
    values = {
        known[name].name: _value(hints[known[name].name], item, (*loc, name), found)
        for name, item in data.items()
        if name in known
    }
    return cls(**values) if len(found) == before else None


def _value(hint: Any, value: Any, loc: Loc, found: list[Finding]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(args[0], args[1:], value, loc, found)
    if origin in (Union, UnionType):
        types = [item for item in args if item is not NoneType]
        if len(types) > 1 or (value is None and NoneType in args):
            return value  # of several types one was chosen by a Check, before
        return _value(types[0], value, loc, found)
    if origin is Literal:
        known = any(value == item for item in args)
        return value if known else _refuse("literal_error", value, loc, found, expected=", ".join(args))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _refuse("tuple_type", value, loc, found)
        return tuple(_value(args[0], item, (*loc, index), found) for index, item in enumerate(value))
    if is_dataclass(hint):
        return _section(hint, value, loc, found)
    if hint in _PLAIN:
        return _plain(hint, value, loc, found)
    return value if hint is Any or isinstance(value, Mapping) else _refuse("dict_type", value, loc, found)


def _marked(hint: Any, marks: tuple[Any, ...], value: Any, loc: Loc, found: list[Finding]) -> Any:
    checks = [mark for mark in marks if isinstance(mark, Check)]
    before = len(found)
    try:
        for check in checks:
            value = check.function(value) if check.before else value
        written, value = value, _value(hint, value, loc, found)
        if len(found) > before:
            return None
        for limits in (mark for mark in marks if isinstance(mark, Limits)):
            for kind, context in limits.broken(value):
                return _refuse(kind, written, loc, found, **context)
        for check in checks:
            value = value if check.before else check.function(value)
    except Invalid as error:
        found += [((*loc, *at), what, remedy) for at, what, remedy in error.findings]
    return value


def _plain(hint: Any, value: Any, loc: Loc, found: list[Finding]) -> Any:
    if hint in (bool, str):
        return value if isinstance(value, hint) else _refuse(_PLAIN[hint], value, loc, found)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (hint is int and isinstance(value, float) and not value.is_integer()):
        return _refuse(_PLAIN[hint], value, loc, found)
    return hint(value)


def _refuse(kind: str, value: Any, loc: Loc, found: list[Finding], **context: Any) -> None:
    found.append((loc, *words(kind, value, context)))
