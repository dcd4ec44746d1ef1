"""Strict JSON: what the standard forbids, or nobody could write back, is refused with one clear line."""

from __future__ import annotations

import codecs
import json
from typing import Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.yaml_words import plain, show

__all__ = ["read_json", "refusal"]

_DEEPEST = 32
_BOMS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def refusal(where: str, what: str, remedy: str = "") -> ConfigError:
    return ConfigError([Problem(plain(where), plain(what), remedy)])


def read_json(data: bytes, name: str) -> Any:
    """The value in these bytes; `name` is the file's, for messages. Raises ConfigError."""
    content = _json(_text(data, name), name)
    if _is_deep(content):
        raise refusal(name, "is nested too deeply: this is no rank table")
    return content


def _text(data: bytes, name: str) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            raise refusal(name, f"is {encoding}", "save it as UTF-8 without a byte order mark")
    if not data.strip():
        raise refusal(name, "is empty")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refusal(
            f"{name}:{line}", f"is not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8"
        ) from None


class _NotJson(ValueError):
    """What the JSON standard forbids and Python's reader would let pass."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _NotJson(f"key {show(twice)} is given twice in one object")
    return found


def _constant(text: str) -> Any:
    raise _NotJson(f"{text} is not JSON")


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        what, remedy = _syntax(text, error)
        raise refusal(f"{name}:{error.lineno}:{error.colno}", what, remedy) from None
    except RecursionError:
        raise refusal(name, "is nested too deeply: this is no rank table") from None
    except _NotJson as error:
        raise refusal(name, str(error)) from None
    except ValueError:  # int() refuses thousands of digits
        raise refusal(name, "holds a number of thousands of digits") from None


def _is_deep(content: Any) -> bool:
    """Whether more than `_DEEPEST` objects lie in each other: what could not be written back."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (dict, list))
        ]
    return bool(level)


def _syntax(text: str, error: json.JSONDecodeError) -> tuple[str, str]:
    rest = text[error.pos :].strip()
    if error.msg == "Extra data":
        return "something stands behind the end of the table", "keep one table in one file"
    if not rest or error.msg.startswith("Unterminated string"):
        return "ends in the middle: the file is cut off", "copy or generate it again"
    if rest.startswith(("/", "#")):
        return "holds a comment, which JSON does not have", "remove the comments"
    if rest.startswith(("}", "]")):
        return f"is not JSON: something is missing before {rest[0]}, or a comma is too many", ""
    return f"is not JSON: {error.msg[0].lower()}{error.msg[1:]}, at {show(rest[:20])}", ""
