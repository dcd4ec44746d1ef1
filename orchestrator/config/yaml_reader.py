"""The reader of YAML that people write: it keeps the line of every key and collects every problem.

What a plain word is follows the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema):
`yes`, `on` and `010` are text, `1e-3` is a number. PyYAML's own YAML 1.1 rules turn these into something else
in silence. Workers read with this module too, so it needs nothing but PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.yaml_messages import Finding, Loc, plain, syntax_words
from orchestrator.core.errors import ConfigError, Problem

__all__ = [
    "CONVERT",
    "MAX_TOLD",
    "TAG",
    "Loader",
    "Loc",
    "YamlFile",
    "dotted",
    "parse_yaml",
    "read_source",
    "read_yaml",
]

try:  # ten times faster; absent where PyYAML was built without libyaml
    from yaml import CSafeLoader as _Base
except ImportError:
    from yaml import SafeLoader as _Base  # type: ignore[assignment]


class Loader(_Base):
    """PyYAML's safe loader with these rules and no others."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's way


_PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]{0,17})|0x[0-9a-fA-F]{1,15}",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,4})?|[-+]?\.inf|\.nan",
}
TAG = "tag:yaml.org,2002:"
for _name, _pattern in _PLAIN.items():
    Loader.add_implicit_resolver(TAG + _name, re.compile(f"^(?:{_pattern})$"), [None])

CONVERT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 16 if text.startswith("0x") else 10),
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text)),
}


MAX_BYTES = 4 << 20
MAX_VALUES = 120_000  # with keys: a rank table of thirteen thousand devices, all its optional keys given
MAX_DEPTH = 64
MAX_TOLD = 100  # problems of one file: nobody reads more


def dotted(loc: Loc) -> str:
    """A key as people write it: `hosts[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


@dataclass
class YamlFile:
    """The data of one file and where each part of it was written; `name` is the path as given.

    `lines` and `texts` (scalars as written) are by key path. `problems` are those found while reading.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Loc, int] = field(default_factory=dict)
    texts: dict[Loc, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    overridden: set[Loc] = field(default_factory=set)

    def line(self, loc: Loc) -> int:
        """The line of the key, or of the nearest mapping around it."""
        return next((self.lines[loc[:end]] for end in range(len(loc), -1, -1) if loc[:end] in self.lines), 1)

    def where(self, loc: Loc) -> str:
        """`file:line: key`, or `--set key` for a value that came from the command line."""
        if any(loc[:end] in self.overridden for end in range(len(loc), 0, -1)):
            return f"--set {plain(dotted(loc))}"
        for given in self.overridden if loc not in self.lines else ():
            if loc and given[: len(loc)] == loc:  # a mapping that only the command line has
                return f"--set {plain(dotted(given))}"
        return f"{self.name}:{self.line(loc)}: {plain(dotted(loc))}" if loc else self.name

    def problem(self, loc: Loc, what: str, remedy: str = "") -> Problem:
        return Problem(self.where(loc), plain(what), plain(remedy))

    def refusal(self, findings: Iterable[Finding]) -> ConfigError:
        """The error with every problem of the file: those found while reading, then these by their lines."""
        kept = list(islice(findings, MAX_TOLD + 1))
        found = [(self.line(loc), self.problem(loc, *words)) for loc, *words in kept[:MAX_TOLD]]
        found.sort(key=lambda item: item[0])
        told = [*self.problems, *(problem for _, problem in found)]
        return ConfigError([*told, *self._more()] if len(kept) > MAX_TOLD else told)

    def too_many(self, problems: list[Problem]) -> ConfigError:
        """The error with as many problems as are told, and that there are more."""
        return ConfigError([*problems, *self._more()])

    def _more(self) -> tuple[Problem, ...]:
        return (Problem(self.name, f"more than {MAX_TOLD} problems", "is it the right file?"),)

    def tell(self, problem: Problem) -> None:
        """Keep a problem found while reading. Raises ConfigError with all of them where they are too many."""
        self.problems.append(problem)
        if len(self.problems) >= MAX_TOLD:
            raise ConfigError([*self.problems, *self._more()])

    def as_text(self, *locs: Loc) -> None:
        """Turn numbers and booleans under these keys into the text that was written: `1.10` stays `1.10`."""
        for loc in locs:
            parent = self.get(loc)
            if not isinstance(parent, (dict, list)):
                continue
            for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
                if isinstance(parent[key], (bool, int, float)):
                    parent[key] = self.texts[(*loc, key)]

    def get(self, loc: Loc) -> Any:
        """The value at a key path; None where there is nothing."""
        value: Any = self.data
        for part in loc:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def override(self, assignments: Sequence[str]) -> None:
        """Apply `a.b.c=value` from the command line; values are read as YAML."""
        for assignment in assignments:
            problem = self._assign(assignment)
            if problem:
                self.problems.append(problem)

    def _assign(self, assignment: str) -> Problem | None:
        key, equals, text = assignment.partition("=")
        loc: Loc = tuple(key.strip().split("."))
        if not equals or "" in loc:
            shown = key if key.strip().startswith("env") else assignment  # whose value may be a secret
            return Problem(f"--set {plain(shown)}", "expected KEY=VALUE", "for example --set train.steps=10")
        if not _is_text(assignment):
            return Problem(f"--set {plain(key)}", "is not UTF-8 text", "write it as UTF-8")
        value = _read_value(f"--set {key}", text)
        parent = self.data
        for depth, part in enumerate(loc[:-1], 1):
            if parent.get(str(part)) is None:
                parent[str(part)] = {}
            if not isinstance(parent[str(part)], dict):
                return Problem(
                    f"--set {plain(key)}", f"{plain(dotted(loc[:depth]))} holds one value, not further keys"
                )
            parent = parent[str(part)]
        parent[str(loc[-1])] = value.data
        for inner, written in value.texts.items():
            self.texts[loc + inner] = written
        self.overridden.add(loc)
        return None


class _Reader:
    """Builds plain data from PyYAML's nodes into one YamlFile."""

    def __init__(self, file: YamlFile) -> None:
        self.file = file
        self.count = 0

    def read(self, text: str) -> YamlFile:
        try:
            self._measure(text)
            root = yaml.compose(text, Loader=Loader)
        except yaml.YAMLError as error:
            raise ConfigError([self._syntax(error, text)]) from None
        self.file.data = None if root is None else self.value(root, ())  # type: ignore[assignment]
        return self.file

    def _measure(self, text: str) -> None:
        # Composing recurses in C: too deep a nesting would end the process, so it is counted first.
        depth = count = 0
        for event in yaml.parse(text, Loader=Loader):
            count += isinstance(event, yaml.NodeEvent)
            if count > MAX_VALUES:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise self._fatal(line, f"holds more than {MAX_VALUES:,} values", "is it the right file?")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise self._fatal(line, f"is nested more than {MAX_DEPTH} deep")

    def _fatal(self, line: int, what: str, remedy: str = "") -> ConfigError:
        shown = self.file.name if self.file.name.startswith("--set") else f"{self.file.name}:{line}"
        return ConfigError([Problem(plain(shown), plain(what), plain(remedy))])

    def _syntax(self, error: yaml.YAMLError, text: str) -> Problem:
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        lines = text.splitlines() or [""]
        what, remedy = syntax_words(error, lines[min(number, len(lines)) - 1])
        return self._fatal(number, what, remedy).problems[0]

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self.count += 1
        line = node.start_mark.line + 1
        if self.count > MAX_VALUES or len(loc) > MAX_DEPTH:
            raise self._fatal(line, "grows without end", "an alias (*name) repeats or contains itself")
        self.file.lines.setdefault(loc, line)
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._fatal(line, "a list or a mapping is used as a key")
            key = str(key_node.value)
            if key in result:
                text = f"is given twice, first on line {self.file.lines[(*loc, key)]}"
                where = f"{self.file.name}:{line}: {plain(dotted((*loc, key)))}"
                self.file.tell(Problem(where, text))
                continue
            self.file.lines[(*loc, key)] = line
            result[key] = self.value(value_node, (*loc, key))
        return result

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
        convert = CONVERT.get(node.tag.removeprefix(TAG)) if isinstance(node, yaml.ScalarNode) else None
        self.file.texts[loc] = text
        try:
            if convert:
                return convert(text)
        except ValueError:
            pass
        shown = node.tag.replace(TAG, "!!")
        what = f"{shown} is a YAML tag, and none is used here"
        self.file.tell(self.file.problem(loc, what, f"put text that begins with ! in quotes: '{shown}'"))
        return None


def _is_text(text: str) -> bool:
    """Whether these are characters only; an argument's bytes that are not UTF-8 come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_value(name: str, text: str) -> YamlFile:
    """One value from the command line; what YAML would keep for itself, such as `@rack1`, is text there."""
    try:
        value = _Reader(YamlFile(name)).read(text)
    except ConfigError:
        if text.lstrip().startswith(("[", "{")):
            raise
        return YamlFile(name, text, texts={(): text})  # type: ignore[arg-type]
    return YamlFile(name, text, texts={(): text}) if value.problems else value  # type: ignore[arg-type]


def read_yaml(path: Path) -> YamlFile:
    """Read one mapping. Raises ConfigError where there is nothing to go on with; lesser faults are kept."""
    return parse_yaml(str(path), read_source(path))


def read_source(path: Path) -> bytes:
    """The bytes of a file that a person has written. Raises ConfigError: it is not there, or too large."""
    name = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(
                [Problem(name, f"is larger than {MAX_BYTES >> 20} MiB", "is it the right file?")]
            )
    except FileNotFoundError:
        raise ConfigError([Problem(name, "no such file")]) from None
    except OSError as error:
        raise ConfigError([Problem(name, f"cannot be read: {error.strerror}")]) from None
    return raw


def parse_yaml(name: str, raw: bytes) -> YamlFile:
    """As `read_yaml`, of a file's content that came from elsewhere; `name` is for the messages."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(f"{name}:{line}", "is not UTF-8 text", "save it as UTF-8")]) from None
    file = _Reader(YamlFile(name)).read(text)
    if not isinstance(file.data, dict):
        what = "is empty" if file.data is None else "is not a mapping of keys to values"
        raise ConfigError([*file.problems, Problem(name, what, "write lines such as `name: value`")])
    return file
