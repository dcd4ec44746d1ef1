"""What sizing and cutting ask of a network: which parameters its layers have, and what a block keeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

from orchestrator.families.family import Family, Weight

__all__ = ["BYTES", "NetworkLayers", "cut_problems", "flash_statistics"]

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class NetworkLayers(Protocol):
    """A network of alike blocks between a word embedding and a head.

    `family` is the table of its parameters, `kv_size` how many values the keys of one token have.
    """

    @property
    def family(self) -> Family: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def seq_length(self) -> int: ...
    @property
    def kv_size(self) -> int: ...
    @property
    def use_flash_attention(self) -> bool: ...
    @property
    def parameter_count(self) -> int: ...
    @property
    def state_width(self) -> int:
        """Bytes of one value of the state that goes from block to block."""
        ...

    def width(self, field: str) -> int:
        """Bytes of one value of the type that `field` gives."""
        ...

    def shape(self, weight: Weight) -> tuple[int, ...]:
        """The shape of the whole parameter."""
        ...

    def block_activations(
        self, sequences: int, parts: int, *, flash: bool = False, cuts_sequence: bool = False
    ) -> int:
        """Bytes that one block keeps for its backward pass, on each of `parts` model-parallel ranks."""
        ...

    def mlp_products(self, sequences: int, parts: int) -> int:
        """Bytes of them that a gated MLP can make again cheaply: the activated gate, and its product."""
        ...

    def cut_problems(
        self, model_parallel: int, pipeline_stage: int, sequence_parts: int = 1
    ) -> Iterator[tuple[str, str, str]]:
        """(key of `parallel`, what is wrong, what to do) where the network cannot be cut in this way."""
        ...


def flash_statistics(tokens: int, heads: int) -> int:
    """Bytes that flash attention keeps of each head and token: the maximum and the sum of its softmax.

    In 8 float32 values each (CANN, aclnnFlashAttentionScore).
    """
    return 2 * 8 * 4 * tokens * heads


def cut_problems(
    numbers: Mapping[str, int],
    num_layers: int,
    seq_length: int,
    model_parallel: int,
    pipeline_stage: int,
    sequence_parts: int,
) -> Iterator[tuple[str, str, str]]:
    """(key of `parallel`, what is wrong, what to do); model_parallel must divide all `numbers`."""
    for name, value in numbers.items():
        if value % model_parallel:
            what = f"{name} {value} cannot be cut into {model_parallel} equal parts"
            yield "model_parallel", what, f"choose a divisor of {math.gcd(*numbers.values())}"
    if pipeline_stage > num_layers:
        what = f"{pipeline_stage} stages are more than the network's {num_layers} layers"
        yield "pipeline_stage", what, f"choose at most {num_layers}"
    if seq_length % sequence_parts:
        what = f"seq_length {seq_length} cannot be cut into {sequence_parts} equal parts"
        yield "use_seq_parallel", what, "choose a multiple of model_parallel"
