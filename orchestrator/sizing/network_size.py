"""The bundled Bloom as sizes: which parameters there are, of which shape and type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.job_file import preset_table
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["Network", "Parameter", "network_of"]

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One whole parameter; `width` is the bytes of one value."""

    name: str
    shape: tuple[int, ...]
    width: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """One Bloom. Field names are the presets'; types are given as bytes a value."""

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    seq_length: int
    expand_ratio: int
    param_bytes: int
    embedding_bytes: int
    norm_bytes: int
    softmax_bytes: int
    compute_bytes: int

    @property
    def ffn_size(self) -> int:
        return self.hidden_size * self.expand_ratio

    @property
    def parameter_count(self) -> int:
        """Values of the whole network; the head is the embedding's table."""
        in_block = sum(item.count for item in self.block_parameters())
        return self.num_layers * in_block + sum(item.count for item in self.outer_parameters())

    def outer_parameters(self) -> Iterator[Parameter]:
        """What is outside the blocks, under MindFormers' names."""
        table = "transformer.embedding.word_embedding.embedding_table"
        yield Parameter(table, (self.vocab_size, self.hidden_size), self.embedding_bytes)
        yield from self._norm("transformer.embedding.norm")
        yield from self._norm("transformer.ln_f")

    def block_parameters(self) -> Iterator[Parameter]:
        """What the first block has; the others are like it."""
        h, f = self.hidden_size, self.ffn_size
        name = "transformer.blocks.0"
        yield from self._norm(f"{name}.layernorm1")
        for dense in ("dense1", "dense2", "dense3", "projection"):
            yield from self._linear(f"{name}.attention.{dense}", (h, h), h)
        yield from self._norm(f"{name}.layernorm2")
        yield from self._linear(f"{name}.output.mapping", (h, f), f)
        yield from self._linear(f"{name}.output.projection", (f, h), h)

    def _linear(self, name: str, shape: tuple[int, int], out: int) -> Iterator[Parameter]:
        yield Parameter(f"{name}.weight", shape, self.param_bytes)
        yield Parameter(f"{name}.bias", (out,), self.param_bytes)

    def _norm(self, name: str) -> Iterator[Parameter]:
        yield Parameter(f"{name}.gamma", (self.hidden_size,), self.norm_bytes)
        yield Parameter(f"{name}.beta", (self.hidden_size,), self.norm_bytes)


def network_of(job: Job) -> Network:
    """The network that a job's workers will build. Raises ConfigError: none, or none that can be built."""
    if job.model is None:
        where = job.where("task")
        what = f"task {job.task} does not use the bundled model"
        raise ConfigError([Problem(where, what, "only jobs with a model can be estimated")])
    preset = job.model.preset
    path = job.local_path(preset) if is_path(preset) else None
    if is_path(preset) and path is None:
        what = f"{preset} is on the hosts"
        raise ConfigError([Problem(job.where("model", "preset"), what, "name a preset beside the job file")])
    values = {**(read_yaml(path).data if path else preset_table(preset)), **job.model.overrides}
    if job.data is not None and job.data.seq_length is not None:
        values["seq_length"] = job.data.seq_length
    return _network(values, job)


def _network(values: dict[str, Any], job: Job) -> Network:
    where = job.where("model")
    numbers = {}
    for key in ("hidden_size", "num_layers", "num_heads", "vocab_size", "seq_length", "expand_ratio"):
        value = values.get(key, {"vocab_size": 250880, "seq_length": 2048, "expand_ratio": 4}.get(key))
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError([Problem(where, f"{key} is {value!r}", "it must be a whole number above 0")])
        numbers[key] = value
    widths = {}
    for field, key, default in (
        ("param_bytes", "param_init_type", "float16"),
        ("embedding_bytes", "embedding_init_type", "float32"),
        ("norm_bytes", "layernorm_compute_type", "float32"),
        ("softmax_bytes", "softmax_compute_type", "float16"),
        ("compute_bytes", "compute_dtype", "float16"),
    ):
        name = values.get(key, default)
        if name not in _BYTES:
            raise ConfigError([Problem(where, f"{key} is {name!r}", f"one of {', '.join(_BYTES)}")])
        widths[field] = _BYTES[name]
    return Network(**numbers, **widths)
