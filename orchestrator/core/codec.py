"""The JSON of dataclasses: what the project keeps on disk and what hosts answer, by the type hints.

`to_json` and `from_json` turn a value into what `json` writes and back. A key that the dataclass does not
know is ignored and one that is missing has the field's default, so that two versions read each other's files;
a value of another type is refused with its place, `hosts.h1.ranks[3].exit_code: expected a whole number`.

A hint may be bool, int, float, str, a subclass of int or str that refuses what it cannot be (an enum too),
Path, Any, a Literal, a tuple, list, mapping or Optional of these, or a dataclass. A pydantic model checks
itself. A float is finite and an int fits 64 bits: the rest of the project can count with them.

`dumps` and `loads` are for files: they write the format's number, and refuse the number of a newer one. A
dataclass whose keys have changed has a class method `upgrade`, which makes the new keys of the old ones.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from collections import abc
from pathlib import Path
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    List,
    Literal,
    Mapping,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from orchestrator.core.record_class import MISSING, fields, is_dataclass
from orchestrator.core.safe_open import read_safely
from orchestrator.core.visible_text import visible

__all__ = [
    "DecodeError",
    "NewerFormat",
    "Stored",
    "dumps",
    "from_json",
    "load",
    "loads",
    "parse",
    "readable",
    "to_json",
    "unpacked",
]

T = TypeVar("T")
S = TypeVar("S", bound="Stored")
_Decoder = Callable[[Any], Any]
_INT = 1 << 63
_DECIMAL = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class DecodeError(ValueError):
    """JSON that does not fit its type; `place` is where in it, empty for the whole."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.place = place

    def __str__(self) -> str:
        return f"{self.place.lstrip('.')}: {self.what}" if self.place else self.what

    def within(self, step: str) -> DecodeError:
        """The same error as the holder of the value sees it."""
        return DecodeError(self.what, step + self.place)


class NewerFormat(DecodeError):
    """A file that a newer version wrote in a format this one does not know."""


class Stored:
    """Base of the dataclasses that are files of their own; `FORMAT` grows when old readers would misread.

    `LARGEST` is how many bytes such a file may have to be read.
    """

    FORMAT: ClassVar[int] = 1
    LARGEST: ClassVar[int] = 16 << 20


def dumps(value: Stored) -> str:
    """The text of a file that holds this value."""
    return json.dumps({"format": value.FORMAT, **to_json(value)}, check_circular=False)  # it has no rings


def load(kind: Type[S], path: Path, below: Path) -> S:
    """The value in a file, opened as `open_safely` does. Raises OSError, and what `loads` raises."""
    return loads(kind, read_safely(path, below, kind.LARGEST))


def loads(kind: Type[S], text: Union[str, bytes]) -> S:
    """The value that a file holds. Raises DecodeError; NewerFormat where only a newer version can know."""
    return from_json(kind, unpacked(kind, text))


def unpacked(kind: Type[Stored], text: Union[str, bytes]) -> Dict[str, Any]:
    """What a file of this kind says, before it is made a value; it raises what `loads` does."""
    return readable(kind, parse(text))


def readable(kind: Type[Stored], data: Any) -> Dict[str, Any]:
    """The JSON of such a file, if it is an object of a format that this version knows; else DecodeError."""
    if not isinstance(data, dict):
        raise DecodeError(f"expected an object, got {_shown(data)}")
    written = data.get("format", 1)
    if not isinstance(written, int) or isinstance(written, bool):
        raise DecodeError(f"expected a whole number, got {_shown(written)}", "format")
    if written > kind.FORMAT:
        raise NewerFormat(f"it has format {written}, a newer version's; this one reads up to {kind.FORMAT}")
    return data


def parse(text: Union[str, bytes]) -> Any:
    """What JSON text says. Raises DecodeError, also where it is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DecodeError("it is nested too deep") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise DecodeError(f"it is no JSON ({error})") from None


def to_json(value: Any) -> Any:
    """The value as `json` can write it."""
    kind = type(value)
    if kind in _AS_IS:
        return value
    if kind in (tuple, list):
        return list(value) if _AS_IS.issuperset(map(type, value)) else [to_json(item) for item in value]
    if kind is dict:
        if _TEXT.issuperset(map(type, value)) and _AS_IS.issuperset(map(type, value.values())):
            return dict(value)
        return {str(name): to_json(item) for name, item in value.items()}
    parts = _parts(kind)  # type: ignore[arg-type]  # a type can be hashed
    if parts is not None:
        names, read = parts
        data = dict(zip(names, read(value)))
        for name, item in data.items():
            if type(item) not in _AS_IS:  # most of a status is plain
                data[name] = to_json(item)
        return data
    return _rare_to_json(value)


# Of what is written most is of these types (enums come to them as they are met), or a collection of them.
_TEXT = frozenset((str,))
_AS_IS = {str, int, float, bool, type(None)}


def _rare_to_json(value: Any) -> Any:
    """As `to_json`, of what is seldom written."""
    if isinstance(value, (str, int, float)):
        _AS_IS.add(type(value))
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {}  # one without fields
    if isinstance(value, abc.Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)  # a path


def from_json(kind: Type[T], data: Any) -> T:
    """The value of this type that parsed JSON stands for. Raises DecodeError."""
    value: T = _decoder(kind)(data)  # type: ignore[arg-type]  # a type can be hashed
    return value


@functools.lru_cache(maxsize=None)
def _parts(kind: Any) -> Any:
    """The fields of a dataclass, and what reads them all; None of another type, as of a text that is one."""
    if issubclass(kind, (str, int, float)) or not is_dataclass(kind):
        return None
    names = tuple(field.name for field in fields(kind))
    if len(names) < 2:
        return (names, lambda value: (getattr(value, names[0]),)) if names else None
    return names, operator.attrgetter(*names)


@functools.lru_cache(maxsize=None)
def _decoder(kind: Any) -> _Decoder:
    """How values of a type are read; made once for each type."""
    if kind is Any:
        return lambda data: data
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Union or type(None) in args:
        return _optional(args)
    if origin is Literal:
        return _literal(args)
    if origin is tuple:
        return _fixed(args) if args[-1] is not ... else _sequence(args[0], tuple)
    if origin is list:
        return _sequence(args[0], list)
    if origin is not None:
        return _mapping(*args)
    if is_dataclass(kind):
        return _object(kind)
    if hasattr(kind, "model_validate"):
        return _model(kind)
    return _refined(kind)


def _bool(data: Any) -> bool:
    if not isinstance(data, bool):
        raise DecodeError(f"expected true or false, got {_shown(data)}")
    return data


def _int(data: Any) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not -_INT <= data < _INT:
        raise DecodeError(f"expected a whole number, got {_shown(data)}")
    return data


def _float(data: Any) -> float:
    if isinstance(data, float) and math.isfinite(data):
        return data
    if not isinstance(data, float):
        return float(_int(data))
    raise DecodeError(f"expected a number, got {_shown(data)}")


def _str(data: Any) -> str:
    if not isinstance(data, str):
        raise DecodeError(f"expected a text, got {_shown(data)}")
    return data


def _decimal(data: Any) -> int:
    if not isinstance(data, str) or not _DECIMAL.fullmatch(data):
        raise DecodeError(f"expected the digits of a number, got {_shown(data)}")
    return int(data)


_PLAIN: Dict[Any, _Decoder] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: lambda data: Path(_str(data)),
    Mapping: lambda data: dict(_entries(data)),
    dict: lambda data: dict(_entries(data)),
}


def _refined(kind: Any) -> _Decoder:
    """A subclass of str or int whose constructor refuses what it cannot be."""
    plain = _str if issubclass(kind, str) else _int

    def decode(data: Any) -> Any:
        try:
            return kind(plain(data))
        except DecodeError:
            raise
        except ValueError as error:
            raise DecodeError(str(error)) from None

    return decode


def _optional(args: Any) -> _Decoder:
    (inner,) = (_decoder(arg) for arg in args if arg is not type(None))
    return lambda data: None if data is None else inner(data)


def _literal(args: Any) -> _Decoder:
    def decode(data: Any) -> Any:
        if data not in args or isinstance(data, (list, dict)):
            raise DecodeError(f"expected one of {', '.join(map(str, args))}, got {_shown(data)}")
        return data

    return decode


def _sequence(item: Any, make: Callable[[Any], Any]) -> _Decoder:
    inner = _decoder(item)

    def decode(data: Any) -> Any:
        if not isinstance(data, (list, tuple)):
            raise DecodeError(f"expected a list, got {_shown(data)}")
        if item is str and _TEXT.issuperset(map(type, data)):
            return make(data)
        found: List[Any] = []
        try:
            for value in data:
                found.append(inner(value))
        except DecodeError as error:
            raise error.within(f"[{len(found)}]") from None
        return make(found)

    return decode


def _fixed(args: Any) -> _Decoder:
    inner = [_decoder(arg) for arg in args]

    def decode(data: Any) -> Any:
        if not isinstance(data, (list, tuple)) or len(data) != len(inner):
            raise DecodeError(f"expected a list of {len(inner)}, got {_shown(data)}")
        return tuple(read(value) for read, value in zip(inner, data))

    return decode


def _entries(data: Any) -> Any:
    if type(data) is not dict and not isinstance(data, abc.Mapping):  # the latter alone takes long
        raise DecodeError(f"expected an object, got {_shown(data)}")
    return data.items()


def _mapping(key: Any, value: Any) -> _Decoder:
    """A key is a text in JSON, also one that is a number."""
    read_key, inner = _decimal if key is int else _decoder(key), _decoder(value)

    are_texts = key is str and value is str

    def decode(data: Any) -> Any:
        if are_texts and type(data) is dict and _TEXT.issuperset(map(type, (*data, *data.values()))):
            return dict(data)
        found = {}
        for name, item in _entries(data):
            try:
                found[read_key(name)] = inner(item)
            except DecodeError as error:
                raise error.within(f".{visible(str(name)[:40])}") from None
        return found

    return decode


def _object(kind: Any) -> _Decoder:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.init]
    readers: Dict[str, _Decoder] = {}
    required = [
        field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING
    ]

    upgrade = getattr(kind, "upgrade", None)

    def decode(data: Any) -> Any:
        nonlocal readers
        if not readers:  # only now: two dataclasses may hold each other; and whole, for other threads' sake
            readers = {name: _decoder(hints[name]) for name in names}
        entries = _entries(data)
        if upgrade is not None:
            entries = _entries(upgrade(data))
        known = {}
        for name, value in entries:
            reader = readers.get(name)
            if reader is not None:
                try:
                    known[name] = reader(value)
                except DecodeError as error:
                    raise error.within(f".{name}") from None
        for name in required:
            if name not in known:
                raise DecodeError("is missing", f".{name}")
        return kind(**known)

    return decode


def _model(kind: Any) -> _Decoder:
    def decode(data: Any) -> Any:
        try:
            return kind.model_validate(data, extra="ignore")
        except ValueError as error:
            first = error.errors()[0]  # type: ignore[attr-defined]  # pydantic's, which the agent lacks
            raise DecodeError(first["msg"], "".join(f".{step}" for step in first["loc"])) from None

    return decode


def _shown(data: Any) -> str:
    """What there is instead, in a few characters."""
    if isinstance(data, (abc.Mapping, list, tuple)):
        return "an object" if isinstance(data, abc.Mapping) else f"a list of {len(data)}"
    text = json.dumps(data)
    return text if len(text) <= 40 else f"{text[:36]} …"
