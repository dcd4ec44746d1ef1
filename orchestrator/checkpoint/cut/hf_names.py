"""Bloom's parameters under two names: Hugging Face's and MindFormers'. A table and arithmetic, no files.

MindFormers' query, key and value (`dense1` to `dense3`) are one tensor there, whose rows are interleaved head
by head: `reshape(heads, 3, head size, …)`. `*.projection.weight` and `*.mapping.weight` are transposed, all
else is the same bytes. Source: MindFormers 1.0.2, `models/bloom/convert_weight.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.errors import CheckpointError

__all__ = ["HF_PREFIX", "QKV_PARTS", "HfPart", "hf_names", "hf_part", "hf_shape", "ms_parts", "qkv_axes"]

# The prefix of a language model's weights in Hugging Face's files; those of a bare model have none.
HF_PREFIX = "transformer."
_MS_PREFIX = "transformer."
QKV_PARTS = 3

# MindFormers' name within its module -> Hugging Face's, the part of query_key_value, transposed or not.
_OUTSIDE = {
    "embedding.word_embedding.embedding_table": "word_embeddings.weight",
    "embedding.norm.gamma": "word_embeddings_layernorm.weight",
    "embedding.norm.beta": "word_embeddings_layernorm.bias",
    "ln_f.gamma": "ln_f.weight",
    "ln_f.beta": "ln_f.bias",
}
_IN_BLOCK: dict[str, tuple[str, int | None, bool]] = {
    "layernorm1.gamma": ("input_layernorm.weight", None, False),
    "layernorm1.beta": ("input_layernorm.bias", None, False),
    "attention.dense1.weight": ("self_attention.query_key_value.weight", 0, False),
    "attention.dense1.bias": ("self_attention.query_key_value.bias", 0, False),
    "attention.dense2.weight": ("self_attention.query_key_value.weight", 1, False),
    "attention.dense2.bias": ("self_attention.query_key_value.bias", 1, False),
    "attention.dense3.weight": ("self_attention.query_key_value.weight", 2, False),
    "attention.dense3.bias": ("self_attention.query_key_value.bias", 2, False),
    "attention.projection.weight": ("self_attention.dense.weight", None, True),
    "attention.projection.bias": ("self_attention.dense.bias", None, False),
    "layernorm2.gamma": ("post_attention_layernorm.weight", None, False),
    "layernorm2.beta": ("post_attention_layernorm.bias", None, False),
    "output.mapping.weight": ("mlp.dense_h_to_4h.weight", None, True),
    "output.mapping.bias": ("mlp.dense_h_to_4h.bias", None, False),
    "output.projection.weight": ("mlp.dense_4h_to_h.weight", None, True),
    "output.projection.bias": ("mlp.dense_4h_to_h.bias", None, False),
}
_MS_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)", re.ASCII)
_HF_BLOCK = re.compile(r"h\.(\d+)\.(.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class HfPart:
    """What a MindFormers parameter `ms` is of the Hugging Face tensor `hf` (named with its prefix).

    `qkv` is 0, 1 or 2 for query, key, value, whose rows are every third of `hf`'s runs of head size rows;
    None where `ms` is the whole tensor. `transposed`: the axes of the two are swapped.
    """

    ms: str
    hf: str
    qkv: int | None = None
    transposed: bool = False


def hf_part(ms_name: str) -> HfPart | None:
    """The Hugging Face side of a MindFormers weight (named with `transformer.`); None where it has none."""
    inner = ms_name.removeprefix(_MS_PREFIX)
    if inner in _OUTSIDE:
        return HfPart(ms_name, HF_PREFIX + _OUTSIDE[inner])
    match = _MS_BLOCK.fullmatch(inner)
    if match is None or match[2] not in _IN_BLOCK:
        return None
    name, qkv, transposed = _IN_BLOCK[match[2]]
    return HfPart(ms_name, f"{HF_PREFIX}h.{match[1]}.{name}", qkv, transposed)


def ms_parts(hf_name: str) -> tuple[HfPart, ...]:
    """The MindFormers weights that a Hugging Face tensor holds; its prefix may be missing. () where none."""
    inner = hf_name.removeprefix(HF_PREFIX)
    match = _HF_BLOCK.fullmatch(inner)
    if match is None:
        return tuple(HfPart(_MS_PREFIX + ms, HF_PREFIX + hf) for ms, hf in _OUTSIDE.items() if hf == inner)
    start, full = f"{_MS_PREFIX}blocks.{match[1]}.", HF_PREFIX + inner
    return tuple(
        HfPart(start + ms, full, qkv, transposed)
        for ms, (hf, qkv, transposed) in _IN_BLOCK.items()
        if hf == match[2]
    )


def hf_names(num_layers: int) -> list[str]:
    """Every tensor of a Bloom with so many blocks, in the order in which transformers saves them."""
    first, norms, last = (
        list(_OUTSIDE.values())[:1],
        list(_OUTSIDE.values())[1:3],
        list(_OUTSIDE.values())[3:],
    )
    blocks = dict.fromkeys(name for name, _, _ in _IN_BLOCK.values())
    return [
        HF_PREFIX + name
        for name in (*first, *norms, *(f"h.{n}.{name}" for n in range(num_layers) for name in blocks), *last)
    ]


def hf_shape(part: HfPart, dims: Sequence[int]) -> tuple[int, ...]:
    """The shape of `part.hf`, of which a weight of shape `dims` is the part."""
    if part.qkv is not None:
        return (dims[0] * QKV_PARTS, *dims[1:])
    return tuple(reversed(dims)) if part.transposed else tuple(dims)


def qkv_axes(dims: Sequence[int], heads: int) -> tuple[int, ...]:
    """The axes (heads, 3, head size, …) of a query_key_value of which query, key and value have shape `dims`.

    At index `part.qkv` of the second axis lies what the weight holds as (heads, head size, …).
    CheckpointError where the rows cannot be dealt out over so many heads.
    """
    if heads < 1 or dims[0] % heads:
        raise CheckpointError(f"{dims[0]} rows cannot be dealt out over {heads} heads")
    return (heads, QKV_PARTS, dims[0] // heads, *dims[1:])
