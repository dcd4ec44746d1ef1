"""Dense decoders as Llama, Qwen and GLM are: their dimensions, and the parameters that follow from them.

RMSNorm before attention and MLP, query heads that share key and value heads in groups, a gated MLP of three
matrices, rotary positions (which have no parameters), a head that may be the word embedding. None of them is
bundled: they are estimated, and MindFormers runs them.
Source: `LlamaModel`, `Qwen2Model`, `Qwen3Model`, `GlmModel` and `Glm4Model` of transformers 4.57, and
MindFormers 1.9.0, `models/llama`, `models/glm2`, `parallel_core/training_graph`, which hold as many values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from orchestrator.families.family import Family, HfFormat, Stage, Weight
from orchestrator.families.network_layers import BYTES, cut_problems, flash_statistics

__all__ = ["DenseDecoder"]

_H, _F = "hidden_size", "ffn_size"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What there is beside the matrices that all of them have."""

    title: str
    tied: bool
    qk_norms: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    post_norms: bool
    cuts_vocabulary: bool


@dataclass(frozen=True, slots=True)
class DenseDecoder:
    """One dense decoder.

    `qk_norms`: queries and keys of each head are normed; `post_norms`: so are the outputs of attention and
    MLP, as in GLM-4-0414. `tied`: the head is the word embedding. `cuts_vocabulary`: model-parallel ranks
    share embedding and head; `cuts_kv_heads`: several of them may share a head of keys and values.
    `param_type` is what weights are stored in, the others what is computed in.
    """

    title: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    ffn_size: int
    vocab_size: int
    seq_length: int
    tied: bool = False
    qk_norms: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    post_norms: bool = False
    cuts_vocabulary: bool = True
    cuts_kv_heads: bool = False
    use_flash_attention: bool = True
    attention_dropout: float = 0.0
    param_type: str = "float32"
    embedding_type: str = "float32"
    compute_dtype: str = "bfloat16"
    norm_type: str = "float32"
    softmax_type: str = "float32"
    state_type: str = "bfloat16"

    @property
    def family(self) -> Family:
        """The table of its parameters."""
        return _table(
            _Parts(
                self.title,
                self.tied,
                self.qk_norms,
                self.qkv_bias,
                self.output_bias,
                self.mlp_bias,
                self.post_norms,
                self.cuts_vocabulary,
            )
        )

    @property
    def heads_size(self) -> int:
        """How many values the queries of one token have, which need not be the hidden size."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """How many values the keys of one token have, which is as many as its values have."""
        return self.num_kv_heads * self.head_size

    @property
    def state_width(self) -> int:
        """Bytes of one value of the state that goes from block to block."""
        return self.width("state_type")

    def width(self, field: str) -> int:
        """Bytes of one value of the type that `field` gives."""
        return BYTES[getattr(self, field)]

    def shape(self, weight: Weight) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        return tuple(getattr(self, size) for size in weight.shape)

    @property
    def parameter_count(self) -> int:
        """Values of the whole network."""
        counts = ((row, math.prod(self.shape(row))) for row in self.family.weights)
        return sum(count * (self.num_layers if row.stage == "block" else 1) for row, count in counts)

    def block_activations(
        self, sequences: int, parts: int, *, flash: bool = False, cuts_sequence: bool = False
    ) -> int:
        """Bytes that one block keeps for its backward pass, on each of `parts` model-parallel ranks.

        Counted as Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022),
        4.1, for this block, in values a token: the two norms' inputs and outputs; queries, keys and values
        after the rotation, and before their norms where they have some; what attention gives; gate, up, the
        activated gate, and their product. Without the flash kernel the softmax of all pairs and its copy in
        the type of computation, and keys and values repeated for all query heads.
        """
        tokens, compute, norm = (
            sequences * self.seq_length,
            self.width("compute_dtype"),
            self.width("norm_type"),
        )
        whole = 1 if not cuts_sequence else parts
        normed = (4 if self.post_norms else 2) * self.hidden_size * norm // whole
        gathered = 2 * self.hidden_size * compute
        projected = self.heads_size + 2 * self.kv_size
        if self.qk_norms:
            projected += self.heads_size + self.kv_size
        if not flash:
            projected += 2 * (self.heads_size - self.kv_size)
        inner = (projected + self.heads_size + 4 * self.ffn_size) * compute
        of_tokens = tokens * (normed + gathered + inner // parts)
        pairs = tokens * self.seq_length * self.num_heads // parts
        if flash:
            bits = pairs // 8 if self.attention_dropout else 0
            return of_tokens + bits + flash_statistics(tokens, self.num_heads) // parts
        dropped = compute / 2 if self.attention_dropout else 0
        return of_tokens + int(pairs * (compute + dropped + self.width("softmax_type")))

    def mlp_products(self, sequences: int, parts: int) -> int:
        """Bytes of the activated gate and of its product, which MindFormers' select_recompute makes again."""
        return 2 * sequences * self.seq_length * self.ffn_size * self.width("compute_dtype") // parts

    def cut_problems(
        self, model_parallel: int, pipeline_stage: int, sequence_parts: int = 1
    ) -> Iterator[tuple[str, str, str]]:
        """(key of `parallel`, what is wrong, what to do) where the network cannot be cut in this way."""
        numbers = {"heads": self.num_heads, "MLP": self.ffn_size, "key and value heads": self.num_kv_heads}
        if self.cuts_kv_heads:
            numbers["key and value heads"] = self.kv_size
        return cut_problems(
            numbers, self.num_layers, self.seq_length, model_parallel, pipeline_stage, sequence_parts
        )

    def problems(self) -> Iterator[str]:
        """What the types of the fields alone do not say."""
        sizes = (
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_size",
            "ffn_size",
            "vocab_size",
        )
        low = [key for key in (*sizes, "seq_length") if not 1 <= getattr(self, key) <= 2**31]
        if low:
            yield f"{', '.join(low)} must be at least 1 and below 2^31"
        elif self.num_heads % self.num_kv_heads:
            yield f"{self.num_heads} heads cannot share {self.num_kv_heads} key and value heads evenly"


@cache
def _table(parts: _Parts) -> Family:
    return Family(
        name=parts.title.lower(),
        title=parts.title,
        mindformers="",
        weights=tuple(_weights(parts)),
        hf=HfFormat(model_type="", architecture="", fields={}, prefix="model.", blocks="layers"),
        presets={},
        prefix="model.",
        blocks="layers",
    )


def _weights(parts: _Parts) -> Iterator[Weight]:
    cut = 0 if parts.cuts_vocabulary else None
    table = ("vocab_size", _H)
    stage: Stage = "both" if parts.tied else "first"
    yield _weight("model.embed_tokens", table, cut, stage, "embedding_type")
    yield _weight("input_layernorm", (_H,))
    for name, size in (("q", "heads_size"), ("k", "kv_size"), ("v", "kv_size")):
        yield from _linear(f"self_attn.{name}_proj", (size, _H), 0, parts.qkv_bias)
    yield from _linear("self_attn.o_proj", (_H, "heads_size"), 1, parts.output_bias)
    if parts.qk_norms:
        yield _weight("self_attn.q_norm", ("head_size",))
        yield _weight("self_attn.k_norm", ("head_size",))
    yield _weight("post_attention_layernorm", (_H,))
    if parts.post_norms:
        yield _weight("post_self_attn_layernorm", (_H,))
        yield _weight("post_mlp_layernorm", (_H,))
    for name in ("gate_proj", "up_proj"):
        yield from _linear(f"mlp.{name}", (_F, _H), 0, parts.mlp_bias)
    yield from _linear("mlp.down_proj", (_H, _F), 1, parts.mlp_bias)
    yield _weight("model.norm", (_H,), stage="last")
    if not parts.tied:
        yield _weight("lm_head", table, cut, "last")


def _linear(name: str, shape: tuple[str, str], axis: int, bias: bool) -> Iterator[Weight]:
    """One that is stored (out, in)."""
    yield _weight(name, shape, axis)
    if bias:
        yield Weight(f"{name}.bias", f"{name}.bias", shape[:1], None if axis else 0, type="param_type")


def _weight(
    name: str,
    shape: tuple[str, ...],
    axis: int | None = None,
    stage: Stage = "block",
    type: str = "param_type",
) -> Weight:
    return Weight(f"{name}.weight", f"{name}.weight", shape, axis, type=type, stage=stage)
