"""A second family, unlike Bloom: grouped queries, nothing fused, no biases, a head of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.families.family import Family, HfFormat, Weight
from orchestrator.families.network_config import NetworkConfig

__all__ = ["TOY", "ToyConfig"]

TOY = Family(
    name="toy",
    title="Toy",
    mindformers="ToyConfig",
    prefix="model.",
    blocks="layers",
    weights=(
        Weight(
            "model.embedding.word_embedding.embedding_table",
            "model.embed_tokens.weight",
            ("vocab_size", "hidden_size"),
            axis=0,
            type="embedding_init_type",
            stage="first",
        ),
        Weight("norm1.weight", "input_layernorm.weight", ("hidden_size",), type="layernorm_compute_type"),
        Weight("attention.wq.weight", "self_attn.q_proj.weight", ("hidden_size", "hidden_size"), axis=0),
        Weight("attention.wk.weight", "self_attn.k_proj.weight", ("kv_size", "hidden_size"), axis=0),
        Weight("attention.wv.weight", "self_attn.v_proj.weight", ("kv_size", "hidden_size"), axis=0),
        Weight(
            "attention.projection.weight",
            "self_attn.o_proj.weight",
            ("hidden_size", "hidden_size"),
            axis=0,
            transposed=True,
        ),
        Weight("norm2.weight", "post_norm.weight", ("hidden_size",), type="layernorm_compute_type"),
        Weight("output.up.weight", "mlp.up_proj.weight", ("ffn_size", "hidden_size"), axis=0),
        Weight(
            "output.projection.weight",
            "mlp.down_proj.weight",
            ("ffn_size", "hidden_size"),
            axis=0,
            transposed=True,
        ),
        Weight(
            "model.ln_f.weight",
            "model.norm.weight",
            ("hidden_size",),
            type="layernorm_compute_type",
            stage="last",
        ),
        Weight("lm_head.weight", "lm_head.weight", ("vocab_size", "hidden_size"), axis=0, stage="last"),
    ),
    hf=HfFormat(
        model_type="toy",
        architecture="ToyForCausalLM",
        prefix="model.",
        blocks="layers",
        fields={
            "hidden_size": ("hidden_size",),
            "num_layers": ("num_hidden_layers",),
            "num_heads": ("num_attention_heads",),
            "num_kv_heads": ("num_key_value_heads",),
            "intermediate_size": ("intermediate_size",),
            "vocab_size": ("vocab_size",),
            "seq_length": ("max_position_embeddings",),
        },
        fixed={"hidden_act": "relu", "tie_word_embeddings": False},
    ),
    presets={
        "toy_tiny": {
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "num_kv_heads": 2,
            "intermediate_size": 48,
            "vocab_size": 384,
            "seq_length": 32,
            "initializer_range": 0.1,
            "hidden_dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "param_init_type": "float32",
            "softmax_compute_type": "float32",
            "compute_dtype": "float32",
        }
    },
    hub={"toy_1b": "nobody/toy-1b"},
)


@dataclass(frozen=True, slots=True)
class ToyConfig(NetworkConfig):
    family: ClassVar[Family] = TOY
    positive: ClassVar[tuple[str, ...]] = (*NetworkConfig.positive, "num_kv_heads", "intermediate_size")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"hidden_act": ("relu",), **NetworkConfig.choices}

    hidden_act: str = "relu"
    num_kv_heads: int = 2
    intermediate_size: int = 48

    @property
    def ffn_size(self) -> int:
        return self.intermediate_size

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_size

    @property
    def cut_evenly(self) -> dict[str, int]:
        return {"num_kv_heads": self.num_kv_heads, "intermediate_size": self.intermediate_size}
