"""The configuration beside a checkpoint, compared with the one that is to be used with it.

Number of heads, activation and eos leave no trace in the weights' shapes: a network that differs in them
loads, runs, and answers nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.config.yaml_table import read_table
from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import values_of_hf
from orchestrator.formats.foreign_files import open_regular, read_small_json
from orchestrator.formats.tokenizer_files import beside_weights

__all__ = ["check_beside"]

_LARGEST = 1 << 20


def check_beside(config: NetworkConfig, load: Path, source: Path | None = None) -> None:
    """Raise ModelError with both values and the file where what lies beside a checkpoint says otherwise.

    `source` is the file that the config was read from, where it is known. A file that is no network's
    configuration says nothing.
    """
    for name in ("config.yaml", "config.json"):
        path = beside_weights(load, name)
        if path is None or (source is not None and source.exists() and path.samefile(source)):
            continue
        is_hf = name == "config.json"
        told = values_of_hf(read_small_json(path, _LARGEST)) or {} if is_hf else _of_yaml(path)
        wrong = list(_differences(config, told))
        if wrong:
            keys = ", ".join(f"{key}: {value}" for key, _, value in wrong)
            raise ModelError(
                "; ".join(f"{key} is {mine!r}, but {value!r} in {path}" for key, mine, value in wrong),
                where=str(source or "model"),
                remedy=f"set {keys}, or name the file that lies beside the weights as the model",
            )


def _differences(config: NetworkConfig, told: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    if "hidden_size" not in told:
        return
    family = told.get("family", config.family.name)
    if family != config.family.name:
        yield "family", config.family.name, family
        return
    for key in config.telling():
        if told.get(key) is not None and told[key] != getattr(config, key):
            yield key, getattr(config, key), told[key]


def _of_yaml(path: Path) -> Mapping[str, Any]:
    """Ours, or the `model.model_config` of MindFormers'."""
    try:
        with open_regular(path) as file:
            if len(file.read(_LARGEST + 1)) > _LARGEST:
                return {}
        table = read_table(path)
    except (OSError, ModelError):
        return {}  # some other config.yaml
    model = table.get("model")
    inner = model.get("model_config") if isinstance(model, dict) else None
    return inner if isinstance(inner, dict) else table
