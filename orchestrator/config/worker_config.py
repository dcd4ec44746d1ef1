"""The worker's configuration, `worker.yaml`: its sections, their defaults, and the rules between their keys.

The control node's `Job` is made of these sections and writes them; workers read them back, as they read what
is written by hand for `python -m model`. Stdlib and PyYAML only: hosts need not have pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from orchestrator.config import job_fields as fields
from orchestrator.config.job_fields import (
    Count,
    FileName,
    FilePath,
    Flag,
    NotNegative,
    Positive,
    Span,
    WholeNotNegative,
)
from orchestrator.config.schema import Check, Limits, Section, key, read
from orchestrator.config.tasks import TRAINING, Task
from orchestrator.config.yaml_messages import Finding, Invalid
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.families.registry import preset_names

__all__ = [
    "TRAINING",
    "CheckpointOptions",
    "Data",
    "Decoding",
    "DeviceTarget",
    "JitLevel",
    "MaxDeviceMemory",
    "ModelChoice",
    "ParallelDegrees",
    "PredictOptions",
    "Task",
    "Train",
    "WorkerConfig",
    "broken_saving_rules",
    "broken_training_rules",
    "read_worker_config",
]

DeviceTarget = Literal["CPU", "Ascend"]
MaxDeviceMemory = Annotated[
    str,
    Check(fields.memory, "size such as `31GB`"),
    "of MindSpore's memory pool on one Ascend; `orchestrate plan` fails a job that needs more. HCCL's "
    "buffers lie outside: `plan --hbm` says whether they fit beside it",
]
JitLevel = Annotated[
    Literal["O0", "O1"],
    Check(fields.jit_level, before=True),
    "how far MindSpore compiles for an Ascend: `O0` kernel by kernel, `O1` with chains of them fused; `O2` "
    "is refused: it makes no communicators for groups; null: `O1` to train, `O0` to answer",
]
Below1 = Annotated[float, Limits(ge=0, lt=1)]
Seed = Annotated[int, Limits(ge=0, lt=2**32)]


@dataclass(frozen=True, slots=True)
class ParallelDegrees(Section):
    """How the ranks share the work; the product of the three degrees is their number.

    rank = stage*(dp*mp) + dp_index*mp + mp_index
    """

    data_parallel: Count = key(
        1,
        "replicas, each of which takes its part of the data; a job that leaves it out gets as many as the "
        "other two leave of its ranks",
    )
    model_parallel: Count = key(1, "ranks that share every layer")
    pipeline_stage: Count = key(1, "stages, each of which holds its part of the layers")
    micro_batch_num: Count = key(1, "micro batches in which a batch goes through the stages")
    optimizer_shard: Flag = key(False, "the replicas share the optimizer state")
    use_seq_parallel: Flag = key(False, "between the cut layers, the model group shares the sequence")
    link_timeout: Positive = key(
        120.0,
        "seconds that a stage waits for a message of its neighbour (on an NPU for a few of them); "
        "ten times as long, once, for the other stages to compile",
    )

    @property
    def world_size(self) -> int:
        """The number of ranks that this needs."""
        return self.data_parallel * self.model_parallel * self.pipeline_stage


@dataclass(frozen=True, slots=True)
class ModelChoice(Section):
    """The network: a preset, and what differs from it. The worker checks the overrides."""

    preset: Annotated[str, Check(fields.preset, "name or path", before=True)] = field(
        metadata={"description": f"`{'`, `'.join(preset_names())}`, or the path of a YAML file of a network"}
    )
    overrides: dict[str, Any] = field(
        default_factory=dict, metadata={"description": "fields of the network that differ from the preset's"}
    )


@dataclass(frozen=True, slots=True)
class Data(Section):
    """The records to train on, and how they become token ids."""

    path: FilePath | None = key(
        None,
        "records of `instruction`, `input` and `output` (a JSON list as of Alpaca, or JSON lines), of "
        "`text`, plain text, or MindRecord: a file or, on the hosts, a folder; a task that trains needs it",
    )
    tokenizer: FilePath | None = key(
        None,
        "a `tokenizer.json`; null: the one beside the weights of `checkpoint.load`, else the MindRecord's; "
        "a new one is trained on the records only where nothing is loaded",
    )
    seq_length: Count | None = key(
        None, "tokens of a record; null: that of the model, by its overrides or its preset (2048)"
    )
    template: Literal["alpaca", "belle", "none"] | None = key("alpaca", "what a question is wrapped in")
    limit: Count | None = key(None, "only the first so many records; null: all")


@dataclass(frozen=True, slots=True)
class Train(Section):
    """How long and how to train."""

    steps: Count | None = key(None, "steps to train; exactly one of `steps` and `epochs` is given")
    epochs: Annotated[int | float, Check(fields.above_0, "number > 0", before=True)] | None = key(
        None, "times that the data is seen, instead of `steps`"
    )
    batch_size: Count = key(1, "records of one data-parallel replica and step")
    learning_rate: Positive = key(1e-5, "the highest learning rate, which is that after the warm-up")
    lr_end: NotNegative = key(0.0, "the learning rate of the last step; at most `learning_rate`")
    lr_schedule: Literal["cosine", "linear", "constant"] = key(
        "cosine", "how the rate falls after the warm-up"
    )
    warmup_steps: WholeNotNegative = key(0, "steps in which the rate rises from 0; at most `steps`")
    weight_decay: NotNegative = key(0.01, "of AdamW; not for biases and norms")
    beta1: Below1 = key(0.9, "of AdamW")
    beta2: Below1 = key(0.95, "of AdamW")
    eps: Positive = key(1e-8, "of AdamW")
    clip_grad: NotNegative | None = key(
        1.0, "the largest norm of the gradients; null or 0: they are not clipped"
    )
    gradient_accumulation: Count = key(
        1, "equal parts in which a step computes its batch, each cut into the micro batches"
    )
    loss_scale: (
        Annotated[str | float, Check(fields.loss_scale, "`dynamic` or number > 0", before=True)] | None
    ) = key(
        None,
        "for float16, by what the loss is multiplied: a number, or `dynamic`, which an overflow halves (on "
        "a 910A, where it leaves finite numbers, the chip's overflow register is read); null: 1",
    )
    loss_scale_start: Positive = key(65536.0, "where `loss_scale: dynamic` starts")
    loss_scale_window: Count = key(1000, "steps without overflow that double a dynamic loss scale")
    loss_mask: Literal["label", "input"] = key(
        "label",
        "`label` scores every token of the answer; `input` scores as MindFormers does, by the token before",
    )
    recompute: Flag = key(False, "compute activations again instead of keeping them")
    device_tflops: Positive | None = key(None, "the peak of one device, for the utilisation in metrics")
    seed: Seed = key(42, "of weights, order of the data and dropout")
    deterministic: Flag = key(False, "every sum of kernels and HCCL in one order, at some cost in speed")


@dataclass(frozen=True, slots=True)
class CheckpointOptions(Section):
    """What is loaded before the first step, and what is saved."""

    load: FilePath | None = key(
        None, "a whole `.ckpt` or `.safetensors`, or a folder of shards; a task that answers needs it"
    )
    resume: Flag | None = key(
        None, "go on with optimizer, step and data position of `load`; null: where that is a folder of shards"
    )
    save_steps: Count | None = key(None, "steps between two checkpoints; null: only one at the end")
    save_every: Annotated[str | float, Check(fields.save_every, "`auto` or duration", before=True)] | None = (
        key(
            None,
            "the time between two checkpoints, instead of `save_steps`: such as 10m, or `auto`, which costs "
            "least by how long a save holds the steps up and how often something fails",
        )
    )
    mtbf: Span | None = key(
        None,
        "the time between two failures that `save_every: auto` reckons with; null: that of this job's "
        "earlier runs, else Llama 3's rate for as many devices",
    )
    asynchronous: Flag = key(
        False,
        "a save copies the shard into the host's memory, and writes it while the training goes on; "
        "`orchestrate plan` says what memory that takes",
        alias="async",
    )
    keep: Count = key(5, "checkpoints of each rank that are kept")
    prefix: FileName = key("mindformers", "how the files' names begin")


@dataclass(frozen=True, slots=True)
class Decoding(Section):
    """How an answer is decoded."""

    max_new_tokens: Count = key(64, "tokens of an answer at most")
    temperature: NotNegative = key(0.0, "0 takes the likeliest token; the higher, the more is left to chance")
    top_k: WholeNotNegative = key(0, "draw from the K likeliest tokens; 0: all")
    top_p: Annotated[float, Limits(gt=0, le=1)] = key(
        1.0, "draw from the likeliest tokens that hold this probability"
    )
    repetition_penalty: Positive = key(1.0, "above 1, tokens that occurred become less likely")
    seed: Seed = key(42, "of the draws")


@dataclass(frozen=True, slots=True)
class PredictOptions(Decoding):
    """Prompts to answer (in the job, in a file, or both), and how."""

    prompts: tuple[str, ...] = key((), "the questions")
    prompts_file: FilePath | None = key(
        None,
        "a question a line, or a `.jsonl` or `.json` with `prompt`, or `instruction`, `input` and `history`",
    )
    batch_size: Count = key(8, "questions that are answered at once")


@dataclass(frozen=True, slots=True)
class WorkerConfig(Section):
    """One worker.yaml. Its keys, but for `run_id`, are a job's of the same names."""

    run_id: str = key("", "the run's name, for messages")
    task: Task = key("finetune", "what the workers do")
    parallel: ParallelDegrees = ParallelDegrees()
    model: ModelChoice | None = None
    data: Data = Data()  # an answering job may do without it
    train: Train = Train()
    checkpoint: CheckpointOptions = CheckpointOptions()
    device_target: DeviceTarget = key("CPU", "which kind of device computes")
    max_device_memory: MaxDeviceMemory | None = None
    jit_level: JitLevel | None = None
    predict: PredictOptions = PredictOptions()
    chat: Decoding = Decoding()


def broken_training_rules(train: Train, parallel: ParallelDegrees) -> Iterator[Finding]:
    """The rules between the keys of a training: key path, what is wrong, remedy."""
    if train.steps is None and train.epochs is None:
        yield ("train", "steps"), "is missing", "give steps or epochs"
    if train.steps is not None and train.epochs is not None:
        yield ("train", "epochs"), "is given beside train.steps", "keep one of them and set the other to null"
    micro, accumulation = parallel.micro_batch_num, train.gradient_accumulation
    if train.batch_size % (micro * accumulation):
        parts = f"micro_batch_num {micro}"
        if accumulation > 1:
            own = f"gradient_accumulation {accumulation}"
            parts = f"{own} * {parts}" if micro > 1 else own
        text = f"must be a multiple of {parts}, got {train.batch_size}"
        yield ("train", "batch_size"), text, "it counts the records of one replica and step"


def broken_saving_rules(options: CheckpointOptions) -> Iterator[Finding]:
    """The rules between the keys that say when to save: key path, what is wrong, remedy."""
    if options.save_every is not None and options.save_steps is not None:
        what = "is given beside checkpoint.save_steps"
        yield ("checkpoint", "save_every"), what, "keep one of them and set the other to null"
    if options.mtbf is not None and options.save_every != "auto":
        yield ("checkpoint", "mtbf"), "is used by save_every: auto alone", "remove it, or add that"


C = TypeVar("C", bound=WorkerConfig)


def read_worker_config(path: Path, cls: type[C]) -> C:
    """A worker.yaml as `cls`. Raises ConfigError with every problem: file, line and key, what to do.

    Sections that the task does not need may be missing or null.
    """
    file = read_yaml(path)
    file.as_text(("predict", "prompts"))
    try:
        config = read(cls, {name: value for name, value in file.data.items() if value is not None})
    except Invalid as error:
        raise file.refusal(error.findings) from None
    broken: list[Finding] = []
    if config.task in TRAINING:
        broken += broken_training_rules(config.train, config.parallel)
        broken += broken_saving_rules(config.checkpoint)
    if broken or file.problems:
        raise file.refusal(broken)
    return config
