"""The tables of a model's configuration: YAML of whatever origin, and dataclasses filled from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from model.errors import ModelError
from orchestrator.config.schema import read
from orchestrator.config.yaml_messages import Invalid
from orchestrator.config.yaml_reader import dotted, read_yaml
from orchestrator.core.errors import ConfigError, one_line

__all__ = ["fill", "read_table"]

Value = TypeVar("Value")


def read_table(path: Path) -> Mapping[str, Any]:
    """The YAML file's top-level table; ModelError where it cannot be read or is no table."""
    try:
        file = read_yaml(path)
        if file.problems:
            raise ConfigError(file.problems)
    except ConfigError as error:
        raise ModelError("; ".join(error.lines())) from error
    return file.data


def fill(cls: type[Value], values: Any, where: str) -> Value:
    """`cls(**values)` after checking keys and types; ModelError that lists every problem."""
    try:
        return read(cls, values)
    except Invalid as error:
        lines = (one_line(dotted(loc), what, remedy) for loc, what, remedy in error.findings)
        raise ModelError("; ".join(lines), where=where) from error
