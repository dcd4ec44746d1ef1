"""A Bloom's `config.json` of Hugging Face's transformers, read as our config.

Source: transformers' `BloomConfig`; the old names in the published files are its own aliases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.config.bloom_config import BloomConfig
from model.errors import ModelError

__all__ = ["load_hf_config"]

# Our field <- the names it has there, the first one found counts.
_FIELDS = {
    "hidden_size": ("hidden_size", "n_embed"),
    "num_layers": ("n_layer", "num_hidden_layers"),
    "num_heads": ("n_head", "num_attention_heads"),
    "vocab_size": ("vocab_size",),
    "seq_length": ("seq_length",),
    "hidden_dropout_rate": ("hidden_dropout",),
    "attention_dropout_rate": ("attention_dropout",),
    "initializer_range": ("initializer_range",),
    "unk_token_id": ("unk_token_id",),
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id",),
    "pad_token_id": ("pad_token_id",),
}
_NEEDED = ("hidden_size", "num_layers", "num_heads", "vocab_size")
_LONGEST = 16 << 20


def load_hf_config(path: Path, overrides: Mapping[str, Any] | None = None) -> BloomConfig:
    """The config of a published Bloom; ModelError where it is none, or one that this network cannot be.

    Weights and computation are of the type that the file names; norms and softmax are in float32, as there.
    Prompts go in as they are, and decoding is greedy unless asked otherwise.
    """
    table = _read(path)
    problems = list(_problems(table))
    if problems:
        raise ModelError("; ".join(problems), where=str(path))
    values = {field: _value(table, names) for field, names in _FIELDS.items()}
    dtype = table.get("torch_dtype") or table.get("dtype") or "float32"
    types = dict.fromkeys(("param_init_type", "embedding_init_type", "compute_dtype"), dtype)
    fixed = {
        "layernorm_compute_type": "float32",
        "softmax_compute_type": "float32",
        "prompt_template": "none",
        "do_sample": False,
    }
    known = {field: value for field, value in values.items() if value is not None}
    return BloomConfig.from_table({**known, **types, **fixed, **(overrides or {})}, where=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError):
        raise ModelError("is no JSON", where=str(path), remedy="download it again") from None
    if not isinstance(table, dict):
        raise ModelError("holds no table of keys and values", where=str(path))
    return table


def _value(table: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((table[name] for name in names if table.get(name) is not None), None)


def _problems(table: Mapping[str, Any]) -> Iterable[str]:
    if table.get("model_type") != "bloom":
        yield f"model_type is {table.get('model_type')!r}, not 'bloom'"
        return
    for field in _NEEDED:
        if _value(table, _FIELDS[field]) is None:
            yield f"{_FIELDS[field][0]} is missing"
    if table.get("apply_residual_connection_post_layernorm"):
        yield "apply_residual_connection_post_layernorm is true, which this network cannot be"
    if table.get("layer_norm_epsilon", 1e-5) != 1e-5:
        yield f"layer_norm_epsilon is {table['layer_norm_epsilon']}, but this network's is 1e-05"
    hidden, inner = _value(table, _FIELDS["hidden_size"]), table.get("n_inner")
    if inner is not None and isinstance(hidden, int) and inner != 4 * hidden:
        yield f"n_inner is {inner}, not 4 times hidden_size"
    if table.get("tie_word_embeddings") is False:
        yield "tie_word_embeddings is false, but this network's head is its embedding"
