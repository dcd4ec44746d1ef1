"""The shape of a Bloom network, under MindFormers' field names, and the presets of its sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from model.config.prompt_templates import TEMPLATES
from model.config.yaml_table import fill, read_table
from model.errors import ModelError

__all__ = ["BloomConfig", "config_text", "load_config", "preset_names"]

_DTYPES = ("float32", "float16", "bfloat16")
_CHOICES = {
    "hidden_act": ("gelu", "fast_gelu"),
    "prompt_template": TEMPLATES,
    "param_init_type": _DTYPES,
    "embedding_init_type": _DTYPES,
    "layernorm_compute_type": _DTYPES,
    "softmax_compute_type": _DTYPES,
    "compute_dtype": _DTYPES,
}


@dataclass(frozen=True, slots=True)
class BloomConfig:
    """One Bloom network; the defaults are those that all published sizes share."""

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int = 250880
    seq_length: int = 2048  # the longest sequence the compiled graphs see; ALiBi sets no limit of its own
    expand_ratio: int = 4
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
    # How an answer is decoded where the caller does not say.
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
        return self.hidden_size * self.expand_ratio

    @property
    def parameter_count(self) -> int:
        """12Lh^2 + 13Lh + Vh + 4h for an expand ratio of 4; the head is tied to the embedding."""
        h, f = self.hidden_size, self.ffn_size
        per_block = 4 * (h * h + h) + (h * f + f) + (f * h + h) + 4 * h
        return self.num_layers * per_block + self.vocab_size * h + 4 * h

    @staticmethod
    def from_table(values: Mapping[str, Any], where: str) -> BloomConfig:
        """Check keys, types and relations; raises ModelError that lists every problem."""
        config = fill(BloomConfig, values, where)
        problems = list(_problems(config))
        if problems:
            raise ModelError("; ".join(problems), where=where)
        return config

    def check_model_parallel(self, size: int, where: str = "parallel.model_parallel") -> None:
        """Raise ModelError unless heads and the MLP can be cut into `size` equal parts."""
        for key, value in (("num_heads", self.num_heads), ("hidden_size * expand_ratio", self.ffn_size)):
            if value % size:
                raise ModelError(
                    f"{key} {value} cannot be cut into {size} equal parts",
                    where=where,
                    remedy=f"choose a divisor of {math.gcd(self.num_heads, self.ffn_size)}",
                )

    def check_sequence_parts(self, parts: int, where: str = "parallel.use_seq_parallel") -> None:
        """Raise ModelError unless a sequence can be cut into equal parts."""
        if self.seq_length % parts:
            raise ModelError(
                f"seq_length {self.seq_length} cannot be cut into {parts} equal parts",
                where=where,
                remedy="choose a multiple of model_parallel",
            )

    def check_stages(self, stages: int, where: str = "parallel.pipeline_stage") -> None:
        """Raise ModelError unless every pipeline stage gets a block."""
        if stages > self.num_layers:
            raise ModelError(
                f"{stages} stages are more than the network's {self.num_layers} layers",
                where=where,
                remedy=f"choose at most {self.num_layers}",
            )


_NAMES = tuple(item.name for item in fields(BloomConfig))
_POSITIVE = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "vocab_size",
    "seq_length",
    "expand_ratio",
    "max_decode_length",
    "num_beams",
)
_SHARE = (lambda value: 0 <= value < 1, "at least 0 and below 1")
_NOT_NEGATIVE = (lambda value: value >= 0, "at least 0")
_ABOVE_ZERO = (lambda value: value > 0, "above 0")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "hidden_dropout_rate": _SHARE,
    "attention_dropout_rate": _SHARE,
    "initializer_range": _NOT_NEGATIVE,
    "batch_size": _ABOVE_ZERO,
    "temperature": _NOT_NEGATIVE,
    "top_k": _NOT_NEGATIVE,
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "repetition_penalty": _ABOVE_ZERO,
}


def preset_names() -> list[str]:
    """The sizes that ship with the package."""
    folder = resources.files("model.presets")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> BloomConfig:
    """A preset by name, or a config file by path, with `overrides` on top; ModelError on anything wrong."""
    values = {**_preset_table(preset), **(overrides or {})}
    return BloomConfig.from_table(values, where="model.overrides" if overrides else str(preset))


def config_text(config: BloomConfig) -> str:
    """The config as the YAML that `load_config` reads back."""
    return str(yaml.safe_dump({name: getattr(config, name) for name in _NAMES}, sort_keys=False))


def _preset_table(preset: str | Path) -> Mapping[str, Any]:
    names = preset_names()
    if preset in names:
        with resources.as_file(resources.files("model.presets").joinpath(f"{preset}.yaml")) as path:
            return read_table(path)
    if Path(preset).suffix not in (".yaml", ".yml"):
        raise ModelError(
            f"no preset is called {preset!r}", where="model.preset", remedy=f"there are {', '.join(names)}"
        )
    return read_table(Path(preset))


def _problems(config: BloomConfig) -> Iterable[str]:
    low = [key for key in _POSITIVE if getattr(config, key) < 1]
    if low:
        yield f"{', '.join(low)} must be at least 1"
        return
    if config.hidden_size % config.num_heads:
        yield f"hidden_size {config.hidden_size} is no multiple of num_heads {config.num_heads}"
    for key, allowed in _CHOICES.items():
        if getattr(config, key) not in allowed:
            yield f"{key} {getattr(config, key)!r} is not one of {', '.join(allowed)}"
    for key, (fits, rule) in _RANGES.items():
        value = getattr(config, key)
        if value is not None and not fits(value):
            yield f"{key} must be {rule}, not {value}"
    for key in (name for name in _NAMES if name.endswith("_token_id")):
        if not 0 <= getattr(config, key) < config.vocab_size:
            yield f"{key} {getattr(config, key)} is outside a vocabulary of {config.vocab_size}"
