"""The job as a person writes it; every rule that needs nothing but the job itself is checked here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from orchestrator.agent.environment import WITH_SCHEDULER, WITH_TABLE
from orchestrator.config import job_fields as fields
from orchestrator.config.job_fields import (
    Count,
    EnvName,
    FileName,
    NotNegative,
    Positive,
    Seconds,
    Text,
    WholeNotNegative,
)
from orchestrator.config.job_rules import broken_rules
from orchestrator.config.yaml_messages import Invalid
from orchestrator.config.yaml_reader import YamlFile, dotted

__all__ = [
    "Chat",
    "CheckpointOptions",
    "Data",
    "Job",
    "ModelChoice",
    "Networking",
    "Parallel",
    "Predict",
    "Timeouts",
    "Train",
]

Task = Literal["pretrain", "finetune", "predict", "chat", "command"]
Below1 = Annotated[float, Field(strict=True, ge=0, lt=1)]


class Section(BaseModel):
    """Base of the job's parts: unknown keys refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Parallel(Section):
    """How the ranks share the work; rank = stage*(dp*mp) + dp_index*mp + mp_index."""

    data_parallel: Count = 1
    model_parallel: Count = 1
    pipeline_stage: Count = 1
    micro_batch_num: Count = 1
    optimizer_shard: bool = Field(default=False, strict=True)
    use_seq_parallel: bool = Field(default=False, strict=True)
    link_timeout: Positive = 120.0  # seconds that a pipeline stage waits for its neighbour

    @property
    def product(self) -> int:
        """The number of ranks that this needs."""
        return self.data_parallel * self.model_parallel * self.pipeline_stage


class ModelChoice(Section):
    """A preset (or the path of one) and what differs from it; the worker checks the overrides."""

    preset: Annotated[str, BeforeValidator(fields.preset)]
    overrides: dict[str, Any] = Field(default_factory=dict)


class Data(Section):
    """Records in Alpaca format; `limit` keeps the first so many, None all."""

    path: fields.FilePath | None = None
    tokenizer: fields.FilePath | None = None
    seq_length: Count = 2048
    template: Literal["alpaca", "belle", "none"] | None = "alpaca"
    limit: Count | None = None


class Train(Section):
    """`batch_size` is per replica and step; exactly one of `steps` and `epochs` says how long.

    A step computes its batch in `gradient_accumulation` equal parts. `loss_mask: input` scores the
    positions that MindFormers scores. `device_tflops` is one device's peak, for the utilisation in metrics.
    `deterministic`: kernels and HCCL make every sum in one order, at some cost in speed.
    """

    steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 1
    learning_rate: Positive = 1e-5
    lr_end: NotNegative = 0.0
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: WholeNotNegative = 0
    weight_decay: NotNegative = 0.01
    beta1: Below1 = 0.9
    beta2: Below1 = 0.95
    eps: Positive = 1e-8
    clip_grad: Positive | None = 1.0
    gradient_accumulation: Count = 1
    loss_scale: Annotated[str | float, BeforeValidator(fields.loss_scale)] | None = None
    loss_scale_start: Positive = 65536.0
    loss_scale_window: Count = 1000
    loss_mask: Literal["label", "input"] = "label"
    recompute: bool = Field(default=False, strict=True)
    device_tflops: Positive | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42
    deterministic: bool = Field(default=False, strict=True)


class CheckpointOptions(Section):
    """What is loaded before the first step and what is saved; `save_steps` None saves only at the end.

    `resume` None goes on with the training where `load` is a folder of shards, not where it is a file.
    `distribute`: `load` is a file of whole tensors on the control node, and each host gets only the slices
    that its ranks load; with `resume: true` those of the optimizer too.
    """

    load: fields.FilePath | None = None
    distribute: Annotated[bool, Field(strict=True)] = False
    resume: Annotated[bool, Field(strict=True)] | None = None
    save_steps: Count | None = None
    keep: Count = 5
    prefix: FileName = "mindformers"


class Decoding(Section):
    """How answers are written; temperature 0 takes the likeliest token, top_k 0 and top_p 1 leave all in."""

    max_new_tokens: Count = 64
    temperature: NotNegative = 0.0
    top_k: WholeNotNegative = 0
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    repetition_penalty: Positive = 1.0
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 42


class Predict(Decoding):
    """Prompts to answer: in the job, in a file (a text a line, or JSON lines), or both."""

    prompts: tuple[str, ...] = ()
    prompts_file: fields.FilePath | None = None
    batch_size: Count = 8


class Chat(Decoding):
    """A model that waits for questions until it is stopped."""


class Networking(Section):
    """How the workers find each other; `port` None is a free one on the first host.

    `rank_table` and `dynamic` start as msrun does, with a scheduler process; `rank_table` with a table, too.
    `legacy_rank_table` is the table alone, for programs made for that.
    """

    mode: Literal["rank_table", "dynamic", "legacy_rank_table", "none"]
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = None

    @property
    def has_scheduler(self) -> bool:
        return self.mode in WITH_SCHEDULER

    @property
    def has_table(self) -> bool:
        return self.mode in WITH_TABLE


class Timeouts(Section):
    """In seconds. `start`: until every rank of a training job has made its first step."""

    connect: Seconds = 10.0
    prepare: Seconds = 120.0
    start: Seconds = 1800.0
    grace: Seconds = 10.0
    unreachable: Seconds = 120.0


class Job(Section):
    """One job. Sections that its task does not use are None.

    `jit_level`: how far MindSpore compiles for an Ascend; None is O1 for training and O0 for answering.
    """

    name: FileName
    task: Task
    hosts: Annotated[tuple[str, ...], BeforeValidator(fields.one_or_more)] = ("all",)
    host_count: Count | None = None
    devices_per_host: Count
    device_target: Literal["CPU", "Ascend"]
    max_device_memory: Annotated[str, AfterValidator(fields.memory)] | None = None
    jit_level: Annotated[Literal["O0", "O1"], BeforeValidator(fields.jit_level)] | None = None
    parallel: Parallel = Field(default_factory=Parallel)
    model: ModelChoice | None = None
    data: Data | None = None
    train: Train | None = None
    checkpoint: CheckpointOptions = Field(default_factory=CheckpointOptions)
    predict: Predict | None = None
    chat: Chat | None = None
    command: Annotated[tuple[Text, ...], BeforeValidator(fields.argv)] | None = None
    sync: tuple[fields.FilePath, ...] = ()
    env: dict[EnvName, Annotated[str, BeforeValidator(fields.env_value)]] = Field(default_factory=dict)
    networking: Networking
    timeouts: Timeouts = Field(default_factory=Timeouts)

    _file: YamlFile | None = PrivateAttr(default=None)
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _fill_target(cls, data: Any) -> Any:
        return fields.with_target(data)

    @model_validator(mode="after")
    def _check(self) -> Job:
        broken = list(broken_rules(self))
        if broken:
            raise Invalid.many(broken)
        return self

    @property
    def path(self) -> Path | None:
        """The file that the job was read from."""
        return self._path

    def where(self, *loc: str | int) -> str:
        """`file:line: key` for messages about this job."""
        return self._file.where(loc) if self._file else dotted(loc)

    def local_path(self, text: str) -> Path | None:
        """The file on this machine that a relative path means; None for a path on the hosts."""
        if Path(text).is_absolute():
            return None
        return (self._path.parent if self._path else Path()) / text

    @property
    def whole_checkpoint(self) -> Path | None:
        """The file on this machine that `checkpoint.distribute` cuts; None where nothing is distributed."""
        if not self.checkpoint.distribute or self.checkpoint.load is None:
            return None
        return (self._path.parent if self._path else Path()) / self.checkpoint.load

    def attach(self, file: YamlFile, path: Path) -> Job:
        """This job, knowing where it was written."""
        self._file, self._path = file, path
        return self
