"""The job as a person writes it: what its workers are told (`worker_config`), and where and how they run.

Every rule that needs nothing but the job itself is checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from orchestrator.agent.worker_environment import WITH_SCHEDULER, WITH_TABLE
from orchestrator.config import job_fields as fields
from orchestrator.config.container import ContainerOrOff
from orchestrator.config.job_fields import (
    Count,
    EnvName,
    FileName,
    Flag,
    Text,
)
from orchestrator.config.job_rules import broken_rules
from orchestrator.config.mindformers_job import MindFormersRun
from orchestrator.config.run_terms import Health, JobSource, Restart, Timeouts
from orchestrator.config.schema import Check, Limits, key
from orchestrator.config.worker_config import (
    CheckpointOptions,
    Data,
    Decoding,
    DeviceTarget,
    JitLevel,
    MaxDeviceMemory,
    ModelChoice,
    ParallelDegrees,
    PredictOptions,
    Task,
    Train,
)
from orchestrator.config.yaml_messages import Invalid
from orchestrator.config.yaml_reader import MAX_TOLD, YamlFile, dotted
from orchestrator.families.registry import hub_names

__all__ = [
    "Job",
    "JobCheckpoint",
    "JobParallel",
    "Networking",
]


class Frozen(BaseModel):
    """Base of the job's parts that its workers are not told: unknown keys refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


@dataclass(frozen=True, slots=True)
class JobCheckpoint(CheckpointOptions):
    """What is loaded before the first step, how it comes to the workers, and what is saved."""

    distribute: Flag = key(
        False,
        "`load` is a file of whole tensors on the control node: each host gets only the slices that its "
        "ranks load, with `resume: true` those of the optimizer too. Of task mindformers it may be the "
        "folder of all ranks' files or of a checkpoint 2.0, and the run YAML is told what to load",
    )
    strategy: fields.FilePath | None = key(
        None,
        "of task mindformers, with `distribute`: the strategy files of the job's own layout, by which "
        "tensors are cut (MindFormers writes them with `only_save_strategy: True`); null: not needed with "
        "data parallelism alone, nor where `load` was saved in the same layout",
    )
    copies: Annotated[int, Limits(ge=0, le=1)] = key(
        0,
        "1: every finished shard is copied to a second host, of another `labels: {rack: …}` where there is "
        "one, over the inventory's `copy: {network, ports}`, encrypted and at idle priority; at most one "
        "save behind. `keep` counts for copies, too",
    )


@dataclass(frozen=True, slots=True)
class JobParallel(ParallelDegrees):
    """How the ranks share the work; the product of the three degrees is their number.

    rank = stage*(dp*mp) + dp_index*mp + mp_index
    """

    replicas: Literal["packed", "spread"] = key(
        "packed",
        "on which hosts the replicas are: `packed` keeps those of a stage together where a host has room; "
        "`spread` puts them on different hosts, so that each slice of weights and optimizer is on two: then "
        "gradients are summed over the network, and `orchestrate plan` says how much that is",
    )

    @property
    def is_spread(self) -> bool:
        return self.replicas == "spread"


class Networking(Frozen):
    """How the workers find each other."""

    mode: Literal["rank_table", "dynamic", "legacy_rank_table", "none"] = Field(
        description="`rank_table`: as `msrun --rank_table_file`, a scheduler process and a rank table that "
        "was compared on all servers before the start; `dynamic`: as msrun, the scheduler alone; "
        "`legacy_rank_table`: the table alone, only for `command` (MindSpore 2.x makes no groups so); "
        "`none`. A job of one rank gets neither"
    )
    port: Annotated[int, Limits(ge=1, le=65535)] | None = Field(
        default=None,
        description="of the scheduler, which listens on the first host: at its `address`, or at the IP "
        "address that this name has there; null: a free one",
    )

    @property
    def has_scheduler(self) -> bool:
        return self.mode in WITH_SCHEDULER

    @property
    def has_table(self) -> bool:
        return self.mode in WITH_TABLE


class Job(Frozen):
    """One job. Sections that its task does not use are null."""

    name: FileName = Field(description="of the job; runs are called `<name>-<date>-<time>-<xxxx>`")
    task: Task = Field(
        description="what the workers do: the bundled model, with `mindformers` the trainer of "
        "MindFormers, or with `command` any program"
    )
    hosts: Annotated[tuple[str, ...], Check(fields.one_or_more, "text, or list of text", before=True)] = (
        Field(
            default=("all",), description="groups, ranges or names of the inventory's hosts; `!` leaves out"
        )
    )
    host_count: Count | None = Field(default=None, description="only the first so many of them; null: all")
    devices_per_host: Count = Field(
        description="ranks on each host, on devices that no other run holds; up to four of them in one HCCS "
        "ring"
    )
    device_target: DeviceTarget = Field(description="which kind of device computes")
    max_device_memory: MaxDeviceMemory | None = None
    jit_level: JitLevel | None = None
    parallel: JobParallel = JobParallel()
    model: ModelChoice | None = None
    data: Data | None = None
    train: Train | None = None
    checkpoint: JobCheckpoint = JobCheckpoint()
    predict: PredictOptions | None = None
    chat: Decoding | None = None
    command: Annotated[tuple[Text, ...], Check(fields.argv, before=True)] | None = Field(
        default=None,
        description="the program of `task: command` and its arguments; `{python}`, `{rank}` and `{run_dir}` "
        "are filled in on the host, here and nowhere else. A script must be in `sync`",
    )
    mindformers: MindFormersRun | None = None
    sync: tuple[fields.FilePath, ...] = Field(
        default=(),
        description="files and folders beside the job file to send into the working directory of a `command` "
        "or of `mindformers`",
    )
    env: dict[EnvName, Annotated[str, Check(fields.env_value, before=True)]] = Field(
        default_factory=dict,
        description="environment variables of the workers, as they are written here; their values never "
        "show in `ps`, logs or `--dry-run`",
    )
    networking: Networking
    timeouts: Timeouts = Timeouts()
    health: Annotated[Health, Check(fields.off, before=True)] = Field(
        default_factory=Health,
        description="when it is said that the ranks hang, or that one is slow, which ends nothing; or `off`",
    )

    restart: Restart = Field(
        default=Restart(), description="whether and how the run goes on by itself after a failure"
    )
    container: ContainerOrOff | None = Field(
        default=None,
        description="the image in which each worker runs, over what the inventory says; or `off`",
    )

    _file: YamlFile | None = PrivateAttr(default=None)
    _path: Path | None = PrivateAttr(default=None)
    _source: JobSource | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _fill_target(cls, data: Any) -> Any:
        return fields.with_target(data)

    @model_validator(mode="after")
    def _check(self) -> Job:
        broken = list(islice(broken_rules(self), MAX_TOLD + 1))
        if broken:
            raise Invalid.many(broken)
        return self

    @property
    def path(self) -> Path | None:
        """The file that the job was read from."""
        return self._path

    @property
    def source(self) -> JobSource | None:
        """What the job was read from."""
        return self._source

    def where(self, *loc: str | int) -> str:
        """`file:line: key` for messages about this job."""
        return self._file.where(loc) if self._file else dotted(loc)

    def says(self, *loc: str) -> bool:
        """Whether this key was written, rather than filled in."""
        return self._file is not None and self._file.get(loc) is not None

    def with_replicas(self, ranks: int) -> Job:
        """This job on so many ranks: a data_parallel left out is what the other degrees leave of them.

        A chat has one reader, and so no replicas; where the degrees do not divide the ranks nothing changes.
        """
        others = self.parallel.model_parallel * self.parallel.pipeline_stage
        given = self._file is None or self._file.get(("parallel", "data_parallel")) is not None
        if given or self.task == "chat" or ranks % others:
            return self
        degrees = replace(self.parallel, data_parallel=ranks // others)
        return self.model_copy(update={"parallel": degrees})

    def local_path(self, text: str) -> Path | None:
        """The file on this machine that a relative path means.

        None for a path on the hosts, and for a model's name, of which the workers find the files.
        """
        if Path(text).is_absolute():
            return None
        path = (self._path.parent if self._path else Path()) / text
        return None if text in hub_names() and not path.exists() else path

    @property
    def whole_checkpoint(self) -> Path | None:
        """The file on this machine that `checkpoint.distribute` cuts; None where nothing is distributed."""
        if not self.checkpoint.distribute or self.checkpoint.load is None:
            return None
        return (self._path.parent if self._path else Path()) / self.checkpoint.load

    def attach(self, file: YamlFile, path: Path, source: JobSource | None = None) -> Job:
        """This job, knowing where it was written."""
        self._file, self._path, self._source = file, path, source
        return self
