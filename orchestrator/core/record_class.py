"""The `dataclass` of the agent and of what it imports: the standard library's, and on hosts a light one.

The standard library makes the methods of each dataclass by compiling a text for each, and imports `inspect`
for it. With two dozen of them that was a third of the time in which an agent starts, and hundreds start at
once. An agent has what follows in its place: the same methods, the same for all classes. It is without what
the agent does not use (`slots`, `order`, `init=False`, `InitVar`, `__post_init__`, …), and a little slower
to make an instance. An agent is what `hosts/boot.py` starts: no other process of ours runs without `site`.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, Tuple, TypeVar

    R = TypeVar("R")

__all__ = ["MISSING", "dataclass", "field", "fields", "is_dataclass", "light_dataclass", "replace"]


class _Missing:
    """What is not there, where None may be."""


_MISSING = _Missing()
_FIELDS = "__dataclass_fields__"


class _Field:
    """One field, as far as somebody asks for it."""

    __slots__ = ("default", "default_factory", "init", "name")

    def __init__(self, default: Any = _MISSING, default_factory: Any = _MISSING) -> None:
        self.name = ""
        self.init = True
        self.default = default
        self.default_factory = default_factory


def light_dataclass(cls: Any = None, *, frozen: bool = False) -> Any:
    """What `dataclasses.dataclass` is, for plain and frozen classes."""
    if cls is None:
        return lambda kind: light_dataclass(kind, frozen=frozen)
    found: Dict[str, _Field] = {}
    for base in cls.__mro__[:0:-1]:
        found.update(getattr(base, _FIELDS, {}))
    for name in _annotated(cls):
        found[name] = _field_of(cls, name)
    setattr(cls, _FIELDS, found)
    own: Dict[str, Any] = {"__init__": _init_of(found), "__eq__": _equal, "__repr__": _repr, "__hash__": None}
    if frozen:
        own.update(__hash__=_hash, __setattr__=_refuse_set, __delattr__=_refuse_delete)
    for method, function in own.items():
        if method not in vars(cls) or method == "__hash__":
            setattr(cls, method, function)
    return cls


def _annotated(cls: Any) -> Iterator[str]:
    # Since 3.14 the class makes the mapping when it is asked, before that a base's may be found.
    hints = vars(cls).get("__annotations__")
    if hints is None:
        hints = cls.__annotations__ if sys.version_info >= (3, 14) else {}
    return (name for name, hint in hints.items() if not str(hint).startswith(("ClassVar", "typing.ClassVar")))


def _field_of(cls: Any, name: str) -> _Field:
    default = vars(cls).get(name, _MISSING)
    made = default if isinstance(default, _Field) else _Field(default)
    made.name = name
    if made.default is not _MISSING:
        setattr(cls, name, made.default)
    elif isinstance(default, _Field):
        delattr(cls, name)
    return made


def _init_of(found: Dict[str, _Field]) -> Callable[..., None]:
    names = tuple(found)
    defaults = {name: each.default for name, each in found.items() if each.default is not _MISSING}
    factories = [
        (name, each.default_factory) for name, each in found.items() if each.default_factory is not _MISSING
    ]

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        values = self.__dict__
        values.update(defaults)
        given = dict(zip(names, args))
        if len(args) > len(names) or not given.keys().isdisjoint(named):
            raise TypeError(f"{type(self).__name__}: too many values")
        values.update(given)
        values.update(named)
        for name, make in factories:
            if name not in values:
                values[name] = make()
        if len(values) != len(names) or values.keys() != found.keys():
            wrong = sorted(values.keys() ^ found.keys())
            raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(wrong)}")

    return __init__


def _values(value: Any) -> Tuple[Any, ...]:
    return tuple(getattr(value, name) for name in getattr(value, _FIELDS))


def _equal(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in zip(getattr(self, _FIELDS), _values(self)))
    return f"{type(self).__qualname__}({shown})"


def _refuse_set(self: Any, name: str, value: Any) -> None:
    raise AttributeError(f"cannot assign to field {name!r}")


def _refuse_delete(self: Any, name: str) -> None:
    raise AttributeError(f"cannot delete field {name!r}")


def _light_field(*, default: Any = _MISSING, default_factory: Any = _MISSING) -> Any:
    return _Field(default, default_factory)


def _light_fields(kind: Any) -> Tuple[Any, ...]:
    return tuple(getattr(kind, _FIELDS).values())


def _light_is_dataclass(value: Any) -> bool:
    return hasattr(value if isinstance(value, type) else type(value), _FIELDS)


def _anew(value: Any, changes: Dict[str, Any]) -> Any:
    """The value as its class makes it, with these changes."""
    return type(value)(**{**{each.name: getattr(value, each.name) for each in fields(value)}, **changes})


def replace(value: R, **changes: Any) -> R:
    """The same value but for these fields, as `dataclasses.replace` makes it, in a fifth of the time.

    The fields of a plain dataclass are taken over as they are. All of them are arguments of its `__init__`.
    """
    kind = type(value)
    count = _counts.get(kind)
    if count is None:
        # Not of one with slots, or that looks at its fields when it is made.
        is_plain = hasattr(value, "__dict__") and not hasattr(kind, "__post_init__")
        count = _counts[kind] = len(fields(kind)) if is_plain else -1
    if count < 0 or len(value.__dict__) != count:  # something is kept beside the fields
        return _anew(value, changes)
    made: R = object.__new__(kind)
    made.__dict__.update(value.__dict__, **changes)
    if len(made.__dict__) != count:
        return _anew(value, changes)  # which says what is not known
    return made


_counts: Dict[Any, int] = {}


if TYPE_CHECKING or not sys.flags.no_site:
    from dataclasses import MISSING, dataclass, field, fields, is_dataclass
else:
    MISSING, dataclass, field = _MISSING, light_dataclass, _light_field
    fields, is_dataclass = _light_fields, _light_is_dataclass
