"""The configuration of a network under MindFormers' names: sizes, number types, how it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from orchestrator.families.family import Family, Weight
from orchestrator.families.network_layers import BYTES, cut_problems, flash_statistics

__all__ = ["DECODING", "NetworkConfig"]

# How an answer is decoded where the caller does not say.
DECODING = (
    "batch_size",
    "do_sample",
    "max_decode_length",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_beams",
)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What the networks of all families have.

    A family's own class names its table, says its `ffn_size` and what else differs, and adds fields.
    """

    family: ClassVar[Family]
    # Fields that must be at least 1, and those that take one of a few words.
    positive: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_layers",
        "num_heads",
        "vocab_size",
        "seq_length",
        "max_decode_length",
        "num_beams",
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        (
            "param_init_type",
            "embedding_init_type",
            "layernorm_compute_type",
            "softmax_compute_type",
            "compute_dtype",
        ),
        tuple(BYTES),
    )

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    seq_length: int = 2048  # the longest sequence that the compiled graphs see
    hidden_act: str = "gelu"
    hidden_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    initializer_range: float = 0.02
    param_init_type: str = "float16"
    embedding_init_type: str = "float32"
    layernorm_compute_type: str = "float32"
    softmax_compute_type: str = "float16"
    compute_dtype: str = "float16"
    use_flash_attention: bool = False  # on Ascend; elsewhere one warning and the plain attention
    use_past: bool = True  # keep keys and values while decoding: the same tokens, far sooner
    batch_size: int | None = None  # prompts decoded at once; None: as many as are given
    do_sample: bool = True
    max_decode_length: int = 1024  # prompt and answer together
    temperature: float = 1.0
    top_k: int = 5
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    unk_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 3
    prompt_template: str = "alpaca"  # what a question is wrapped in: the one it was trained with

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def ffn_size(self) -> int:
        """The inner size of the MLP."""
        raise NotImplementedError

    @property
    def kv_size(self) -> int:
        """How many values the keys of one token have, which is as many as its values have."""
        return self.hidden_size

    @property
    def state_width(self) -> int:
        """Bytes of one value of the state that goes from block to block."""
        return self.width("compute_dtype")

    @property
    def cut_evenly(self) -> dict[str, int]:
        """Numbers that model_parallel must divide, by what they are called."""
        return {"num_heads": self.num_heads, "ffn_size": self.ffn_size}

    def block_activations(
        self, sequences: int, parts: int, *, flash: bool = False, cuts_sequence: bool = False
    ) -> int:
        """Bytes that one block keeps for its backward pass, on each of `parts` model-parallel ranks.

        In values: 5 + 12/t a token and hidden unit, and 2.5 a/t a pair of tokens, for t ranks and a heads.
        Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022), (1) and
        (2), whose 34 and 5 are bytes of 2-byte values. Where the ranks cut the sequence, too, it is 2 + 15/t:
        of their 17/t, the inputs of the two cut layers are kept here as they were gathered.

        Flash attention holds nothing of pairs but, with dropout, a bit each; and `flash_statistics`.
        """
        tokens, compute = sequences * self.seq_length, self.width("compute_dtype")
        share = 2 + 15 / parts if cuts_sequence else 5 + 12 / parts
        of_tokens = int(tokens * self.hidden_size * compute * share)
        pairs = tokens * self.seq_length * self.num_heads // parts
        if flash:
            bits = pairs // 8 if self.attention_dropout_rate else 0
            return of_tokens + bits + flash_statistics(tokens, self.num_heads) // parts
        return of_tokens + int(pairs * (1.5 * compute + self.width("softmax_compute_type")))

    def mlp_products(self, sequences: int, parts: int) -> int:
        """Nothing: no MLP of ours is gated."""
        return 0

    def width(self, field: str) -> int:
        """Bytes of one value of the type that `field` gives."""
        return BYTES[getattr(self, field)]

    def shape(self, weight: Weight) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        return tuple(getattr(self, size) for size in weight.shape)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's whole shape by its name, in the order of the network."""
        rows = {name: self.family.find(name) for name in self.family.names(self.num_layers)}
        return {name: self.shape(found[0]) for name, found in rows.items() if found}

    @property
    def parameter_count(self) -> int:
        """Values of the whole network."""
        counts = ((row, math.prod(self.shape(row))) for row in self.family.weights)
        return sum(count * (self.num_layers if row.stage == "block" else 1) for row, count in counts)

    @classmethod
    def telling(cls) -> tuple[str, ...]:
        """The fields that two configurations of one network have in common.

        A loaded tensor's shape tells of few of them; with the others wrong a network answers nonsense.
        """
        own = tuple(name for name in cls.positive if name not in NetworkConfig.positive)
        return ("hidden_size", "num_layers", "num_heads", "vocab_size", *own, "hidden_act", "eos_token_id")

    def problems(self) -> Iterator[str]:
        """What the types of the fields alone do not say."""
        low = [key for key in self.positive if getattr(self, key) < 1]
        if low:
            yield f"{', '.join(low)} must be at least 1"
            return
        if self.hidden_size % self.num_heads:
            yield f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}"
        for key, allowed in self.choices.items():
            if getattr(self, key) not in allowed:
                yield f"{key} {getattr(self, key)!r} is not one of {', '.join(allowed)}"
        for key, (fits, rule) in _RANGES.items():
            value = getattr(self, key)
            if value is not None and not fits(value):
                yield f"{key} must be {rule}, not {value}"
        for key in (item.name for item in fields(self) if item.name.endswith("_token_id")):
            if not 0 <= getattr(self, key) < self.vocab_size:
                yield f"{key} {getattr(self, key)} is outside a vocabulary of {self.vocab_size}"

    def cut_problems(
        self, model_parallel: int, pipeline_stage: int, sequence_parts: int = 1
    ) -> Iterator[tuple[str, str, str]]:
        """(key of `parallel`, what is wrong, what to do) where the network cannot be cut in this way."""
        return cut_problems(
            self.cut_evenly,
            self.num_layers,
            self.seq_length,
            model_parallel,
            pipeline_stage,
            sequence_parts,
        )

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every field with its default; None where it has none."""
        return {item.name: None if item.default is MISSING else item.default for item in fields(cls)}


_RATE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "at least 0")
_ABOVE_ZERO = (lambda value: value > 0, "above 0")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "hidden_dropout_rate": _RATE,
    "attention_dropout_rate": _RATE,
    "initializer_range": _NOT_NEGATIVE,
    "batch_size": _ABOVE_ZERO,
    "temperature": _NOT_NEGATIVE,
    "top_k": _NOT_NEGATIVE,
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "repetition_penalty": _ABOVE_ZERO,
}
