"""Keys of MindFormers' run YAML: which key of a job each one is, and why the others are none.

They are those of `configs/bloom/run_bloom_*.yaml` in MindFormers 0.6.0 to 1.0.2. `Source` is such a file that
remembers what was taken from it, so that the rest can be told with a reason each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.yaml_reader import YamlFile, dotted
from orchestrator.families.network_config import DECODING, NetworkConfig

__all__ = [
    "CARRIED",
    "OTHER_MODES",
    "PUBLISHED",
    "RENAMED",
    "SCHEDULES",
    "WITHOUT_EFFECT",
    "LeftOut",
    "Path",
    "Source",
    "decoding_of",
    "predict_of",
]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A key, or a section, that was not carried over; `where` is `file:line: key`."""

    where: str
    key: str
    value: Any
    reason: str


class Source:
    """The run YAML, which remembers what was taken from it and on which line."""

    def __init__(self, file: YamlFile) -> None:
        self.file = file
        self.taken: set[Path] = set()
        self._told: dict[Path, str] = {}
        self.lines_of_job: dict[tuple[str | int, ...], int] = {}

    def take(self, *path: str, to: Path = ()) -> Any:
        """The value at a key path, None where there is none; `to` is the job's key that it becomes."""
        value = self.file.get(path)
        if value is not None:
            self.taken.add(path)
            self.lines_of_job[to] = self.file.line(path)
        return value

    def tell(self, *path: str, why: str) -> None:
        """Leave the value at a key path out, with a reason of its own; nothing where there is none."""
        if self.file.get(path) not in (None, ""):
            self._told[path] = why

    def left_out(self) -> Iterator[LeftOut]:
        yield from self._left_out(self.file.data, ())

    def _left_out(self, value: Any, path: Path) -> Iterator[LeftOut]:
        if path in self.taken:
            return
        inside = any(taken[: len(path)] == path for taken in self.taken)
        if isinstance(value, Mapping) and value and (inside or path not in WITHOUT_EFFECT):
            for key, inner in value.items():
                yield from self._left_out(inner, (*path, key))
        elif path and value not in (None, "", {}, []):
            yield LeftOut(self.file.where(path), dotted(path), value, self._reason(path))

    def _reason(self, path: Path) -> str:
        known = {**WITHOUT_EFFECT, **self._told}
        ends = range(len(path), 0, -1)
        return next((known[path[:end]] for end in ends if path[:end] in known), "a job has no such key")


_WHERE = ("model", "model_config")
# `do_sample` decides over the temperature; `batch_size` is the number of prompts answered at once.
_PREDICT = ("top_k", "top_p", "repetition_penalty", "batch_size")


def decoding_of(source: Source) -> dict[str, Any]:
    """What a model that is trained is told about answering; it is kept beside its weights."""
    return _taken(source, DECODING, ("model", "overrides"))


def predict_of(source: Source) -> dict[str, Any]:
    """The section `predict` of a job that answers, decoding as MindFormers does where nothing is said."""
    section = {"prompts": [], "max_new_tokens": 64, **_taken(source, _PREDICT, ("predict",))}
    if (seed := source.take("seed", to=("predict", "seed"))) is not None:
        section["seed"] = seed
    temperature = source.take(*_WHERE, "temperature", to=("predict", "temperature"))
    if source.take(*_WHERE, "do_sample", to=("predict", "temperature")) is False:
        return {**section, "temperature": 0.0, "top_k": 0, "top_p": 1.0}
    if source.file.get((*_WHERE, "num_beams")) == 1:
        source.take(*_WHERE, "num_beams")
    usual = NetworkConfig.defaults()
    drawn = usual["temperature"] if temperature is None else temperature
    return {**section, "temperature": drawn, "top_k": section.get("top_k", usual["top_k"])}


def _taken(source: Source, keys: tuple[str, ...], to: tuple[str, str] | tuple[str]) -> dict[str, Any]:
    found = {key: source.take(*_WHERE, key, to=(*to, key)) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


Path = tuple[str, ...]


def _path(dotted: str) -> Path:
    return tuple(dotted.split("."))


# One value that is taken as it is. What needs a thought of its own is in mindformers_yaml.py.
CARRIED: dict[Path, Path] = {
    _path(source): _path(target)
    for source, target in {
        "seed": "train.seed",
        "runner_config.epochs": "train.epochs",
        "optimizer.beta1": "train.beta1",
        "optimizer.beta2": "train.beta2",
        "optimizer.eps": "train.eps",
        "optimizer.weight_decay": "train.weight_decay",
        "lr_schedule.learning_rate": "train.learning_rate",
        "lr_schedule.lr_end": "train.lr_end",
        "lr_schedule.warmup_steps": "train.warmup_steps",
        "lr_schedule.type": "train.lr_schedule",
        "recompute_config.recompute": "train.recompute",
    }.items()
}

# MindFormers 0.6.0 wrote some of them differently.
RENAMED = {"embedding_size": "hidden_size"}

# MindFormers' schedules and their classes (core/lr), all of which warm up, as each schedule of a job does.
SCHEDULES = {
    **dict.fromkeys(("constant_with_warmup", "ConstantWarmUpLR"), "constant"),
    **dict.fromkeys(("linear_with_warmup", "LinearWithWarmUpLR"), "linear"),
    **dict.fromkeys(("cosine_with_warmup", "CosineWithWarmUpLR"), "cosine"),
}

# Run modes that are no job, and what does their work here.
OTHER_MODES = {
    "eval": "`python -m model evaluate` does that with a checkpoint",
    "export": "`python -m model export` does that with a checkpoint",
}

# Sizes of https://huggingface.co/bigscience that are no preset: hidden_size, num_layers, num_heads.
PUBLISHED = {"1b1": (1536, 24, 16), "1b7": (2048, 24, 16), "3b": (2560, 30, 32)}

# Keys and whole sections for which a job has no counterpart, and why none is missed.
WITHOUT_EFFECT: dict[Path, str] = {
    **dict.fromkeys((*CARRIED, _path("runner_config.batch_size")), "a job that answers does not train"),
} | {
    _path(source): reason
    for reason, sources in {
        "orchestrate has its own run directory and log files": (
            "output_dir",
            "remote_save_url",
            "context.save_graphs",
            "context.save_graphs_path",
        ),
        "checkpoints of another layout are cut by distribute-ckpt": (
            "auto_trans_ckpt",
            "src_strategy_path_or_dir",
            "only_save_strategy",
            "parallel.strategy_ckpt_save_file",
        ),
        "the bundled model has explicit collectives instead of MindSpore's automatic parallelism": (
            "parallel",
            "micro_batch_interleave_num",
            "parallel_config.gradient_aggregation_group",
        ),
        "the bundled model recomputes whole blocks or nothing": (
            "recompute_config",
            "model.model_config.use_select_recompute",
        ),
        "the schedule spans the run's own steps": ("lr_schedule.total_steps",),
        "a job that answers counts its new tokens alone: predict.max_new_tokens": (
            "model.model_config.max_decode_length",
        ),
        "a job that answers has no beam search": ("model.model_config.num_beams",),
        "a job that answers, or whose model_parallel is 1, cuts no sequences": (
            "model.model_config.use_seq_parallel",
            "parallel_config.use_seq_parallel",
        ),
        "the vocabulary is cut over the model group": ("parallel_config.vocab_emb_dp",),
        "Bloom has no experts": ("moe_config",),
        "the bundled model reads its data without MindSpore's data pipeline": (
            "auto_tune",
            "filepath_prefix",
            "autotune_per_step",
            "train_dataset",
            "train_dataset_task",
            "eval_dataset",
            "eval_dataset_task",
            "do_eval",
            "eval_step_interval",
            "eval_epoch_interval",
            "runner_config.sink_mode",
            "runner_config.sink_size",
            "runner_config.per_epoch_size",
        ),
        "the device is chosen per rank": ("context.device_id",),
        "a job knows the levels O0 and O1, on an Ascend: in O2, GE's, its groups have no communicators": (
            "context.jit_config.jit_level",
        ),
        "a job that answers does not train": (
            "context.deterministic",
            "train_precision_sync",
        ),
        "a job cannot ask for one order of sums in answering": ("infer_precision_sync",),
        "orchestrate always compiles the step as a graph": ("context.mode", "context.graph_kernel_flags"),
        "profiling is MindSpore's own affair": (
            "profile",
            "profile_start_step",
            "profile_stop_step",
            "profile_communication",
            "profile_memory",
        ),
        "the bundled model is Bloom, trained with AdamW": (
            "model.arch",
            "model.model_config.type",
            "optimizer.type",
            "trainer",
            "processor",
            "metric",
            "runner_wrapper",
            "callbacks",
            "eval_callbacks",
            "layer_scale",
            "layer_decay",
            "lr_scale",
            "lr_scale_factor",
        ),
    }.items()
    for source in sources
}
