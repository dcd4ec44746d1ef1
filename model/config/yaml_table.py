"""Fill a dataclass from a table that somebody wrote, and say all that is wrong with it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from model.errors import ModelError

__all__ = ["fill", "read_table"]

Value = TypeVar("Value")


def read_table(path: Path) -> Mapping[str, Any]:
    """The YAML file's top-level table; ModelError where it cannot be read or is no table."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"cannot be read: {reason}", where=str(path)) from error
    except yaml.YAMLError as error:
        raise ModelError(f"is no YAML: {error}", where=str(path)) from error
    if not isinstance(values, Mapping):
        raise ModelError("holds no table of keys and values", where=str(path))
    return values


def fill(cls: type[Value], values: Any, where: str) -> Value:
    """`cls(**values)` after checking keys and types; ModelError that lists every problem."""
    if not isinstance(values, Mapping):
        raise ModelError(f"must be a table of keys and values, not {values!r}", where=where)
    problems = list(_problems(cls, values))
    if problems:
        raise ModelError("; ".join(problems), where=where)
    hints = get_type_hints(cls)
    return cls(**{key: _converted(hints[key], value) for key, value in values.items()})


def _problems(cls: type, values: Mapping[Any, Any]) -> Iterable[str]:
    known = {item.name: item for item in fields(cls)}
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        yield f"unknown key {', '.join(unknown)}; known are {', '.join(known)}"
    required = [n for n, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        yield f"{', '.join(missing)} is missing"
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key in known and not _fits(hints[key], value):
            yield f"{key} must be {_spoken(hints[key])}, not {value!r}"


def _fits(hint: Any, value: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(option, value) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(get_args(hint)[0], item) for item in value)
    if get_origin(hint) is not None:
        return isinstance(value, Mapping)
    if hint is Any:
        return True
    if hint in (int, float):
        return _is_number(value) and (hint is float or float(value).is_integer())
    return isinstance(value, hint)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for a text
        try:
            float(value)
        except ValueError:
            return False
        return "e" in value.lower()
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _converted(hint: Any, value: Any) -> Any:
    options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if _is_number(value) and (int in options or float in options):
        return int(float(value)) if int in options else float(value)
    return tuple(value) if any(get_origin(option) is tuple for option in options) else value


def _spoken(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_spoken(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, "nothing" if hint is types.NoneType else "a table")
