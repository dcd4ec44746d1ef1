"""The sections of worker.yaml for jobs that answer.

`worker.yaml` (the job as one worker sees it) and what the environment says about this worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config.load_config import load_config
from model.config.yaml_table import fill, read_table
from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "Chat",
    "Checkpoint",
    "Data",
    "Parallel",
    "Predict",
    "Settings",
    "Train",
    "Worker",
    "load_settings",
]


@dataclass(frozen=True, slots=True)
class Chat:
    """How answers are decoded; temperature 0 takes the likeliest token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Predict(Chat):
    """The same for a list of questions, answered `batch_size` at a time."""

    prompts: tuple[str, ...] | None = None
    prompts_file: str | None = None
    batch_size: int = 8


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of parallelism, as the job names them."""

    data_parallel: int = 1
    model_parallel: int = 1
    pipeline_stage: int = 1
    micro_batch_num: int = 1
    optimizer_shard: bool = False
    use_seq_parallel: bool = False
    link_timeout: float = 120.0  # seconds that a stage waits for its neighbour before it gives the run up


@dataclass(frozen=True, slots=True)
class Model:
    """A preset by name or file, and what differs from it."""

    preset: str = "tiny"
    overrides: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """The records to train on, and how they become token ids."""

    path: str | None = None
    tokenizer: str | None = None
    seq_length: int | None = None
    template: str | None = "alpaca"
    limit: int | None = None


_ABOVE_0 = (
    "batch_size",
    "learning_rate",
    "eps",
    "gradient_accumulation",
    "loss_scale_start",
    "loss_scale_window",
    "device_tflops",
)


@dataclass(frozen=True, slots=True)
class Train:
    """How long and how to train; `batch_size` is per replica and step.

    A step computes its batch in `gradient_accumulation` equal parts, each of which a pipeline cuts into
    its micro batches. `loss_scale` is None (1), a fixed number, or "dynamic": from `loss_scale_start`,
    halved by an overflow, doubled after `loss_scale_window` steps without one.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    lr_end: float = 1e-5
    lr_schedule: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float | None = 1.0  # None or 0: no clipping
    gradient_accumulation: int = 1
    loss_scale: str | float | None = None
    loss_scale_start: float = 65536.0
    loss_scale_window: int = 1000
    loss_mask: str = (
        "label"  # what decides whether a position is scored: "label", or "input" as in MindFormers
    )
    recompute: bool = False
    device_tflops: float | None = None  # one device's peak, for the utilisation in metrics
    seed: int = 42
    deterministic: bool = False  # every sum in one order, at some cost in speed

    def problems(self) -> list[str]:
        """What the types alone do not say."""
        found = []
        if (self.steps is None) == (self.epochs is None):
            found.append("give either steps or epochs")
        for key in (*_ABOVE_0, "steps", "epochs"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                found.append(f"{key} must be above 0, not {value}")
        for key in ("lr_end", "warmup_steps", "weight_decay", "clip_grad", "seed"):
            if not (getattr(self, key) or 0) >= 0:
                found.append(f"{key} must not be below 0, is {getattr(self, key)}")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                found.append(f"{key} must be at least 0 and below 1, not {getattr(self, key)}")
        return found + self._problems_of_the_step()

    def _problems_of_the_step(self) -> list[str]:
        found = []
        if self.gradient_accumulation > 0 and self.batch_size % self.gradient_accumulation:
            parts = f"gradient_accumulation {self.gradient_accumulation}"
            found.append(f"batch_size {self.batch_size} must be a multiple of {parts}")
        scale = self.loss_scale
        if scale is not None and not (scale == "dynamic" if isinstance(scale, str) else scale > 0):
            found.append(f"loss_scale must be dynamic or a number above 0, not {scale!r}")
        if self.loss_mask not in ("label", "input"):
            found.append(f"loss_mask must be label or input, not {self.loss_mask!r}")
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What to start from and what to leave behind; `resume` None: where `load` is a folder of shards."""

    load: str | None = None
    resume: bool | None = None
    save_steps: int | None = None
    keep: int = 5
    prefix: str = "mindformers"


@dataclass(frozen=True, slots=True)
class Settings:
    """One worker.yaml."""

    run_id: str = ""
    task: str = "finetune"
    device_target: str = "CPU"
    max_device_memory: str | None = None
    jit_level: str | None = None  # of an Ascend; None: what suits the task
    parallel: Parallel = field(default_factory=Parallel)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    predict: Predict = field(default_factory=Predict)
    chat: Chat = field(default_factory=Chat)

    @property
    def level(self) -> str:
        """How far MindSpore compiles for an Ascend: O0 kernel by kernel, O1 with chains of them fused.

        MindFormers, too, answers with O0. O2 gives the graph to GE, which makes no communicators for groups.
        """
        return self.jit_level or ("O1" if self.task in ("pretrain", "finetune") else "O0")

    def network(self) -> NetworkConfig:
        """The network's config: preset, overrides, then what the data section says of it."""
        overrides = dict(self.model.overrides or {})
        if self.data.seq_length is not None:
            overrides["seq_length"] = self.data.seq_length
        if self.data.template != "alpaca":
            overrides["prompt_template"] = self.data.template or "none"
        return load_config(self.model.preset, overrides)


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among the workers, from RANK_ID, RANK_SIZE, DEVICE_ID and MS_ROLE."""

    rank: int = 0
    world_size: int = 1
    device_id: int = 0
    is_scheduler: bool = False

    @staticmethod
    def from_environment(env: Mapping[str, str]) -> Worker:
        """Raise ModelError where a variable is no whole number or the rank is outside the world."""
        rank, size, device = (
            _whole(env, key, default) for key, default in (("RANK_ID", 0), ("RANK_SIZE", 1), ("DEVICE_ID", 0))
        )
        if not 0 <= rank < size:
            raise ModelError(f"RANK_ID is {rank}, but RANK_SIZE is {size}", where="environment")
        return Worker(rank, size, device, env.get("MS_ROLE") == "MS_SCHED")


def _whole(env: Mapping[str, str], key: str, default: int) -> int:
    text = env.get(key) or str(default)
    if not text.isdecimal():
        raise ModelError(f"{key} must be a whole number, not {text!r}", where="environment")
    return int(text)


_SECTIONS = {
    "parallel": Parallel,
    "model": Model,
    "data": Data,
    "train": Train,
    "checkpoint": Checkpoint,
    "predict": Predict,
    "chat": Chat,
}


def load_settings(path: Path) -> Settings:
    """Read worker.yaml; raises ModelError naming the section and key of what is wrong.

    Sections that the task does not need may be missing or null.
    """
    values = {key: value for key, value in read_table(path).items() if value is not None}
    for name, cls in _SECTIONS.items():
        if name in values:
            values[name] = fill(cls, values[name], where=f"{path}: {name}")
    settings = fill(Settings, values, where=str(path))
    problems = _problems(settings)
    if problems:
        raise ModelError("; ".join(problems), where=str(path))
    return settings


def _problems(settings: Settings) -> list[str]:
    found = []
    if settings.device_target not in ("CPU", "Ascend"):
        found.append(f"device_target must be CPU or Ascend, not {settings.device_target!r}")
    if settings.jit_level not in (None, "O0", "O1"):
        found.append(f"jit_level must be O0 or O1, not {settings.jit_level!r}")
    if settings.task in ("pretrain", "finetune"):
        found += [f"train: {problem}" for problem in settings.train.problems()]
        found += _micro_batch_problems(settings)
    checkpoint = settings.checkpoint
    if checkpoint.keep < 1 or (checkpoint.save_steps is not None and checkpoint.save_steps < 1):
        found.append("checkpoint: save_steps and keep must be at least 1")
    if settings.data.limit is not None and settings.data.limit < 1:
        found.append(f"data: limit must be at least 1, not {settings.data.limit}")
    return found


def _micro_batch_problems(settings: Settings) -> list[str]:
    found, micro, batch = [], settings.parallel.micro_batch_num, settings.train.batch_size
    if micro < 1:
        found.append(f"parallel: micro_batch_num must be at least 1, not {micro}")
    elif settings.train.gradient_accumulation > 0 and batch % (micro * settings.train.gradient_accumulation):
        parts = f"gradient_accumulation {settings.train.gradient_accumulation} * micro_batch_num {micro}"
        found.append(f"train: batch_size {batch} must be a multiple of {parts}")
    if not settings.parallel.link_timeout > 0:
        found.append(f"parallel: link_timeout must be above 0, not {settings.parallel.link_timeout}")
    return found
