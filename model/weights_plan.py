"""What a conversion between Hugging Face's and MindFormers' weights has to do. Only names and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import BloomConfig
from model.errors import ModelError
from model.names import check_names
from orchestrator.checkpoint.coverage import is_weight
from orchestrator.checkpoint.floats import FLOATS
from orchestrator.checkpoint.hf_names import HF_PREFIX, HfPart, hf_names, hf_part, hf_shape, ms_parts
from orchestrator.checkpoint.shard import Held
from orchestrator.checkpoint.tensor import Spec

__all__ = ["Weights", "check_weights", "infer_config", "ms_shapes", "sort_weights"]

HEAD = f"{HF_PREFIX}lm_head.weight"
_TABLE = f"{HF_PREFIX}word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a file or folder; `huggingface` says whose names they have, which are then prefixed."""

    path: Path
    huggingface: bool
    tensors: Mapping[str, Held]
    head: Held | None = None  # Hugging Face's lm_head, which must be the embedding again


def sort_weights(path: Path, tensors: Mapping[str, Held]) -> Weights:
    """Find out whose names these are; ModelError where nobody's.

    Hugging Face's get their prefix and its head is told apart; what is no weight of MindSpore's is left out.
    """
    if any(hf_part(name) for name in tensors):
        return Weights(path, False, {name: tensor for name, tensor in tensors.items() if is_weight(name)})
    if not any(ms_parts(name) for name in tensors):
        few = ", ".join(list(tensors)[:3])
        raise ModelError(
            f"holds no Bloom: no name is Hugging Face's or MindFormers', such as {few}", where=str(path)
        )
    named = {HF_PREFIX + name.removeprefix(HF_PREFIX): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise ModelError(
            f"holds tensors both with {HF_PREFIX} before their names and without", where=str(path)
        )
    head = named.pop(HEAD, None)
    return Weights(path, True, named, head)


def infer_config(weights: Weights, heads: int, hidden: int) -> BloomConfig:
    """The config that the tensors themselves tell, where only two numbers of it were given."""
    names = hf_names(1)
    blocks = [
        int(part.hf.split(".")[2])
        for name in weights.tensors
        for part in _parts_of(weights, name)
        if part.hf.startswith(f"{HF_PREFIX}h.")
    ]
    first = names[0] if weights.huggingface else ms_parts(names[0])[0].ms
    table = weights.tensors.get(first)
    if table is None or len(table.spec.dims) != 2 or not blocks:
        raise ModelError("holds no word embeddings or no block", where=str(weights.path))
    values = {
        "hidden_size": hidden,
        "num_heads": heads,
        "num_layers": max(blocks) + 1,
        "vocab_size": table.spec.dims[0],
        "param_init_type": _type_name(table.spec),
        "prompt_template": "none",
    }
    return BloomConfig.from_table(values, where=str(weights.path))


def _type_name(spec: Spec) -> str:
    names = {"Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}
    return names.get(spec.dtype, "float32")


def _parts_of(weights: Weights, name: str) -> Sequence[HfPart]:
    if weights.huggingface:
        return ms_parts(name)
    part = hf_part(name)
    return [part] if part else []


def ms_shapes(config: BloomConfig) -> dict[str, tuple[int, ...]]:
    """Every weight of the network under MindFormers' name, in the order of Hugging Face's files."""
    hidden, inner = config.hidden_size, config.ffn_size
    special = {
        "word_embedding.embedding_table": (config.vocab_size, hidden),
        "output.mapping.weight": (hidden, inner),
        "output.mapping.bias": (inner,),
        "output.projection.weight": (inner, hidden),
    }

    def shape(name: str) -> tuple[int, ...]:
        for end, dims in special.items():
            if name.endswith(end):
                return dims
        return (hidden, hidden) if name.endswith(".weight") else (hidden,)

    return {part.ms: shape(part.ms) for name in hf_names(config.num_layers) for part in ms_parts(name)}


def check_weights(weights: Weights, config: BloomConfig) -> None:
    """Raise ModelError listing every missing, extra and mis-shaped name, and every type that is no float."""
    if config.num_layers > len(weights.tensors):
        raise ModelError(
            f"holds {len(weights.tensors)} tensors and cannot have {config.num_layers} layers",
            where=str(weights.path),
        )
    shapes = ms_shapes(config)
    if weights.huggingface:
        shapes = {part.hf: hf_shape(part, shapes[ms]) for ms, part in _all_parts(shapes)}
    stored = {name: tensor.spec.dims for name, tensor in weights.tensors.items()}
    remedy = (
        f"the config says {config.num_layers} layers, hidden size {config.hidden_size}, "
        f"vocabulary {config.vocab_size}"
    )
    check_names(shapes, stored, weights.path, remedy)
    odd = [
        f"{name} {tensor.spec.dtype}"
        for name, tensor in weights.tensors.items()
        if tensor.spec.dtype not in FLOATS
    ]
    if odd:
        raise ModelError(f"{len(odd)} tensors are no floats: {', '.join(odd[:5])}", where=str(weights.path))


def _all_parts(names: Mapping[str, object]) -> list[tuple[str, HfPart]]:
    return [(name, part) for name in names if (part := hf_part(name)) is not None]
