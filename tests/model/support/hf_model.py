"""Small Bloom models in Hugging Face's files, made without its libraries; their mapping in plain NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from model.config.load_config import load_config
from orchestrator.checkpoint.files.tensor_files import write_safetensors
from orchestrator.families.bloom import BloomConfig

__all__ = ["CONFIG", "as_mindformers", "hf_weights", "write_hf"]

CONFIG = load_config(
    "tiny",
    {"hidden_size": 24, "num_heads": 3, "vocab_size": 300, "hidden_act": "gelu", "prompt_template": "none"},
)


def hf_weights(config: BloomConfig = CONFIG, seed: int = 0, dtype: str = "<f4") -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names, in its order."""
    random = np.random.default_rng(seed)
    h, f = config.hidden_size, config.ffn_size
    shapes: dict[str, tuple[int, ...]] = {
        "word_embeddings.weight": (config.vocab_size, h),
        "word_embeddings_layernorm.weight": (h,),
        "word_embeddings_layernorm.bias": (h,),
    }
    for layer in range(config.num_layers):
        block = {
            "input_layernorm.weight": (h,),
            "input_layernorm.bias": (h,),
            "self_attention.query_key_value.weight": (3 * h, h),
            "self_attention.query_key_value.bias": (3 * h,),
            "self_attention.dense.weight": (h, h),
            "self_attention.dense.bias": (h,),
            "post_attention_layernorm.weight": (h,),
            "post_attention_layernorm.bias": (h,),
            "mlp.dense_h_to_4h.weight": (f, h),
            "mlp.dense_h_to_4h.bias": (f,),
            "mlp.dense_4h_to_h.weight": (h, f),
            "mlp.dense_4h_to_h.bias": (h,),
        }
        shapes.update({f"h.{layer}.{name}": shape for name, shape in block.items()})
    shapes.update({"ln_f.weight": (h,), "ln_f.bias": (h,)})
    return {
        f"transformer.{name}": (random.standard_normal(shape) * 0.1).astype(dtype)
        for name, shape in shapes.items()
    }


def as_mindformers(weights: dict[str, np.ndarray], config: BloomConfig = CONFIG) -> dict[str, np.ndarray]:
    """The same as MindFormers' network saves it, cut and turned as its own script does it."""
    names = {
        "word_embeddings.weight": "embedding.word_embedding.embedding_table",
        "word_embeddings_layernorm.weight": "embedding.norm.gamma",
        "word_embeddings_layernorm.bias": "embedding.norm.beta",
        "ln_f.weight": "ln_f.gamma",
        "ln_f.bias": "ln_f.beta",
        "input_layernorm.weight": "layernorm1.gamma",
        "input_layernorm.bias": "layernorm1.beta",
        "post_attention_layernorm.weight": "layernorm2.gamma",
        "post_attention_layernorm.bias": "layernorm2.beta",
        "self_attention.dense.weight": "attention.projection.weight",
        "self_attention.dense.bias": "attention.projection.bias",
        "mlp.dense_h_to_4h.weight": "output.mapping.weight",
        "mlp.dense_h_to_4h.bias": "output.mapping.bias",
        "mlp.dense_4h_to_h.weight": "output.projection.weight",
        "mlp.dense_4h_to_h.bias": "output.projection.bias",
    }
    result = {}
    for full, value in weights.items():
        name, start = full.removeprefix("transformer."), ""
        if name.startswith("h."):
            _, layer, name = name.split(".", 2)
            start += f"blocks.{layer}."
        if "query_key_value" in name:
            heads = value.reshape(config.num_heads, 3, config.head_size, *value.shape[1:])
            for n, part in enumerate(np.split(heads, 3, axis=1), 1):
                key = f"{start}attention.dense{n}.{name.rsplit('.', 1)[1]}"
                result[key] = part.reshape(config.hidden_size, *value.shape[1:])
        elif names[name].endswith(("projection.weight", "mapping.weight")):
            result[start + names[name]] = np.ascontiguousarray(value.T)
        else:
            result[start + names[name]] = value
    return result


def write_hf(
    folder: Path,
    config: BloomConfig = CONFIG,
    *,
    weights: dict[str, np.ndarray] | None = None,
    shards: int = 1,
    prefix: bool = True,
    **more: object,
) -> dict[str, np.ndarray]:
    """A folder as it is downloaded: config.json, and weights in so many shards; returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = hf_weights(config) if weights is None else weights
    table = {
        "model_type": "bloom",
        "n_embed": config.hidden_size,
        "n_layer": config.num_layers,
        "num_attention_heads": config.num_heads,
        "vocab_size": config.vocab_size,
        "seq_length": config.seq_length,
        "torch_dtype": "float32",
        "pad_token_id": 3,
        **more,
    }
    (folder / "config.json").write_text(json.dumps(table))
    items = [
        (name if prefix else name.removeprefix("transformer."), value) for name, value in weights.items()
    ]
    if shards == 1:
        write_safetensors(folder / "model.safetensors", items, metadata={"format": "pt"})
        return weights
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = items[number::shards]
        write_safetensors(folder / name, part, metadata={"format": "pt"})
        weight_map.update({key: name for key, _ in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights
