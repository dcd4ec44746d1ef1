"""The tables of a model's configuration: YAML of whatever origin, and dataclasses filled from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from model.errors import ModelError
from orchestrator.config.schema import read
from orchestrator.config.yaml_messages import Invalid
from orchestrator.config.yaml_reader import dotted, read_yaml
from orchestrator.core.errors import ConfigError, one_line

__all__ = ["fill", "read_table"]

_MOST_TOLD = 10  # an error of the worker is one line

Value = TypeVar("Value")


def read_table(path: Path) -> Mapping[str, Any]:
    """The YAML file's top-level table; ModelError where it cannot be read or is no table."""
    try:
        file = read_yaml(path)
        if file.problems:
            raise ConfigError(file.problems)
    except ConfigError as error:
        raise ModelError(_joined(error.lines())) from error
    return file.data


def fill(cls: type[Value], values: Any, where: str) -> Value:
    """`cls(**values)` after checking keys and types; ModelError that lists the problems, ten at most."""
    try:
        return read(cls, values)
    except Invalid as error:
        lines = [one_line(dotted(loc), what, remedy) for loc, what, remedy in error.findings]
        raise ModelError(_joined(lines), where=where) from error


def _joined(lines: Sequence[str]) -> str:
    left = len(lines) - _MOST_TOLD
    return "; ".join([*lines[:_MOST_TOLD], *[f"and {left} more"] * (left > 0)])
