"""YAML that a person wrote: its values with the line of each, so that every error can point at its cause.

Scalars follow YAML 1.2's core schema: `1e-3` is a number, `no` and `010` are what they look like.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from orchestrator.errors import ConfigError, Problem

__all__ = ["KeyPath", "YamlFile", "parse_scalar", "read_yaml"]

KeyPath = tuple[str | int, ...]
M = TypeVar("M", bound=pydantic.BaseModel)

_MAX_BYTES = 4 << 20
_MAX_NODES = 200_000
_MAX_DEPTH = 40


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name and shape)


_CORE_SCHEMA = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [c.strip("\0") for c in _first]
    )
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(node.value, 16 if node.value.lower().startswith("0x") else 10),
)
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


@dataclass(slots=True)
class YamlFile:
    """The data of one file and the line of every key and element in it."""

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, key: KeyPath) -> str:
        """`file:line: key`, with the line of the nearest thing that is in the file."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.origins:
                return self.origins[key[:end]]
            if key[:end] in self.lines:
                break
        dotted = ".".join(str(part) for part in key)
        place = f"{self.path}:{self.lines.get(key[:end], 1)}"
        return f"{place}: {dotted}" if dotted else place

    def problem(self, key: KeyPath, what: str, remedy: str = "") -> Problem:
        return Problem(self.where(key), what, remedy)

    def validate(self, model: type[M], data: Any = None, at: KeyPath = ()) -> M:
        """The data as a model; raises ConfigError with every problem that pydantic finds."""
        try:
            return model.model_validate(self.data if data is None else data)
        except pydantic.ValidationError as error:
            raise ConfigError(self.problems(error, model, at)) from None

    def problems(
        self, error: pydantic.ValidationError, model: type[pydantic.BaseModel], at: KeyPath = ()
    ) -> list[Problem]:
        """pydantic's findings in plain words, at their lines."""
        return [self._translate(item, model, at) for item in error.errors()]

    def _translate(self, item: Any, model: type[pydantic.BaseModel], at: KeyPath) -> Problem:
        key: KeyPath = (*at, *item["loc"])
        kind, given, context = item["type"], item["input"], item.get("ctx", {})
        if kind == "extra_forbidden":
            return self.problem(key, "unknown key", _suggest(str(key[-1]), model, item["loc"][:-1]))
        if kind == "missing":
            return self.problem(key, "missing", f"add `{key[-1]}:`")
        if kind == "value_error":
            return self.problem(key, str(context["error"]))
        what = _WORDS.get(kind, item["msg"]).format(**{name: str(value) for name, value in context.items()})
        return self.problem(key, f"{what}, not {_shown(given)}")


_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a block of `key: value` lines",
    "model_type": "must be a block of `key: value` lines",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
}


def _shown(value: Any) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _suggest(name: str, model: type[pydantic.BaseModel], path: tuple[str | int, ...]) -> str:
    fields: Mapping[str, Any] = model.model_fields
    for part in path:
        annotation = fields[part].annotation if part in fields and isinstance(part, str) else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        found = [
            item for item in candidates if isinstance(item, type) and issubclass(item, pydantic.BaseModel)
        ]
        fields = found[0].model_fields if found else {}
    near = difflib.get_close_matches(name, fields, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known keys: {', '.join(fields)}" if fields else ""


def read_yaml(path: Path) -> YamlFile:
    """Read one mapping. Raises ConfigError, with the line where there is one, for whatever is no such file."""
    text = _read_text(path)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if not isinstance(node, yaml.MappingNode):
                raise _fault(path, 1, "the file must be a block of `key: value` lines")
            file = YamlFile(path, {})
            file.data = _Walk(loader, file).value(node, ())
            return file
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _fault(path, mark.line + 1 if mark else 1, f"not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        first_line = (str(error).splitlines() or ["too deeply nested"])[0]
        raise _fault(path, 1, f"not valid YAML: {first_line}") from None


def parse_scalar(text: str) -> Any:
    """One value of a `--set` option, read as YAML reads it; what is no YAML is text."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def _fault(path: Path, line: int, what: str, remedy: str = "") -> ConfigError:
    return ConfigError([Problem(f"{path}:{line}", what, remedy)])


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "no such file")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    if len(data) > _MAX_BYTES:
        raise ConfigError([Problem(str(path), f"larger than {_MAX_BYTES >> 20} MiB: surely not meant")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _fault(path, line, "not UTF-8 text") from None


class _Walk:
    """From nodes to values; counts what it visits, so that aliases of aliases cannot grow without end."""

    def __init__(self, loader: _Loader, file: YamlFile) -> None:
        self._loader = loader
        self._file = file
        self._left = _MAX_NODES

    def value(self, node: yaml.Node, key: KeyPath) -> Any:
        self._left -= 1
        if self._left < 0 or len(key) > _MAX_DEPTH:
            raise self._fault(node, "too large or too deeply nested (aliases included)")
        self._file.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, key))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            raise self._fault(node, f"`{node.value}` cannot be read as {node.tag}") from None

    def _items(self, node: yaml.MappingNode, key: KeyPath) -> Iterator[tuple[str, Any]]:
        own = [id(name) for name, _ in node.value]
        seen: dict[str, int] = {}
        self._loader.flatten_mapping(node)
        for name_node, child in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                raise self._fault(name_node, "a key must be a plain word")
            name = name_node.value
            if name in seen and id(name_node) in own and seen[name] in own:
                raise self._fault(name_node, f"`{name}` is given twice", "remove one of them")
            seen[name] = id(name_node)
            self._file.lines[(*key, name)] = name_node.start_mark.line + 1
            yield name, self.value(child, (*key, name))

    def _fault(self, node: yaml.Node, what: str, remedy: str = "") -> ConfigError:
        return _fault(self._file.path, node.start_mark.line + 1, what, remedy)
