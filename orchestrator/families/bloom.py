"""The table of Bloom, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model" (2022).

Names within MindSpore are those that MindFormers' network saves. Its conversion of weights keeps the prefix
that the source's keys have, so that there are files with `transformer.` before them, too. Query, key and
value (`dense1` to `dense3`) are one tensor of Hugging Face's, whose rows are interleaved head by head:
`reshape(heads, 3, head size, …)`.
Source: MindFormers 1.0.2, `models/bloom/convert_weight.py`, and transformers' `BloomConfig`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.families.family import Family, HfFormat, Stage, Weight
from orchestrator.families.network_config import NetworkConfig

__all__ = ["BLOOM", "BloomConfig"]

_H, _F = "hidden_size", "ffn_size"


def _norm(ours: str, theirs: str, stage: Stage = "block") -> Iterator[Weight]:
    for name, its in (("gamma", "weight"), ("beta", "bias")):
        yield Weight(f"{ours}.{name}", f"{theirs}.{its}", (_H,), type="layernorm_compute_type", stage=stage)


def _linear(
    ours: str, theirs: str, shape: tuple[str, str], weight_axis: int, bias_axis: int | None
) -> Iterator[Weight]:
    """One that is stored (in, out)."""
    yield Weight(f"{ours}.weight", f"{theirs}.weight", shape, weight_axis, transposed=True)
    yield Weight(f"{ours}.bias", f"{theirs}.bias", shape[1:], bias_axis)


# dense1 to dense3 and mapping are cut by output, the two projections by input.
_WEIGHTS = (
    Weight(
        "embedding.word_embedding.embedding_table",
        "transformer.word_embeddings.weight",
        ("vocab_size", _H),
        axis=0,
        type="embedding_init_type",
        stage="both",  # the head is tied to it
    ),
    *_norm("embedding.norm", "transformer.word_embeddings_layernorm", "first"),
    *_norm("layernorm1", "input_layernorm"),
    *(
        Weight(f"attention.dense{n + 1}.{kind}", f"self_attention.query_key_value.{kind}", shape, 0, qkv=n)
        for n in range(3)
        for kind, shape in (("weight", (_H, _H)), ("bias", (_H,)))
    ),
    *_linear("attention.projection", "self_attention.dense", (_H, _H), 0, None),
    *_norm("layernorm2", "post_attention_layernorm"),
    *_linear("output.mapping", "mlp.dense_h_to_4h", (_H, _F), 1, 0),
    *_linear("output.projection", "mlp.dense_4h_to_h", (_F, _H), 0, None),
    *_norm("ln_f", "transformer.ln_f", "last"),
)


def _inner_size(table: Mapping[str, Any]) -> Iterator[str]:
    hidden = table.get("hidden_size", table.get("n_embed"))
    inner = table.get("n_inner")
    if inner is not None and isinstance(hidden, int) and inner != 4 * hidden:
        yield f"n_inner is {inner}, not 4 times hidden_size"


BLOOM = Family(
    name="bloom",
    title="Bloom",
    mindformers="BloomConfig",
    weights=_WEIGHTS,
    other_prefixes=("transformer.",),
    table_again="head.weight",
    hf=HfFormat(
        model_type="bloom",
        architecture="BloomForCausalLM",
        # The old names in the published files are transformers' own aliases.
        fields={
            "hidden_size": ("hidden_size", "n_embed"),
            "num_layers": ("n_layer", "num_hidden_layers"),
            "num_heads": ("n_head", "num_attention_heads"),
            "vocab_size": ("vocab_size",),
            "seq_length": ("seq_length",),
            "hidden_dropout_rate": ("hidden_dropout",),
            "attention_dropout_rate": ("attention_dropout",),
            "initializer_range": ("initializer_range",),
            **{name: (name,) for name in ("unk_token_id", "bos_token_id", "eos_token_id", "pad_token_id")},
        },
        fixed={
            "layer_norm_epsilon": 1e-5,
            "apply_residual_connection_post_layernorm": False,
            "tie_word_embeddings": True,
        },
        only={"expand_ratio": 4},
        nearly={"hidden_act": "gelu"},
        problems=_inner_size,
    ),
    presets={
        # Small enough for four ranks on two cores; no published counterpart.
        "tiny": {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 512,
            "seq_length": 64,
            "hidden_act": "fast_gelu",
            "hidden_dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "initializer_range": 0.08,  # wide, for the published 0.02 is meant for thousands of hidden units
            "param_init_type": "float32",
            "softmax_compute_type": "float32",
            "compute_dtype": "float32",
        },
        # As MindFormers 1.0.2 publishes them, and below as 0.6.0 does.
        "560m": {"hidden_size": 1024, "num_layers": 24, "num_heads": 16},
        "7.1b": {"hidden_size": 4096, "num_layers": 30, "num_heads": 32},
        "65b": {"hidden_size": 8192, "num_layers": 80, "num_heads": 64, "hidden_act": "fast_gelu"},
        "176b": {"hidden_size": 14336, "num_layers": 70, "num_heads": 112, "hidden_act": "fast_gelu"},
    },
    # The models that MindFormers' page takes them from. 65b was never published.
    hub={
        "bloom_560m": "bigscience/bloomz-560m",
        "bloom_7.1b": "bigscience/bloomz-7b1-mt",
        "bloom_176b": "bigscience/bloom",
    },
)


@dataclass(frozen=True, slots=True)
class BloomConfig(NetworkConfig):
    """One Bloom network; the defaults are those that all published sizes share.

    ALiBi sets no limit of its own to `seq_length`.
    """

    family: ClassVar[Family] = BLOOM
    positive: ClassVar[tuple[str, ...]] = (*NetworkConfig.positive, "expand_ratio")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "hidden_act": ("gelu", "fast_gelu"),
        **NetworkConfig.choices,
    }

    vocab_size: int = 250880
    expand_ratio: int = 4

    @property
    def ffn_size(self) -> int:
        return self.hidden_size * self.expand_ratio

    @property
    def cut_evenly(self) -> dict[str, int]:
        return {"num_heads": self.num_heads, "hidden_size * expand_ratio": self.ffn_size}
