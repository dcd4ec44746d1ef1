"""What is wrong with a YAML file, in words for the person who wrote it; the kinds of error are pydantic's."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from orchestrator.core.visible_text import visible

if TYPE_CHECKING:  # what is said of values needs no parser, and the verbs that look at a run have none
    import yaml

__all__ = ["WORDS", "Finding", "Invalid", "Loc", "nearest", "plain", "show", "syntax_words", "words"]

Loc = tuple[str | int, ...]
Finding = tuple[Loc, str, str]  # key path, what is wrong, what to do


class Invalid(ValueError):
    """Raised by validators: what is wrong and how to mend it, at a key below the one that is validated."""

    def __init__(self, what: str, remedy: str = "", at: Loc = ()) -> None:
        super().__init__(what)
        self.findings: tuple[Finding, ...] = ((at, what, remedy),)

    @classmethod
    def many(cls, findings: Iterable[Finding]) -> Invalid:
        """One exception for several findings, of which there is at least one."""
        kept = tuple(findings)
        error = cls(kept[0][1])
        error.findings = kept
        return error


def plain(text: str) -> str:
    """Text from a file as one line that a terminal can show, cut where it is very long."""
    text = visible(text)
    return text if len(text) <= 400 else f"{text[:397]}..."


def show(value: object) -> str:
    """A value from a file, short enough for one line."""
    names: dict[type, str] = {dict: "a mapping", list: "a list", tuple: "a list", type(None): "nothing"}
    if isinstance(value, bool):
        return str(value).lower()
    text = names.get(type(value)) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_LONGEST_WORD = 100  # no key has half as many letters, and the search takes the longer the longer the word
_MOST_COMPARED = 200


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the known words where none is near."""
    words = sorted(known)
    close = difflib.get_close_matches(word, _likely(word, words), n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    listed = ", ".join(words[:25]) + (", ..." if len(words) > 25 else "")
    return f"known: {listed}" if words else ""


def _likely(word: str, words: list[str]) -> list[str]:
    """Those that are compared letter by letter: of thousands, such as hosts' names, the most alike."""
    if len(word) > _LONGEST_WORD:
        return []
    if len(words) <= _MOST_COMPARED:
        return words
    alike = (known for known in words if known[:1] == word[:1] and abs(len(known) - len(word)) < 3)
    return list(islice(alike, _MOST_COMPARED))


def _expected(noun: str, remedy: str = "") -> Callable[[Any, dict[str, Any]], tuple[str, str]]:
    return lambda value, ctx: (f"expected {noun}, got {show(value)}", remedy)


def _number(noun: str, pattern: str) -> Callable[[Any, dict[str, Any]], tuple[str, str]]:
    def words(value: Any, ctx: dict[str, Any]) -> tuple[str, str]:
        remedy = ""
        if isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) and len(value) < 19:
            zeros = value.isdecimal() and value.startswith("0")
            remedy = f"write it without {'leading zeros' if zeros else 'quotes'}"
        return f"expected {noun}, got {show(value)}", remedy

    return words


_whole = _number("a whole number", r"\d+")
_real = _number("a number", r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")


def _text(value: Any, ctx: dict[str, Any]) -> tuple[str, str]:
    quoted = f'put it in quotes: "{show(value)}"' if isinstance(value, (bool, int, float)) else ""
    return f"expected text, got {show(value)}", quoted


def _choice(value: Any, ctx: dict[str, Any]) -> tuple[str, str]:
    choices = str(ctx.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    close = difflib.get_close_matches(str(value), choices, n=1)
    return (
        f"expected one of {', '.join(choices)}; got {show(value)}",
        f"did you mean `{close[0]}`?" if close else "",
    )


def _bound(sign: str, key: str) -> Callable[[Any, dict[str, Any]], tuple[str, str]]:
    def words(value: Any, ctx: dict[str, Any]) -> tuple[str, str]:
        limit = ctx[key] if isinstance(ctx[key], int) else f"{ctx[key]:g}"
        return f"must be {sign} {limit}, got {show(value)}", ""

    return words


WORDS: dict[str, Callable[[Any, dict[str, Any]], tuple[str, str]]] = {
    "missing": lambda value, ctx: ("is missing", ""),
    "int_type": _whole,
    "int_parsing": _whole,
    "int_from_float": _whole,
    "float_type": _real,
    "float_parsing": _real,
    "finite_number": _expected("a finite number"),
    "bool_type": _expected("true or false"),
    "bool_parsing": _expected("true or false"),
    "string_type": _text,
    "list_type": _expected("a list", "write [a, b] or one `- item` per line"),
    "tuple_type": _expected("a list", "write [a, b] or one `- item` per line"),
    "dict_type": _expected("a mapping of keys to values"),
    "model_type": _expected("a mapping of keys to values"),
    "dataclass_type": _expected("a mapping of keys to values"),
    "model_attributes_type": _expected("a mapping of keys to values"),
    "literal_error": _choice,
    "enum": _choice,
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "too_short": lambda value, ctx: ("is empty", ""),
    "string_too_short": lambda value, ctx: ("is empty", ""),
}


def words(kind: str, value: object, context: dict[str, Any] | None = None) -> tuple[str, str]:
    """What one of pydantic's kinds of error means for a value, and its remedy."""
    return WORDS[kind](value, context or {})


# Text of PyYAML or libyaml -> what, remedy. The first that occurs in the message decides.
_SYNTAX = (
    ("mapping values are not allowed", "a second ': ' on one line", "put text that holds a colon in quotes"),
    (
        "cannot start any token",
        "a value begins with a character that YAML reserves",
        "put the value in quotes",
    ),
    (
        "expected ',' or '",
        "a list in [ ] or a mapping in { } is not closed",
        "put names with brackets in quotes",
    ),
    ("could not find expected ':'", "a key without a colon", "write `key: value`"),
    (
        "expected key",
        "a line does not fit its indentation",
        "give the keys of one mapping the same indentation",
    ),
    (
        "expected <block end>",
        "a line does not fit its indentation",
        "give the keys of one mapping the same indentation",
    ),
    (
        "block sequence entries are not allowed",
        "a list item stands where none can be",
        "begin the list on its own line",
    ),
    ("'-' indicator", "a list item does not fit its indentation", "give all items the same indentation"),
    ("scanning a tag", "a value begins with !, which YAML takes for a tag", "put the value in quotes"),
    ("expected the document start", "something stands behind the end of the data", ""),
    ("a single document", "holds more than one YAML document", "keep one, without `---` between"),
    ("but found another document", "holds more than one YAML document", "keep one, without `---` between"),
    ("unexpected end of stream", "a quoted text is not closed", "add the closing quote"),
    ("special characters are not allowed", "holds a control character", "remove it"),
    ("control characters are not allowed", "holds a control character", "remove it"),
    ("found duplicate anchor", "an anchor (&name) is given twice", ""),
)


def syntax_words(error: yaml.YAMLError, line: str) -> tuple[str, str]:
    """What a syntax error means and its remedy; `line` is the line it was found on."""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        return "a tab is used for indentation", "use spaces"
    message = " ".join(str(getattr(error, part, None) or "") for part in ("problem", "context", "reason"))
    if "undefined alias" in message:
        return _undefined_alias(error, line)
    for known, what, remedy in _SYNTAX:
        if known in message:
            return what, remedy
    return f"is not valid YAML: {' '.join(message.split()) or 'unknown error'}", ""


def _undefined_alias(error: yaml.YAMLError, line: str) -> tuple[str, str]:
    """libyaml does not say which: it stands where the error was found."""
    mark = getattr(error, "problem_mark", None)
    found = re.match(r"\*([\w-]+)", line[mark.column :] if mark else "", re.ASCII)
    name = found[1] if found else "name"
    remedy = f"write &{name} before the value that it repeats, or put text that begins with * in quotes"
    return f"*{name} refers to no &{name} before it", remedy
