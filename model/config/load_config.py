"""The network's configuration from a preset, a file or a table, and as the text of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from model.config.prompt_templates import TEMPLATES
from model.config.yaml_table import fill, read_table
from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import FamilyError, config_class, families, find_preset, preset_names

__all__ = ["config_from", "config_text", "load_config"]


def config_from(values: Mapping[str, Any], where: str) -> NetworkConfig:
    """The configuration with these fields, of the family that the key `family` names.

    Raises ModelError that lists every problem of keys, types and relations.
    """
    try:
        cls = config_class(values)
    except FamilyError as error:
        raise ModelError(str(error), where=where) from None
    config = fill(cls, {key: value for key, value in values.items() if key != "family"}, where)
    problems = list(config.problems())
    if config.prompt_template not in TEMPLATES:
        problems.append(f"prompt_template {config.prompt_template!r} is not one of {', '.join(TEMPLATES)}")
    if problems:
        raise ModelError("; ".join(problems), where=where)
    return config


def load_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> NetworkConfig:
    """A preset by name, or a config file by path, with `overrides` on top; ModelError on anything wrong."""
    values = {**_preset_table(preset), **(overrides or {})}
    return config_from(values, where="model.overrides" if overrides else str(preset))


def config_text(config: NetworkConfig) -> str:
    """The config as the YAML that `load_config` reads back."""
    own = config.family.name
    family = {} if own == families()[0].name else {"family": own}  # as files were when there was but one
    return str(yaml.safe_dump({**family, **asdict(config)}, sort_keys=False))


def _preset_table(preset: str | Path) -> Mapping[str, Any]:
    known = find_preset(str(preset))
    if known is not None:
        return known
    if Path(preset).suffix not in (".yaml", ".yml"):
        remedy = f"there are {', '.join(sorted(preset_names()))}"
        raise ModelError(f"no preset is called {preset!r}", where="model.preset", remedy=remedy)
    return read_table(Path(preset))
