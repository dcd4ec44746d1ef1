"""A `config.json` of Hugging Face's transformers, read as our configuration by its family's table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.config.load_config import config_from
from model.errors import ModelError
from orchestrator.families.family import Family
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import families, family_of_hf
from orchestrator.formats.foreign_files import lfs_pointer, open_regular

__all__ = ["load_hf_config"]

_NEEDED = ("hidden_size", "num_layers", "num_heads", "vocab_size")
_LONGEST = 16 << 20


def load_hf_config(path: Path, overrides: Mapping[str, Any] | None = None) -> NetworkConfig:
    """The config of a published model; ModelError where it is none, or one that our network cannot be.

    Weights and computation are of the type that the file names; norms and softmax are in float32, as there.
    Prompts go in as they are, and decoding is greedy unless asked otherwise.
    """
    table = _read(path)
    family = _family(table, path)
    problems = list(_problems(table, family))
    if problems:
        raise ModelError("; ".join(problems), where=str(path))
    dtype = table.get("torch_dtype") or table.get("dtype") or "float32"
    types = dict.fromkeys(("param_init_type", "embedding_init_type", "compute_dtype"), dtype)
    fixed = {
        "family": family.name,
        "layernorm_compute_type": "float32",
        "softmax_compute_type": "float32",
        "prompt_template": "none",
        "do_sample": False,
    }
    return config_from({**family.hf.fields_in(table), **types, **fixed, **(overrides or {})}, where=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            raw = file.read(_LONGEST + 1)
        if words := lfs_pointer(raw):
            raise ModelError(words[0], where=str(path), remedy=words[1])
        if len(raw) > _LONGEST:
            raise ValueError
        table = json.loads(raw)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError):
        raise ModelError("is no JSON", where=str(path), remedy="download it again") from None
    if not isinstance(table, dict):
        raise ModelError("holds no table of keys and values", where=str(path))
    return table


def _family(table: Mapping[str, Any], path: Path) -> Family:
    found = family_of_hf(table)
    if found is None:
        kind = table.get("model_type")
        known = " or ".join(repr(family.hf.model_type) for family in families())
        raise ModelError(f"model_type is {kind!r}, not {known}", where=str(path))
    return found


def _problems(table: Mapping[str, Any], family: Family) -> Iterable[str]:
    known = family.hf.fields_in(table)
    for field in _NEEDED:
        if field not in known:
            yield f"{family.hf.fields[field][0]} is missing"
    for key, only in family.hf.fixed.items():
        value = table.get(key)
        if value is None or value == only:
            continue
        if isinstance(only, bool):
            yield f"{key} is {str(value).lower()}, which this network cannot be"
        else:
            yield f"{key} is {value}, but this network's is {only}"
    yield from family.hf.problems(table)
