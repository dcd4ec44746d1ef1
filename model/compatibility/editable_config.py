"""Configurations as MindFormers' scripts use them: fields are assigned, and there are more of them.

What only a script says (where the weights are, the degrees of parallelism) stands beside the network's own
fields, which are checked with every assignment. What would change the computation and is not in this network
is refused; what only says how MindSpore cuts or recomputes is kept and has no effect.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, cast

from model.config.load_config import config_from
from model.errors import ModelError
from orchestrator.families.bloom import BloomConfig as BloomFields
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "BloomConfig",
    "TransformerOpParallelConfig",
    "checkpoint_of_config",
    "editable",
    "parallel_of",
    "plain",
]

C = TypeVar("C", bound=NetworkConfig)


@dataclass
class TransformerOpParallelConfig:
    """The degrees of parallelism of a script's network; the rest has no effect here."""

    data_parallel: int = 1
    model_parallel: int = 1
    pipeline_stage: int = 1
    use_seq_parallel: bool = False
    micro_batch_num: int = 1
    optimizer_shard: bool = False
    expert_parallel: int = 1
    gradient_aggregation_group: int = 4
    vocab_emb_dp: bool = True
    recompute: Any = False
    select_recompute: bool = False


# Beside the network's fields: what a script says of it, with MindFormers' defaults.
_BESIDE: dict[str, Any] = {
    "checkpoint_name_or_path": "",
    "parallel_config": None,
    "moe_config": None,
    "embedding_dropout_prob": 0.0,
    "use_seq_parallel": False,
    "use_select_recompute": False,
    "is_sample_acceleration": False,
}


class _Editable(NetworkConfig):
    """A configuration whose fields can be assigned; as good as the frozen one with the same fields."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _BESIDE:
            object.__setattr__(self, name, _beside(name, value))
            return
        values = {**_values(self), name: value}
        checked = config_from({**values, "family": self.family.name}, where=type(self).__name__)
        object.__setattr__(self, name, getattr(checked, name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NetworkConfig):
            return NotImplemented
        return self.family is other.family and _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(tuple(_values(self).values()))

    def __repr__(self) -> str:
        beside = {name: getattr(self, name) for name in _BESIDE}
        shown = ", ".join(f"{name}={value!r}" for name, value in {**_values(self), **beside}.items())
        return f"{type(self).__name__}({shown})"


for _name, _default in _BESIDE.items():
    setattr(_Editable, _name, _default)


def _values(config: NetworkConfig) -> dict[str, Any]:
    return {item.name: getattr(config, item.name) for item in fields(config)}


def _type_name(value: Any) -> Any:
    """A number type by its name, also where it is given as MindSpore's."""
    name = str(value).lower()
    return name if name in ("float32", "float16", "bfloat16") else value


def _beside(name: str, value: Any) -> Any:
    if name == "embedding_dropout_prob" and value:
        raise ModelError(f"{name} is {value}, but this network has none", where="BloomConfig")
    if name == "is_sample_acceleration" and value:
        raise ModelError(f"{name} is for MindSpore Lite's graphs alone", where="BloomConfig")
    if name == "moe_config" and getattr(value, "expert_num", 1) > 1:
        raise ModelError("moe_config: Bloom has no experts here", where="BloomConfig")
    return value


_classes: dict[type[NetworkConfig], Any] = {}


def _editable_class(cls: type[NetworkConfig]) -> Any:
    if cls not in _classes:
        _classes[cls] = type(cls.__name__, (_Editable, cls), {})
    return _classes[cls]


def editable(config: C, checkpoint: str = "") -> C:
    """The same configuration, whose fields can be assigned; `checkpoint` is its checkpoint_name_or_path."""
    made = object.__new__(_editable_class(type(config)))
    for name, value in {**_values(config), "checkpoint_name_or_path": checkpoint}.items():
        object.__setattr__(made, name, value)
    return cast("C", made)


def plain(config: NetworkConfig) -> NetworkConfig:
    """The configuration as the network takes it."""
    if not isinstance(config, _Editable):
        return config
    return config_from({**_values(config), "family": config.family.name}, where=type(config).__name__)


def checkpoint_of_config(config: NetworkConfig) -> str:
    """What a script has said of its weights; "" where it has not."""
    return str(getattr(config, "checkpoint_name_or_path", "") or "")


def parallel_of(config: NetworkConfig) -> TransformerOpParallelConfig:
    """What a script has said of its parallelism."""
    said = getattr(config, "parallel_config", None)
    if isinstance(said, TransformerOpParallelConfig):
        return said
    table = said if isinstance(said, dict) else {}
    known = asdict(TransformerOpParallelConfig())
    return TransformerOpParallelConfig(**{name: value for name, value in table.items() if name in known})


# Where MindFormers' defaults are not ours.
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 8,
    "seq_length": 1024,
    "batch_size": 1,
    "param_init_type": "float32",
    "softmax_compute_type": "float32",
    "use_past": False,
    "prompt_template": "none",  # a script makes its own
}


class BloomConfig(_Editable, BloomFields):
    """MindFormers' BloomConfig, with its fields and its defaults."""

    def __init__(self, **given: Any) -> None:
        for name in _BESIDE.keys() & given.keys():
            object.__setattr__(self, name, _beside(name, given.pop(name)))
        values = {**_DEFAULTS, **{name: _type_name(value) for name, value in given.items()}}
        for name in ("temperature", "top_p", "repetition_penalty"):
            if isinstance(values.get(name), int):
                values[name] = float(values[name])
        for name, value in _values(config_from(values, where="BloomConfig")).items():
            object.__setattr__(self, name, value)
