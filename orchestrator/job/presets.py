"""The published sizes of Bloom, read from the files of the workers' package (not imported)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.job.fields import PRESETS
from orchestrator.yaml_file import read_yaml

__all__ = ["PresetError", "preset_of", "preset_table"]

_FOLDER = Path(orchestrator.__file__).parent.parent / "model" / "presets"
_SIZE = ("hidden_size", "num_layers", "num_heads")


class PresetError(ValueError):
    """No published size has this shape."""


@cache
def preset_table(name: str) -> Mapping[str, Any]:
    """The fields that a preset sets; raises ConfigError where its file is not installed."""
    return read_yaml(_FOLDER / f"{name}.yaml").data


def preset_of(values: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """The preset whose hidden size, layers and heads these are; without any of them, the one that is named.

    `names` are such as `bloom_7.1b`. Raises PresetError.
    """
    given = {key: values[key] for key in _SIZE if key in values}
    called = [preset for preset in PRESETS if any(name.split("_")[-1] == preset for name in names)]
    for preset in (*called, *PRESETS):
        table = preset_table(preset)
        if all(table[key] == value for key, value in given.items()) and (given or called):
            return preset
    shape = ", ".join(f"{key} {value}" for key, value in given.items()) or "no shape at all"
    raise PresetError(f"{shape}: no published Bloom has this; there are {', '.join(PRESETS[1:])}")
