"""The rules between a job's keys: one function, one rule; each yields key path, what, remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from orchestrator.agent.worker_environment import OF_EACH_RANK
from orchestrator.config.command_words import FILLED, unknown_placeholders
from orchestrator.config.mindformers_job import broken_mindformers_rules
from orchestrator.config.schema import written_name
from orchestrator.config.worker_config import (
    TRAINING,
    Train,
    broken_saving_rules,
    broken_training_rules,
)
from orchestrator.config.yaml_messages import Finding, show

if TYPE_CHECKING:
    from orchestrator.config.job import Job, JobCheckpoint

__all__ = ["broken_rules"]

# What each task needs, and what it would silently ignore.
_NEEDS = {
    "pretrain": ("model", "data", "train"),
    "finetune": ("model", "data", "train"),
    "predict": ("model", "predict"),
    "chat": ("model", "chat"),
    "command": ("command",),
    "mindformers": ("mindformers",),
}
_UNUSED = {
    "pretrain": ("predict", "chat", "command", "mindformers", "sync"),
    "finetune": ("predict", "chat", "command", "mindformers", "sync"),
    "predict": ("train", "chat", "command", "mindformers", "sync"),
    "chat": ("train", "predict", "command", "mindformers", "sync"),
    "command": ("model", "data", "train", "predict", "chat", "mindformers"),
    "mindformers": ("model", "data", "train", "predict", "chat", "command"),
}
# Of a run of MindFormers, what its run YAML says instead.
_IN_RUN_YAML = {
    "parallel": "parallel_config",
    "max_device_memory": "context.max_device_memory",
    "jit_level": "context.jit_config.jit_level",
}


# Of the section `checkpoint`, what is no matter of a run YAML: what hosts send and are sent.
_SENT = ("load", "resume", "distribute", "strategy", "copies")
# How answers are decoded is asked of a job that answers in its own section.
_DECODED = ("temperature", "top_k", "top_p", "repetition_penalty")


def broken_rules(job: Job) -> Iterator[Finding]:
    """Every rule that this job breaks."""
    yield from _sections(job)
    if job.train is not None and job.task != "command":
        yield from broken_training_rules(job.train, job.parallel)
        yield from _schedule(job.train)
    yield from broken_saving_rules(job.checkpoint)
    yield from _overrides(job)
    yield from _resume(job)
    yield from _predict(job)
    yield from _distribute(job)
    yield from _copies(job)
    yield from _command(job)
    yield from _mindformers(job)
    yield from _networking(job)
    yield from _jit_level(job)
    yield from _deterministic(job)
    yield from _compile_cache(job)
    yield from _restart(job)
    yield from _spares(job)


def _sections(job: Job) -> Iterator[Finding]:
    for key in _NEEDS[job.task]:
        if not getattr(job, key):
            yield (key,), f"is missing; task {job.task} needs it", ""
    for key in _UNUSED[job.task]:
        if getattr(job, key):
            yield (key,), f"is not used by task {job.task}", "remove it, or change the task"
    if job.task in TRAINING and job.data and job.data.path is None:
        yield ("data", "path"), f"is missing; task {job.task} needs it", ""


def _schedule(train: Train) -> Iterator[Finding]:
    # A worker takes these as they are: a trial by hand may end within its warm-up.
    if train.lr_end > train.learning_rate:
        text = f"must be at most learning_rate {train.learning_rate:g}, got {train.lr_end:g}"
        yield ("train", "lr_end"), text, ""
    if train.steps is not None and train.warmup_steps > train.steps:
        yield ("train", "warmup_steps"), f"must be at most steps {train.steps}, got {train.warmup_steps}", ""


def _overrides(job: Job) -> Iterator[Finding]:
    """Fields of the network that another key of the job would replace: one of the two must go."""
    fields = job.model.overrides if job.model else {}
    if job.data is not None:
        others: dict[str, tuple[str, object]] = {"seq_length": ("seq_length", job.data.seq_length)}
        if job.data.template != "alpaca":  # which, as the default, replaces nothing
            others["prompt_template"] = ("template", job.data.template or "none")
        for name, (key, value) in others.items():
            if name in fields and value is not None and fields[name] != value:
                what = f"is {show(fields[name])}, but data.{key} is {show(value)}"
                yield ("model", "overrides", name), what, "keep one of them"
    for name in _DECODED if job.task in ("predict", "chat") else ():
        if name in fields:
            what = f"is not used by task {job.task}"
            yield ("model", "overrides", name), what, f"write it as {job.task}.{name}"


def _resume(job: Job) -> Iterator[Finding]:
    if job.checkpoint.resume and job.checkpoint.load is None:
        yield ("checkpoint", "resume"), "has nothing to go on from", "name the checkpoint as checkpoint.load"


def _predict(job: Job) -> Iterator[Finding]:
    if job.task not in ("predict", "chat"):
        return
    if job.checkpoint.load is None:
        yield (
            ("checkpoint", "load"),
            f"is missing; task {job.task} needs it",
            "name the checkpoint to answer from",
        )
    if job.task == "chat" and job.parallel.data_parallel > 1:
        what = f"is {job.parallel.data_parallel}, but a chat has one reader"
        yield ("parallel", "data_parallel"), what, "set it to 1 and raise model_parallel"
    if job.predict and not job.predict.prompts and job.predict.prompts_file is None:
        yield ("predict", "prompts"), "is missing", "give prompts or prompts_file"


def _distribute(job: Job) -> Iterator[Finding]:
    if job.checkpoint.strategy and job.task != "mindformers":
        yield ("checkpoint", "strategy"), "is used by task mindformers alone", "remove it"
    if not job.checkpoint.distribute:
        return
    where = ("checkpoint", "distribute")
    if job.task == "command":
        yield where, "is not used by task command", "use `orchestrate checkpoint split`"
    elif job.checkpoint.load is None:
        yield where, "has nothing to distribute", "name the whole checkpoint as checkpoint.load"


def _copies(job: Job) -> Iterator[Finding]:
    if job.checkpoint.copies and job.task in ("predict", "chat"):
        yield ("checkpoint", "copies"), f"is not used by task {job.task}, which saves nothing", "remove it"


def _command(job: Job) -> Iterator[Finding]:
    for name in job.env:
        if job.task in ("command", "mindformers") and name in OF_EACH_RANK:
            yield ("env", name), "is set by the orchestrator for every rank", "remove it"
    path = job.env.get("PYTHONPATH", "")
    ours = job.task not in ("command", "mindformers")
    if ours and any(f"{{{name}}}" in path for name in (*FILLED, "port")):
        # The bundled code's folder goes before it, which only its host can fill in.
        yield ("env", "PYTHONPATH"), "holds a placeholder, and none is filled in in env", "write the path"
    for index, word in enumerate(job.command or ()):
        for what, remedy in unknown_placeholders(word):
            yield ("command", index), what, remedy
    for index, text in enumerate(job.sync):
        if text.startswith("/"):
            what = f"{text!r} must be relative to the job file"
            yield ("sync", index), what, "what is on the hosts needs no sync"


def _mindformers(job: Job) -> Iterator[Finding]:
    if job.task != "mindformers":
        return
    if job.mindformers is not None:
        yield from broken_mindformers_rules(job.mindformers)
    for key, instead in _IN_RUN_YAML.items():
        if getattr(job, key) != type(job).model_fields[key].default:
            what = "is not used by task mindformers"
            yield (key,), what, f"say it in the run YAML, or in mindformers.set: {instead}"
    yield from _loaded_by_mindformers(job.checkpoint)


def _loaded_by_mindformers(checkpoint: JobCheckpoint) -> Iterator[Finding]:
    """What of `checkpoint` is no matter of the run YAML: what is sent to the hosts to begin with."""
    for item in fields(checkpoint):
        if item.name in _SENT or getattr(checkpoint, item.name) == item.default:
            continue
        what = "is not used by task mindformers"
        instead = "load_checkpoint, resume_training and callbacks"
        yield (
            ("checkpoint", written_name(item)),
            what,
            f"say it in the run YAML, or in mindformers.set: {instead}",
        )
    if checkpoint.load is not None and not checkpoint.distribute:
        what = "is loaded by no task mindformers without distribute: true"
        remedy = "what is on the hosts, or beside the job, is load_checkpoint in the run YAML"
        yield ("checkpoint", "load"), what, remedy
    if checkpoint.strategy is not None and not checkpoint.distribute:
        yield ("checkpoint", "strategy"), "cuts nothing without distribute: true", "remove it"


def _networking(job: Job) -> Iterator[Finding]:
    mode = job.networking.mode
    if mode == "legacy_rank_table" and job.task != "command":
        program = "MindFormers" if job.task == "mindformers" else "the bundled model"
        what = f"legacy_rank_table cannot start {program}: MindSpore makes no groups by a table alone"
        yield ("networking", "mode"), what, "use rank_table"
    if job.networking.port is not None and not job.networking.has_scheduler:
        what = f"is not used by mode {mode}"
        yield ("networking", "port"), what, "remove it, or use mode rank_table or dynamic"


def _jit_level(job: Job) -> Iterator[Finding]:
    if job.jit_level is None:
        return
    if job.task == "mindformers":
        return  # which is told
    if job.task == "command":
        yield ("jit_level",), "is not used by task command", "remove it; the program says it to MindSpore"
    elif job.device_target == "CPU":
        yield ("jit_level",), "has no effect on a CPU", "remove it, or set device_target to Ascend"


def _deterministic(job: Job) -> Iterator[Finding]:
    value = job.env.get("HCCL_DETERMINISTIC", "true")
    if job.train is None or not job.train.deterministic or value.lower() in ("true", "strict"):
        return
    what = f"is {show(value)}, but train.deterministic is true"
    yield ("env", "HCCL_DETERMINISTIC"), what, "remove it: MindSpore would set it to true"


def _compile_cache(job: Job) -> Iterator[Finding]:
    # Measured with MindSpore 2.10 on a CPU; nothing says so.
    if job.task in TRAINING and job.env.get("MS_COMPILER_CACHE_ENABLE", "0").lower() not in ("0", "false"):
        what = "would train nothing: gradients of the bundled model are 0 in graphs out of MindSpore's cache"
        yield ("env", "MS_COMPILER_CACHE_ENABLE"), what, "remove it"


def _restart(job: Job) -> Iterator[Finding]:
    policy = job.restart
    if policy.min_hosts and job.task == "mindformers":
        what = "fits no run of MindFormers: its run YAML has degrees, and its checkpoints are, for all ranks"
        remedy = "null: only with as many hosts; restart.spares replaces lost ones"
        yield ("restart", "min_hosts"), what, remedy
    if policy.max and not policy.on:
        yield (
            ("restart", "on"),
            "is empty: nothing would make the run go on",
            "name what does, or set max to 0",
        )
    if policy.min_hosts and job.host_count and policy.min_hosts > job.host_count:
        what = f"must be at most host_count {job.host_count}, got {policy.min_hosts}"
        yield ("restart", "min_hosts"), what, "null: the run goes on only with all hosts"


def _spares(job: Job) -> Iterator[Finding]:
    if job.restart.spares is not None and job.restart.max == 0:
        what = "would wait for nothing: with restart.max 0 the run does not go on by itself"
        yield ("restart", "spares"), what, "set restart.max, or remove it"
