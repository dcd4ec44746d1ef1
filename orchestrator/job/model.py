"""A job, as its YAML file says it; the names of parallelism are those of MindFormers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from orchestrator.agent.environ import RESERVED

__all__ = [
    "CheckpointSpec",
    "DataSpec",
    "Job",
    "ModelSpec",
    "Networking",
    "Parallel",
    "PredictSpec",
    "Timeouts",
    "TrainSpec",
]

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
# YAML reads `OMP_NUM_THREADS: 1` as a number; the environment knows only text.
EnvValue = Annotated[
    str, BeforeValidator(lambda v: str(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Parallel(_Frozen):
    """How the ranks share the work; the product of the first three is the world size."""

    data_parallel: Positive = 1
    model_parallel: Positive = 1
    pipeline_stage: Positive = 1
    micro_batch_num: Positive = 1
    optimizer_shard: bool = False

    @property
    def product(self) -> int:
        return self.data_parallel * self.model_parallel * self.pipeline_stage


class ModelSpec(_Frozen):
    """A preset of the bundled Bloom, and the fields of it that this job changes."""

    preset: Literal["tiny", "560m", "7.1b", "65b", "176b"]
    overrides: dict[str, Any] = Field(default_factory=dict)


class DataSpec(_Frozen):
    """What to train on; a relative path is shipped, an absolute one must exist on the hosts."""

    path: str | None = None
    tokenizer: str | None = None
    seq_length: Positive = 2048
    template: Literal["alpaca"] = "alpaca"
    limit: Positive | None = None


class TrainSpec(_Frozen):
    """The optimization. `batch_size` is records per data-parallel replica and step."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive = 1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    lr_end: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Ratio = 0.9
    beta2: Ratio = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    clip_grad: Annotated[float, Field(gt=0)] | None = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("`steps` and `epochs` are both given: keep one")
        if self.lr_end > self.learning_rate:
            raise ValueError(f"lr_end {self.lr_end:g} is above learning_rate {self.learning_rate:g}")
        return self


class CheckpointSpec(_Frozen):
    """What to start from, and how often to save. `save_steps` null saves only at the end."""

    load: str | None = None
    save_steps: Positive | None = None
    keep: Positive = 5
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "mindformers"


class PredictSpec(_Frozen):
    """The questions of a predict job."""

    prompts: tuple[str, ...] = ()
    prompts_file: str | None = None
    max_new_tokens: Positive = 64


class Networking(_Frozen):
    """How ranks find each other; port null has a free one chosen on the first host."""

    mode: Literal["rank_table", "dynamic", "none"] = "dynamic"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class Timeouts(_Frozen):
    """In seconds. `start`: until every rank of a training job has made its first step."""

    connect: Seconds = 10.0
    prepare: Seconds = 120.0
    start: Seconds = 1800.0
    grace: Seconds = 10.0
    unreachable: Seconds = 120.0


class Job(_Frozen):
    """What to run, on which hosts, cut how."""

    path: Path
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    task: Literal["pretrain", "finetune", "predict", "command"]
    hosts: str | tuple[str, ...] = "all"
    host_count: Positive | None = None
    devices_per_host: Positive
    device_target: Literal["CPU", "Ascend"] | None = None
    parallel: Parallel | None = None
    model: ModelSpec | None = None
    data: DataSpec | None = None
    train: TrainSpec = TrainSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    predict: PredictSpec | None = None
    command: tuple[str, ...] = ()
    sync: tuple[str, ...] = ()
    env: dict[str, EnvValue] = Field(default_factory=dict)
    networking: Networking = Networking()
    timeouts: Timeouts = Timeouts()

    @property
    def target(self) -> str:
        """The device target, by default what the networking implies."""
        return self.device_target or ("Ascend" if self.networking.mode == "rank_table" else "CPU")

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"`{name}` is no name of an environment variable")
            if name in RESERVED:
                raise ValueError(f"`{name}` is set by the launch: remove it")
        return env

    @model_validator(mode="after")
    def _check_task(self) -> Job:
        if self.task == "command":
            if not self.command:
                raise ValueError("task `command` needs `command: [program, argument, ...]`")
            return self
        missing = [name for name in ("model", "data") if getattr(self, name) is None]
        if missing:
            raise ValueError(f"task `{self.task}` needs `{missing[0]}:`")
        if self.command:
            raise ValueError(f"`command:` belongs to task `command`, not to `{self.task}`")
        if self.networking.mode == "none" and self.parallel is not None and self.parallel.product > 1:
            raise ValueError("networking `none` is for one rank or for task `command`")
        self._check_predict() if self.task == "predict" else self._check_training()
        return self

    def _check_training(self) -> None:
        if self.data is None or self.data.path is None:
            raise ValueError(f"task `{self.task}` needs `data.path`")
        if self.train.steps is None and self.train.epochs is None:
            raise ValueError(f"task `{self.task}` needs `train.steps` or `train.epochs`")

    def _check_predict(self) -> None:
        if self.predict is None or not (self.predict.prompts or self.predict.prompts_file):
            raise ValueError("task `predict` needs `predict.prompts` or `predict.prompts_file`")
        if self.checkpoint.load is None:
            raise ValueError("task `predict` needs `checkpoint.load`")
