"""The dense decoder that a run YAML of MindFormers, or a config.json of Hugging Face, describes.

Both write the same fields under several names: `model.model_config` has those of MindFormers' own classes
(`LlamaConfig`, `ChatGLM2Config`) or, since 1.6, those of config.json, which MindFormers reads from
`pretrained_model_dir` and which `model_config` overrides.
Source: MindFormers 1.0.2 to 2.1.0, `models/llama/llama_config.py`, `models/glm2/glm2_config.py`,
`models/build_config.py` and `parallel_core/transformer_config_utils.py`; transformers 4.57,
`configuration_*.py` for what is meant where a key is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import YamlFile
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.families.dense_decoder import DenseDecoder
from orchestrator.families.network_layers import BYTES

__all__ = ["ModelTable", "dense_decoder", "model_table"]

WHERE = ("model", "model_config")


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of dense decoder.

    `usual`: what is meant where a key is missing; `needs`: keys without which it is another network.
    `legacy`: its run YAML is of MindFormers' old classes.
    """

    title: str
    usual: Mapping[str, Any] = field(default_factory=dict)
    legacy: bool = False
    needs: tuple[str, ...] = ()


_LEGACY = {
    "param_type": "float16",
    "compute_dtype": "float16",
    "seq_length": 2048,
    "use_flash_attention": False,
}
_QWEN = {"hidden_size": 4096, "ffn_size": 22016, "num_layers": 32, "num_heads": 32, "vocab_size": 151936}
_GLM = {"ffn_size": 13696, "num_layers": 40, "num_heads": 32, "num_kv_heads": 2, "head_size": 128}
_GLM_TOO = {"hidden_size": 4096, "vocab_size": 151552, "qkv_bias": True}
# By the `type` of MindFormers' class, or by config.json's `model_type`.
_KINDS = {
    "LlamaConfig": _Kind(
        "Llama",
        {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "vocab_size": 32000, **_LEGACY},
        legacy=True,
    ),
    "ChatGLM2Config": _Kind(
        "GLM",
        {
            **_GLM,
            "num_layers": 28,
            "hidden_size": 4096,
            "vocab_size": 65024,
            "qkv_bias": True,
            "cuts_kv_heads": True,
            **_LEGACY,
        },
        legacy=True,
    ),
    # The first ChatGLM has this name, too.
    "chatglm": _Kind("GLM", needs=("num_layers", "ffn_hidden_size", "kv_channels", "multi_query_group_num")),
    "llama": _Kind(
        "Llama",
        {"hidden_size": 4096, "ffn_size": 11008, "num_layers": 32, "num_heads": 32, "vocab_size": 32000},
    ),
    "qwen2": _Kind("Qwen2", {**_QWEN, "num_kv_heads": 32, "qkv_bias": True}),
    "qwen3": _Kind("Qwen3", {**_QWEN, "num_kv_heads": 32, "head_size": 128, "qk_norms": True}),
    "glm": _Kind("GLM", {**_GLM, **_GLM_TOO}),
    "glm4": _Kind("GLM4", {**_GLM, **_GLM_TOO, "post_norms": True}),
}
# Which keys a field may have; the first with a value counts, and no two may differ.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size",),
    "num_layers": ("num_layers", "num_hidden_layers", "n_layer"),
    "num_heads": ("num_heads", "num_attention_heads", "n_head"),
    "num_kv_heads": ("n_kv_heads", "num_key_value_heads", "num_query_groups", "multi_query_group_num"),
    "head_size": ("head_dim", "kv_channels"),
    "ffn_size": ("intermediate_size", "ffn_hidden_size"),
    "vocab_size": ("padded_vocab_size", "vocab_size"),
    "seq_length": ("seq_length",),
}
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "qk_norms": ("qk_layernorm", "use_qk_norm"),
    "qkv_bias": ("qkv_has_bias", "add_qkv_bias", "attention_bias"),
    "output_bias": ("attn_proj_has_bias", "add_bias_linear"),
    "mlp_bias": ("mlp_bias", "add_bias_linear"),
    "post_norms": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "use_flash_attention": ("use_flash_attention",),
}
_TYPES: Mapping[str, tuple[str, ...]] = {
    "param_type": ("param_init_type", "params_dtype"),
    "embedding_type": ("embedding_init_type",),
    "compute_dtype": ("compute_dtype",),
    "norm_type": ("layernorm_compute_type", "layernorm_compute_dtype"),
    "softmax_type": ("softmax_compute_type", "softmax_compute_dtype"),
    "state_type": ("residual_dtype",),
}
# Keys that say that a network has experts, where they are more than one.
_EXPERTS = (
    "num_experts",
    "n_routed_experts",
    "num_local_experts",
    "num_moe_experts",
    "expert_num",
    "moe_num_experts",
)
_WITH_EXPERTS = {
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "mixtral",
    "telechat3_moe",
}
# Whatever else is read of the section, each a field of its own.
_OTHERS = ("attention_dropout", "ffn_dim_multiplier", "multiple_of", "offset", "tie_word_embeddings")
# A letter of ten differs. No key of MindFormers' own that is not read is as near to one that is.
_NEAR = 0.88


@dataclass(frozen=True, slots=True)
class ModelTable:
    """What is said of a model: `values` by key, and where each was written.

    `run` is a run YAML, which says it in `model.model_config`, `model` a config.json; one may be None.
    """

    values: Mapping[str, Any]
    run: YamlFile | None
    model: YamlFile | None

    @property
    def is_alone(self) -> bool:
        """Whether there is no run YAML, or one of the command line's values only."""
        return self.run is None or not self.run.lines

    def where(self, key: str) -> str:
        """`file:line: key`."""
        if self.run is not None and (self.run.get((*WHERE, key)) is not None or self.model is None):
            return self.run.where((*WHERE, key))
        assert self.model is not None
        return self.model.where((key,))

    def error(self, key: str, what: str, remedy: str = "") -> ConfigError:
        """The error about one key."""
        return ConfigError([Problem(self.where(key), what, remedy)])


def model_table(run: YamlFile | None, model: YamlFile | None) -> ModelTable:
    """`model.model_config` of a run YAML on top of a config.json, as MindFormers merges them.

    Raises ConfigError: `model_config` is no mapping, or neither says anything.
    """
    over = run.get(WHERE) if run is not None else None
    if over is not None and not isinstance(over, dict):
        assert run is not None
        raise ConfigError([run.problem(WHERE, "is not a mapping of keys to values")])
    values = {**(model.data if model is not None else {}), **(over or {})}
    if values.get("num_key_value_heads", 0) is None:  # as many as there are heads, whatever is usual
        values["num_key_value_heads"] = values.get("num_attention_heads")
    if not values:
        assert run is not None
        raise ConfigError([run.problem(WHERE, "is missing: nothing says what the model is")])
    return ModelTable({key: value for key, value in values.items() if value is not None}, run, model)


def dense_decoder(
    table: ModelTable, *, cuts_vocabulary: bool | None = None
) -> tuple[DenseDecoder, tuple[str, ...]]:
    """The network, and what was assumed of it, in a line each.

    `cuts_vocabulary`: what the run says of its embedding; None: what MindFormers does then. Raises
    ConfigError: a model that is not estimated, with its name; a value that is none.
    """
    kind = _kind(table)
    _refuse_parts(table, kind)
    for key in kind.needs:
        if key not in table.values:
            raise table.error(key, f"is missing: no {kind.title} that is estimated is without")
    _refuse_misspelt(table)
    values: dict[str, Any] = dict(kind.usual)
    said: dict[str, Any] = {name: _number(table, keys) for name, keys in _KEYS.items()}
    said |= {name: _flag(table, kind, name, keys) for name, keys in _FLAGS.items()}
    values |= {name: value for name, value in said.items() if value is not None}
    notes = [
        f"{_KEYS[name][0]} is not said: {kind.usual[name]}, as {kind.title} has it by default"
        for name in _KEYS
        if name in kind.usual and said[name] is None and name != "seq_length"
    ]
    notes += [*_types(table, kind, values), *_fill_in(table, kind, values)]
    if kind.legacy:
        # Without the key of `parallel_config`: MindFormers' default of old networks is True.
        values["cuts_vocabulary"] = cuts_vocabulary is True
    values["attention_dropout"] = _rate(table)
    network = DenseDecoder(title=kind.title, **values)
    if wrong := list(network.problems()):
        raise ConfigError([Problem(table.where("hidden_size"), what) for what in wrong])
    return network, tuple(notes)


def _kind(table: ModelTable) -> _Kind:
    """By `type`, else by `model_type`, else by the first of `architectures`."""
    values = table.values
    _refuse_experts(table)
    key = "type" if "type" in values else "model_type"
    name = values.get(key)
    if name is None:
        listed = values.get("architectures")
        first = listed[0] if isinstance(listed, list) and listed else listed
        key, name = "architectures", first
        if isinstance(first, str):
            name = first.removesuffix("ForCausalLM").lower()
    found = _KINDS.get(name) if isinstance(name, str) else None
    if found is None:
        known = "LlamaConfig, ChatGLM2Config, llama, qwen2, qwen3, glm, glm4 and chatglm"
        what = "says no model" if name is None else f"{show(name)} is not estimated"
        raise table.error(key, what, f"known are {known}, without experts")
    return found


def _refuse_experts(table: ModelTable) -> None:
    values = table.values
    name = str(values.get("model_type") or values.get("type") or "the model")
    moe = values.get("moe_config")
    run = table.run.get(("moe_config",)) if table.run is not None else None
    counts = [(key, values.get(key)) for key in _EXPERTS]
    counts += [("moe_config", item.get("expert_num")) for item in (moe, run) if isinstance(item, dict)]
    for key, count in counts:
        if isinstance(count, int) and count > 1:
            what = f"{show(name)} is a mixture of {count} experts, which is not estimated"
            raise table.error(key, what, "only dense decoders are")
    if name in _WITH_EXPERTS or name.endswith("_moe"):
        raise table.error("model_type", f"{show(name)} is a mixture of experts, which is not estimated")


def _refuse_misspelt(table: ModelTable) -> None:
    """A key that is nearly one that is read: passed over, another size would be estimated."""
    groups = [*_KEYS.values(), *_FLAGS.values(), *_TYPES.values(), _EXPERTS, *((key,) for key in _OTHERS)]
    read = {key: group for group in groups for key in group}
    read["fp32_residual_connection"] = ("fp32_residual_connection",)
    for file, path in ((table.run, WHERE), (table.model, ())):
        given: Mapping[str, Any] = (file.get(path) or {}) if file is not None else {}
        for key in map(str, given):
            close = [] if key in read else difflib.get_close_matches(key, read, 1, _NEAR)
            if file is not None and close and not any(name in given for name in read[close[0]]):
                raise ConfigError([file.problem((*path, key), "unknown key", f"did you mean `{close[0]}`?")])


def _refuse_parts(table: ModelTable, kind: _Kind) -> None:
    """What would make another network of it, whose numbers would be wrong."""
    values = table.values
    for key, what in _ADDED.items():
        value = values.get(key)
        if value not in (None, "", "None", 0, False, {}, []):
            raise table.error(key, f"{what} is not estimated")
    for key, usual in (("rmsnorm", True), ("post_layer_norm", True), ("multi_query_attention", True)):
        if values.get(key, usual) is not usual:
            raise table.error(key, f"is {show(values[key])}: such a network is not estimated")
    act = values.get("hidden_act", "silu")
    if kind.legacy is False and act not in ("silu", "swiglu", "fusedswiglu"):
        raise table.error(
            "hidden_act", f"{show(act)} is no gated MLP as of {kind.title}; it is not estimated"
        )


_ADDED = {
    "pet_config": "a training of adapters alone",
    "pre_seq_len": "a training of a prefix alone",
    "quantization_config": "a quantised network",
    "quant_config": "a quantised network",
    "quantization_bit": "a quantised network",
    "num_nextn_predict_layers": "a network that predicts several tokens",
    "mtp_depth": "a network that predicts several tokens",
    "mtp_num_layers": "a network that predicts several tokens",
    "multi_latent_attention": "latent attention",
}


def _given(table: ModelTable, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    return ((key, table.values[key]) for key in keys if key in table.values)


def _number(table: ModelTable, keys: tuple[str, ...]) -> int | None:
    """The value of a field, None where it has none. ConfigError: no number, or two of its keys differ."""
    first: tuple[str, int] | None = None
    for key, value in _given(table, keys):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise table.error(key, f"is {show(value)}, not a whole number above 0")
        if first is None:
            first = key, value
        elif value != first[1] and keys[0] != "padded_vocab_size":
            raise table.error(key, f"is {value}, but {first[0]}, which means the same, is {first[1]}")
    return first[1] if first else None


def _flag(table: ModelTable, kind: _Kind, name: str, keys: tuple[str, ...]) -> bool | None:
    given = list(_given(table, keys))
    for key, value in given:
        if not isinstance(value, bool):
            raise table.error(key, f"is {show(value)}, not True or False")
    if (name, kind.title) in (("qkv_bias", "Qwen2"), ("qk_norms", "Qwen3")):
        return True  # whatever the keys say: the network is built so
    if name == "qkv_bias" and table.values.get("add_bias_linear") is True:
        return True  # it is of all linear layers
    if name == "post_norms" and sum(value for _, value in given) == 1:
        raise table.error(given[0][0], "one norm without the other is not estimated")
    if name == "output_bias" and kind.title in ("Llama", "Qwen3") and table.is_alone:
        # transformers' attention_bias is of all four projections, in MindFormers of three.
        given += _given(table, ("attention_bias",))
    return any(value for _, value in given) if given else None


def _types(table: ModelTable, kind: _Kind, values: dict[str, Any]) -> Iterator[str]:
    for name, keys in _TYPES.items():
        for key, value in _given(table, keys):
            if not isinstance(value, str) or value not in BYTES:
                raise table.error(key, f"is {show(value)}, not one of {', '.join(BYTES)}")
            values[name] = value
    if not kind.legacy and "compute_dtype" not in values:
        saved = table.values.get("torch_dtype", table.values.get("dtype"))
        values["compute_dtype"] = saved if saved in ("float16", "bfloat16") else "bfloat16"
        if table.is_alone:
            yield f"weights in float32, computed with in {values['compute_dtype']}: as MindFormers trains"
    values.setdefault("param_type", "float32")
    values.setdefault("embedding_type", values["param_type"])
    values.setdefault("state_type", values["compute_dtype"])
    if table.values.get("fp32_residual_connection") is True:
        values["state_type"] = "float32"


def _fill_in(table: ModelTable, kind: _Kind, values: dict[str, Any]) -> Iterator[str]:
    """Fields that follow from others; gives what was assumed."""
    if "hidden_size" not in values or "num_heads" not in values or "vocab_size" not in values:
        missing = [key for key in ("hidden_size", "num_heads", "vocab_size") if key not in values]
        raise table.error(missing[0], "is missing: nothing says what the model is")
    values.setdefault("num_kv_heads", values["num_heads"])
    if "head_size" not in values:
        if values["hidden_size"] % values["num_heads"]:
            what = f"{values['hidden_size']} is no multiple of {values['num_heads']} heads"
            raise table.error("hidden_size", what, "give head_dim")
        values["head_size"] = values["hidden_size"] // values["num_heads"]
    if "ffn_size" not in values:
        values["ffn_size"] = _llama_ffn(table, values["hidden_size"])
    untie, tie = (
        _flag(table, kind, key, (key,))
        for key in ("untie_embeddings_and_output_weights", "tie_word_embeddings")
    )
    values["tied"] = tie is True
    if untie is not None and untie is values["tied"]:
        head = "the word embedding" if tie else "a matrix of its own"
        yield f"the head is {head}: MindFormers does not look at untie_embeddings_and_output_weights"
    if "seq_length" not in values:
        values["seq_length"] = _sequence_of_data(table) or 4096  # MindFormers' own default
        if table.is_alone:
            yield "seq_length is not said: 4096, as MindFormers has it"


def _sequence_of_data(table: ModelTable) -> int | None:
    """What the data set of a run YAML says of it."""
    if table.run is None:
        return None
    loader = ("train_dataset", "data_loader")
    handlers = table.run.get((*loader, "handler"))
    found = [table.run.get((*loader, "config", "seq_length"))]
    found += [item.get("seq_length") for item in handlers or () if isinstance(item, dict)]
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _llama_ffn(table: ModelTable, hidden: int) -> int:
    """The inner size of MindFormers' `LlamaFeedForward` where `intermediate_size` is not given."""
    multiple, factor = table.values.get("multiple_of", 256), table.values.get("ffn_dim_multiplier")
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise table.error("multiple_of", f"is {show(multiple)}, not a whole number above 0")
    inner = 4 * hidden
    if factor is not None:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1000:
            raise table.error("ffn_dim_multiplier", f"is {show(factor)}, not a number above 0")
        inner = int((factor + 0.01) * inner)
    inner = int(2 * inner / 3)
    return multiple * ((inner + multiple - 1) // multiple)


def _rate(table: ModelTable) -> float:
    value = table.values.get("attention_dropout", 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise table.error("attention_dropout", f"is {show(value)}, not a rate of at least 0 and below 1")
    return float(value)
