"""A run YAML of MindFormers as text: its values as MindFormers reads them, their lines, and edits in place.

MindFormers reads with PyYAML's safe loader (tools/register/config.py: YAML 1.1, anchors and merges), so the
values here are of that loader. What is edited is the text at the place of the value, as a person would do
it: comments, order, anchors and all other lines stay byte for byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.config.yaml_messages import plain
from orchestrator.config.yaml_reader import dotted, parse_yaml
from orchestrator.core.errors import ConfigError, Problem

try:  # the same values, ten times faster; absent where PyYAML was built without libyaml
    from yaml import CSafeLoader as _Loader
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

__all__ = ["RunYaml", "written"]

Path = tuple[str, ...]

MAX_BYTES = 512 << 10  # the largest in MindFormers' wheels has 12 KiB, and every attempt keeps a copy
_MERGE = "<<"


@dataclass(slots=True)
class _Node:
    """A value in the text: from `start` to `end`, its anchor included, whatever it is an alias of."""

    start: int
    end: int
    line: int
    kind: str  # scalar, map, seq, alias
    is_flow: bool = True
    anchor: str | None = None
    means: _Node | None = None  # of an alias
    keys: dict[str, tuple[int, int, _Node]] = field(default_factory=dict)  # start and end of the key, value
    items: list[_Node] = field(default_factory=list)

    @property
    def target(self) -> _Node:
        return self.means if self.means is not None else self


class RunYaml:
    """The text of one run YAML and what it says; `name` is the path for messages."""

    def __init__(self, name: str, text: str) -> None:
        """Raises ConfigError: no YAML, no mapping, a key twice, a tag."""
        if len(text) > MAX_BYTES:
            what = f"is larger than {MAX_BYTES >> 10} KiB"
            raise ConfigError([Problem(plain(name), what, "is it the right file?")])
        self.name = name
        self._file = parse_yaml(name, text.encode())
        if self._file.problems:
            raise ConfigError(self._file.problems)
        self.text = text.removeprefix("\ufeff")
        self._load()

    def _load(self) -> None:
        try:
            self.data: dict[str, Any] = yaml.load(self.text, Loader=_Loader)
            self._root = _Builder(self.text).build()
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{self.name}:{mark.line + 1}" if mark else self.name
            what = getattr(error, "problem", None) or str(error)
            raise ConfigError([Problem(plain(where), plain(f"MindFormers cannot read it: {what}"))]) from None

    def copy(self) -> RunYaml:
        """The same, of which edits are not seen here; nothing is read again."""
        return copy(self)  # an edit puts a new text and a new tree in the place of the old ones

    # What it says.

    def get(self, *path: str) -> Any:
        """The value at a key path, merges and aliases resolved; None where there is none."""
        value: Any = self.data
        for part in path:
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value

    def has(self, *path: str) -> bool:
        """Whether the key is there, though its value may be null."""
        parent = self.get(*path[:-1]) if path[:-1] else self.data
        if isinstance(parent, list):
            return path[-1].isdecimal() and int(path[-1]) < len(parent)
        return isinstance(parent, Mapping) and path[-1] in parent

    def line(self, path: Path) -> int:
        """The line of a key, or of what is nearest to it."""
        node, line = self._root, 1
        for part in path:
            found = _step(node.target, part)
            if found is None:
                break
            line, node = found
        return line

    def where(self, path: Path) -> str:
        """`file:line: key`."""
        return f"{self.name}:{self.line(path)}: {plain(dotted(path))}"

    def problem(self, path: Path, what: str, remedy: str = "") -> Problem:
        return Problem(self.where(path), plain(what), plain(remedy))

    def strings(self) -> Iterator[tuple[Path, str]]:
        """Every text in it, with the path of its key."""
        return ((path, value) for path, value in _leaves(self.data, ()) if isinstance(value, str))

    # Edits.

    def set(self, path: Path, value: Any) -> None:
        """Write a value at a key path, which is made where it is not. Raises ConfigError.

        What is an alias (`*name`) or comes of a merge is replaced at this key alone; a value with an anchor
        is for its aliases, too, which then follow. An alias in the middle of the path is refused.
        """
        if self.has(*path) and _same(self.get(*path), value):
            return
        node, done = self._root, 0
        while done < len(path) - 1:
            if node.kind == "alias":
                raise self._through(path, done)
            step = node.keys.get(path[done]) if node.kind == "map" else None
            inner = step[2] if step is not None else self._item(node, path, done)
            if inner is None or (inner.kind == "scalar" and self.get(*path[: done + 1]) in (None, "")):
                break
            node, done = inner, done + 1
        if node.kind == "alias":
            raise self._through(path, done)
        rest: Any = value
        for part in reversed(path[done + 1 :]):
            rest = {part: rest}
        before = self.text
        self.text = self._edited(node, path, done, rest)
        try:
            self._load()
        except ConfigError:
            self._back_to(before)
            raise ConfigError([self.problem(path, "cannot be changed in place", _OWN_LINE)]) from None
        if not _same(self.get(*path), value):
            raise ConfigError([self.problem(path, "cannot be changed in place", _OWN_LINE)])

    def set_alone(self, path: Path, value: Any) -> tuple[str, ...]:
        """As `set`, and no other key changes: aliases of what is there get its old value, written out.

        Returns the keys of these. Raises ConfigError, also where another value would change all the same.
        """
        if self.has(*path) and _same(self.get(*path), value):
            return ()
        before, others = self.text, self._others(path)
        nodes = list(_walk(self._root, ()))
        anchored = {id(one): at for at, one in nodes if one.anchor is not None and path[: len(at)] == at}
        aliases = [(at, one) for at, one in nodes if id(one.means) in anchored]
        for _, one in reversed(aliases):
            old = written(self.get(*anchored[id(one.means)]))
            self.text = self.text[: one.start] + old + self.text[one.end :]
        try:
            if aliases:
                self._load()
            self.set(path, value)
        except ConfigError:
            self._back_to(before)
            raise
        if not _same(self._others(path), others):
            self._back_to(before)
            raise ConfigError([self.problem(path, "cannot be changed in place", _OWN_LINE)])
        return tuple(dotted(at) for at, _ in aliases)

    def _others(self, path: Path) -> dict[Path, Any]:
        """Every value but the one at the path, or what is in the place of what is around it."""
        return {
            at: value
            for at, value in _leaves(self.data, ())
            if at[: len(path)] != path and path[: len(at)] != at
        }

    def _back_to(self, text: str) -> None:
        self.text = text
        self._load()

    def aliases_of(self, path: Path) -> tuple[str, ...]:
        """The keys that are aliases of the value at this path, or of what is around it."""
        found: list[str] = []
        node = self._root
        anchors = set()
        for part in path:
            step = _step(node.target, part)
            if step is None:
                break
            node = step[1]
            if node.anchor is not None:
                anchors.add(id(node))
        if anchors:
            found += [dotted(at) for at, one in _walk(self._root, ()) if id(one.means) in anchors]
        return tuple(found)

    def _through(self, path: Path, done: int) -> ConfigError:
        what = f"cannot be set: {dotted(path[:done])} is an alias, of another key's value"
        return ConfigError([self.problem(path[:done], what, "set the key that has the anchor")])

    def _item(self, node: _Node, path: Path, done: int) -> _Node | None:
        part = path[done]
        if node.kind == "seq":
            if part.isdecimal() and int(part) < len(node.items):
                return node.items[int(part)]
            what = f"is a list of {len(node.items)}, and has no item {part}"
            raise ConfigError([self.problem(path[:done], what, "items are counted from 0")])
        if node.kind == "scalar":
            what = f"holds one value, so that {dotted(path[done:])} cannot be set in it"
            raise ConfigError([self.problem(path[:done], what)])
        return None

    def _edited(self, node: _Node, path: Path, done: int, value: Any) -> str:
        """The text with `value` at the key `path[done]` of a mapping or list."""
        text, part, new = self.text, path[done], written(value)
        if node.kind == "map" and part in node.keys:
            _, key_end, old = node.keys[part]
            if (colon := text.find(":", key_end)) < 0:  # `? key`, without a value
                raise ConfigError([self.problem(path, "cannot be changed in place", _OWN_LINE)])
            return self._replaced(old, colon + 1, new)
        if node.kind != "map":
            item = self._item(node, path, done)  # says what is wrong where it is one value
            assert item is not None
            return text[: item.start] + self._kept(item) + new + text[_last(item) :]
        entry = f"{written(part)}: {new}"
        if not node.keys:  # {}
            return text[: node.start] + self._kept(node) + "{" + entry + "}" + text[node.end :]
        first = min(start for start, _, _ in node.keys.values())
        if node.is_flow:
            return f"{text[:first]}{entry}, {text[first:]}"
        indent = first - (text.rfind("\n", 0, first) + 1)
        if node is self._root and _MERGE not in node.keys:
            end = text if text.endswith("\n") else f"{text}\n"
            cut = re.search(r"^\.\.\.(?=\s|$)", end, re.MULTILINE)
            at = cut.start() if cut else len(end)
            return f"{end[:at]}{' ' * indent}{entry}\n{end[at:]}"
        return f"{text[:first]}{entry}\n{' ' * indent}{text[first:]}"

    def _replaced(self, old: _Node, after: int, new: str) -> str:
        """The text with another value of a key; `after` is the place behind its colon."""
        text, end = self.text, _last(old)
        lead = text[after : old.start]
        if not lead or "\n" in lead or old.start == old.end:  # nothing, or a block of its own
            lead = " "
            start = after
        else:
            start = old.start
        is_block = text[start:end].endswith("\n")
        tail = text[end:]
        if old.start == old.end:
            end = after
            tail = text[end:]
        own = lead if start == after else ""
        return text[:start] + own + self._kept(old) + new + ("\n" if is_block else "") + tail

    @staticmethod
    def _kept(old: _Node) -> str:
        """The anchor, of which there are aliases."""
        return f"&{old.anchor} " if old.anchor and old.kind != "alias" else ""


_OWN_LINE = "write the key and its value on a line of their own"


def written(value: Any) -> str:
    """A value as one line of YAML, as a person would write it and MindFormers reads it back."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
        digits = repr(value)  # 1e-08 is text in YAML 1.1: the mantissa needs a point
        return digits if "." in digits.partition("e")[0] else digits.replace("e", ".e", 1)
    if value is None:
        return "null"
    if isinstance(value, str):
        plain_word = re.fullmatch(r"[A-Za-z_./][\w./ -]*(?<! )", value, re.ASCII)
        if plain_word and yaml.safe_load(f"[{value}]") == [value]:
            return value
        return yaml.safe_dump([value], default_style='"', allow_unicode=True, width=1 << 20).strip()[2:]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value)


def _same(one: Any, other: Any) -> bool:
    """Equal in value and type: True is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every value that holds no other, with the path of its key."""
    if not isinstance(value, (Mapping, list)) or not value:
        yield path, value
        return
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(item, (*path, str(key)))


def _step(node: _Node, part: str) -> tuple[int, _Node] | None:
    """The line of a key, or item, and its value, of a merge where it is not written itself."""
    if node.kind == "map":
        if part in node.keys:
            found = node.keys[part][2]
            return found.line, found
        merged = node.keys.get(_MERGE)
        sources = [] if merged is None else [merged[2].target]
        for source in [item for one in sources for item in ([i.target for i in one.items] or [one])]:
            if (step := _step(source, part)) is not None:
                return step
    if node.kind == "seq" and part.isdecimal() and int(part) < len(node.items):
        item = node.items[int(part)]
        return item.line, item
    return None


def _walk(node: _Node, path: Path) -> Iterator[tuple[Path, _Node]]:
    yield path, node
    for name, (_, _, value) in node.keys.items():
        yield from _walk(value, (*path, name))
    for number, item in enumerate(node.items):
        yield from _walk(item, (*path, str(number)))


def _last(node: _Node) -> int:
    """Where a value ends; a block's mark is behind the comments that follow it."""
    if node.is_flow:
        return node.end
    inner = [value for _, _, value in node.keys.values()] + node.items
    ends = [_last(value) for value in inner] + [end for _, end, _ in node.keys.values()]
    return max(ends, default=node.end)


class _Builder:
    """Makes the tree of a text from PyYAML's events, which know where aliases stand; nodes do not."""

    def __init__(self, text: str) -> None:
        # The marks of both loaders count characters, not bytes: tests/config/test_run_yaml.py.
        self._events: Iterator[Any] = iter(list(yaml.parse(text, Loader=_Loader)))
        self._anchors: dict[str, _Node] = {}

    def build(self) -> _Node:
        next(self._events)  # the stream
        next(self._events)  # its document
        return self._value(next(self._events), 1)

    def _value(self, event: Any, line: int) -> _Node:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.AliasEvent):
            return _Node(start, end, line, "alias", means=self._anchors.get(event.anchor or ""))
        kind = {yaml.MappingStartEvent: "map", yaml.SequenceStartEvent: "seq"}.get(type(event), "scalar")
        node = _Node(start, end, line, kind, anchor=event.anchor)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if kind == "scalar":
            return node
        node.is_flow = bool(event.flow_style)
        inner: Any
        while not isinstance(inner := next(self._events), yaml.CollectionEndEvent):
            at = inner.start_mark.line + 1
            if kind == "seq":
                node.items.append(self._value(inner, at))
                continue
            key = self._value(inner, at)
            value = self._value(next(self._events), at)
            node.keys.setdefault(str(getattr(inner, "value", "")), (key.start, key.end, value))
        closing: Any = inner
        node.end = closing.end_mark.index
        return node
