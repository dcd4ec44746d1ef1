"""The import of MindFormers' run YAML: a job, its text, and what of the file no job has words for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from orchestrator.config.file_kinds import refuse_other
from orchestrator.config.job import Job
from orchestrator.config.mindformers_keys import (
    CARRIED,
    OTHER_MODES,
    PUBLISHED,
    RENAMED,
    SCHEDULES,
    LeftOut,
    Source,
    decoding_of,
    predict_of,
)
from orchestrator.config.yaml_messages import Loc, show
from orchestrator.config.yaml_reader import YamlFile, read_yaml
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError
from orchestrator.families.family import Family
from orchestrator.families.network_config import DECODING, NetworkConfig
from orchestrator.families.registry import FamilyError, families, mindformers_class

__all__ = [
    "Imported",
    "LeftOut",
    "hosts_for",
    "import_run_yaml",
    "job_text",
]

DEVICES_PER_HOST = 8  # of the servers that MindFormers' files were written for
_SIZE = ("hidden_size", "num_layers", "num_heads")
_ELSEWHERE = "with --keep MindFormers itself runs it"
TASKS = {"train": "pretrain", "finetune": "finetune", "predict": "predict"}


@dataclass(frozen=True, slots=True)
class Imported:
    """The job as data in the order of a job file; `to_do` is what the run YAML does not say."""

    job: dict[str, Any]
    left_out: tuple[LeftOut, ...]
    to_do: tuple[str, ...]


def import_run_yaml(path: FilePath, overrides: Sequence[str] = ()) -> Imported:
    """Read a run YAML of a bundled model; `overrides` are `key=value` of the job, as for a launch.

    Raises ConfigError: no such file, no such model, a value that a job does not take (with its line).
    """
    file = read_yaml(path)
    refuse_other(str(path), file.data, "run YAML of MindFormers")
    source = Source(file)
    job = {"name": path.stem, **_build(source)}
    written = YamlFile(str(path), job, lines=source.lines_of_job)
    written.override(overrides)
    to_do = tuple(_fill_in(job))
    validate(written, Job)
    return Imported(job, tuple(source.left_out()), to_do)


def _build(source: Source) -> dict[str, Any]:
    network = _network_class(source)
    task = _task(source)
    parallel = _parallel(source)
    ranks = parallel["data_parallel"] * parallel["model_parallel"] * parallel["pipeline_stage"]
    job: dict[str, Any] = {"task": task, "hosts": "all", **hosts_for(ranks)}
    job["device_target"] = source.take("context", "device_target", to=("device_target",)) or "Ascend"
    memory = source.take("context", "max_device_memory", to=("max_device_memory",))
    if memory is not None:
        job["max_device_memory"] = memory
    if level := _jit_level(source, job["device_target"]):
        job["jit_level"] = level
    job["parallel"] = parallel
    decoding = {} if task == "predict" else decoding_of(source)
    job["model"], seq_length = _model(source, network, decoding)
    job["data"] = _data(source, seq_length)
    if task == "predict":
        job["data"]["template"] = "none"  # as in MindFormers
        job["predict"] = predict_of(source)
    else:
        parallel["use_seq_parallel"] = _cuts_sequences(source, parallel["model_parallel"])
        job["train"] = _train(source, parallel)
    job["checkpoint"] = _checkpoint(source, task)
    job["networking"] = {"mode": "rank_table" if job["device_target"] == "Ascend" else "dynamic"}
    return job


def _task(source: Source) -> str:
    mode = source.take("run_mode", to=("task",)) or "train"
    task = TASKS.get(mode) if isinstance(mode, str) else None
    if task is None:
        remedy = OTHER_MODES.get(str(mode), "train, finetune and predict have one")
        raise ConfigError([source.file.problem(("run_mode",), f"{mode!r} has no counterpart here", remedy)])
    return task


def _network_class(source: Source) -> type[NetworkConfig]:
    """The class of the network that is named in one of MindFormers' ways. ConfigError: another model."""
    where = ("model", "model_config")
    written = source.take(*where, "type")
    try:
        network = mindformers_class(written)
    except FamilyError as error:
        raise ConfigError([source.file.problem((*where, "type"), str(error), _ELSEWHERE)]) from None
    family = network.family
    # Which of them it is the type has said; here it is what kind of model.
    bases = [one.mindformers.removesuffix("Config") for one in families()]
    ours: dict[Loc, tuple[str, ...]] = {
        (*where, "model_type"): (family.hf.model_type,),
        (*where, "architectures"): (
            family.hf.architecture,
            family.hf.architecture.replace("ForCausalLM", "Model"),
        ),
        ("model", "arch", "type"): tuple(
            f"{one}{kind}" for one in bases for kind in ("LMHeadModel", "Model")
        ),
    }
    for loc, known in ours.items():
        value = source.file.get(loc)
        named = value[0] if isinstance(value, list) and value else value
        if named and named not in known:
            what = f"is {show(named)}; bundled is only {family.title}, as a language model"
            raise ConfigError([source.file.problem(loc, what, _ELSEWHERE)])
    return network


def hosts_for(ranks: int) -> dict[str, int]:
    """So many ranks on hosts of eight devices, of which each has as many as can be."""
    per_host = next(count for count in range(min(ranks, DEVICES_PER_HOST), 0, -1) if ranks % count == 0)
    return {"host_count": ranks // per_host, "devices_per_host": per_host}


def _parallel(source: Source) -> dict[str, Any]:
    used = source.take("use_parallel")
    parallel: dict[str, Any] = {}
    for key in ("data_parallel", "model_parallel", "pipeline_stage", "micro_batch_num"):
        value = source.take("parallel_config", key, to=("parallel", key))
        parallel[key] = 1 if value is None or used is False else value
    if not all(isinstance(value, int) and value > 0 for value in parallel.values()):
        problems = [
            source.file.problem(("parallel_config", key), "is not a whole number above 0")
            for key, value in parallel.items()
            if not isinstance(value, int) or value < 1
        ]
        raise ConfigError(problems)
    # 0.6.0 says it beside the degrees, later releases of MindSpore's context.
    to = ("parallel", "optimizer_shard")
    sharded = [
        source.take("parallel", "enable_parallel_optimizer", to=to),
        source.take("parallel_config", "optimizer_shard", to=to),
    ]
    # Micro batches are dealt out over pipeline stages; without stages MindFormers ignores their number.
    if parallel["pipeline_stage"] == 1:
        parallel["micro_batch_num"] = 1
    return {**parallel, "optimizer_shard": any(sharded) and parallel["data_parallel"] > 1}


def _cuts_sequences(source: Source, ranks: int) -> bool:
    """Older releases say it of the model, newer ones beside the degrees."""
    places = (("model", "model_config"), ("parallel_config",))
    asked = any(source.file.get((*place, "use_seq_parallel")) is True for place in places)
    if asked and ranks == 1:
        return False  # which is told
    for place in places:
        source.take(*place, "use_seq_parallel", to=("parallel", "use_seq_parallel"))
    return asked


def _model(
    source: Source, network: type[NetworkConfig], values: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The section `model`, and the sequence length; `values` are fields of its config beside the shapes."""
    where = ("model", "model_config")
    family, values, usual = network.family, dict(values), network.defaults()
    for key in (*RENAMED, *(key for key in usual if key not in (*DECODING, "prompt_template"))):
        value = source.take(*where, key, to=("model", "overrides", RENAMED.get(key, key)))
        if value is not None:
            values[RENAMED.get(key, key)] = value
    named = [source.file.get((*where, "checkpoint_name_or_path")), source.take("trainer", "model_name")]
    names = [name.split("_")[-1] for name in named if isinstance(name, str)]
    if not any(key in values for key in _SIZE):
        values |= next(
            (dict(zip(_SIZE, PUBLISHED[name], strict=True)) for name in names if name in PUBLISHED), {}
        )
    preset = _preset(family, values, names)
    if preset is None:
        shape = ", ".join(f"{key} {values[key]}" for key in _SIZE if key in values) or "no shape at all"
        what = f"{shape}: no published {family.title} has this"
        remedy = f"give all of {', '.join(_SIZE)}, or the shape of {', '.join(family.presets)}"
        raise ConfigError([source.file.problem(where, what, remedy)])
    usual |= family.presets[preset]
    seq_length = values.pop("seq_length", usual["seq_length"])
    overrides = {key: value for key, value in values.items() if usual[key] != value}
    return {"preset": preset, **({"overrides": overrides} if overrides else {})}, seq_length


def _preset(family: Family, values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The preset whose hidden size, layers and heads these are; without any, the one that is named.

    A whole shape that is none's goes on top of a preset that sets nothing else.
    """
    given = {key: values[key] for key in _SIZE if key in values}
    called = [preset for preset in family.presets if preset.split("_")[-1] in names]
    for preset in (*called, *family.presets):
        table = family.presets[preset]
        if all(table[key] == value for key, value in given.items()) and (given or called):
            return preset
    plain = [preset for preset, table in family.presets.items() if set(table) <= set(_SIZE)]
    return plain[0] if plain and len(given) == len(_SIZE) else None


def _data(source: Source, seq_length: int) -> dict[str, Any]:
    folder = source.take("train_dataset", "data_loader", "dataset_dir", to=("data", "path"))
    vocabulary = source.take("processor", "tokenizer", "vocab_file", to=("data", "tokenizer"))
    return {"path": folder or None, "tokenizer": vocabulary or None, "seq_length": seq_length}


def _train(source: Source, parallel: Mapping[str, Any]) -> dict[str, Any]:
    train: dict[str, Any] = {}
    for path, target in CARRIED.items():
        value = source.take(*path, to=target)
        if value is not None:
            train[target[-1]] = value
    if isinstance(schedule := train.get("lr_schedule"), str):
        train["lr_schedule"] = SCHEDULES.get(schedule, schedule)
    if "epochs" not in train:
        train["steps"] = source.take("lr_schedule", "total_steps", to=("train", "steps"))
    size = source.take("runner_config", "batch_size", to=("train", "batch_size"))
    if isinstance(size, int):
        # MindFormers counts per replica and micro batch, a job per replica and step.
        train["batch_size"] = size * parallel["micro_batch_num"]
    clip = source.take("runner_wrapper", "use_clip_grad", to=("train", "clip_grad"))
    train["clip_grad"] = 1.0 if clip else None
    train.update(_loss_scale(source))
    train["loss_mask"] = "input"  # MindFormers masks by the input's position
    if _is_deterministic(source):
        train["deterministic"] = True
    return train


def _jit_level(source: Source, device_target: str) -> str | None:
    """O2 is no level of a job, and a CPU has none: both are told."""
    path = ("context", "jit_config", "jit_level")
    if device_target == "CPU" or source.file.get(path) not in ("O0", "O1"):
        return None
    return str(source.take(*path, to=("jit_level",)))


def _is_deterministic(source: Source) -> bool:
    """MindSpore's context says it by ON and OFF, later releases of MindFormers by a key of their own."""
    to = ("train", "deterministic")
    said = source.take("context", "deterministic", to=to), source.take("train_precision_sync", to=to)
    return said[0] == "ON" or said[1] is True


def _loss_scale(source: Source) -> dict[str, Any]:
    where = ("runner_wrapper", "scale_sense")
    if not isinstance(source.file.get(where), dict):
        fixed = source.take(*where, to=("train", "loss_scale"))
        return {} if fixed is None else {"loss_scale": fixed}
    kind = source.take(*where, "type", to=("train", "loss_scale"))
    value = source.take(*where, "loss_scale_value", to=("train", "loss_scale_start"))
    if kind != "DynamicLossScaleUpdateCell":
        return {} if value is None else {"loss_scale": value}
    window = source.take(*where, "scale_window", to=("train", "loss_scale_window"))
    found = {"loss_scale": "dynamic", "loss_scale_start": value, "loss_scale_window": window}
    return {key: item for key, item in found.items() if item is not None}


def _load(source: Source, task: str) -> str | None:
    """What MindFormers would load: `load_checkpoint`, else the file that the model's config names.

    The latter in answering, and in training where it goes on or is cut anew (MindFormers 0.6.0 to 1.0.2,
    run_mindformer.py); a fine-tuning cannot mean to go without it.
    """
    to, named = ("checkpoint", "load"), ("model", "model_config", "checkpoint_name_or_path")
    given = source.take("load_checkpoint", to=to)
    value = source.file.get(named)
    if given:
        source.tell(*named, why="load_checkpoint goes before it")
    elif not _is_path(value):
        source.tell(*named, why="is no path of a file: `python -m model convert` fetches a model by its name")
    elif task == "pretrain" and not any(map(source.file.data.get, ("auto_trans_ckpt", "resume_training"))):
        why = (
            "run_mode train loads it only with auto_trans_ckpt or resume_training; name it as checkpoint.load"
        )
        source.tell(*named, why=why)
    else:
        given = source.take(*named, to=to)
    return given or None


def _is_path(value: object) -> bool:
    """Whether it is no name of MindFormers' list and no `owner/name` of a hub."""
    if not isinstance(value, str):
        return False
    return value.startswith(("/", ".")) or value.count("/") > 1 or value.endswith((".ckpt", ".safetensors"))


def _checkpoint(source: Source, task: str) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"load": _load(source, task)}
    resume = source.take("resume_training", to=("checkpoint", "resume"))
    if resume:
        checkpoint["resume"] = True
    callbacks = source.file.get(("callbacks",))
    for number, callback in enumerate(callbacks if isinstance(callbacks, list) else ()):
        # `CheckpointMointor` is how MindFormers spells it.
        if isinstance(callback, dict) and str(callback.get("type", "")).startswith("CheckpointMo"):
            line = source.file.line(("callbacks", number))
            for key, target in (
                ("prefix", "prefix"),
                ("save_checkpoint_steps", "save_steps"),
                ("keep_checkpoint_max", "keep"),
            ):
                if callback.get(key) is not None:
                    checkpoint[target] = callback[key]
                    source.lines_of_job["checkpoint", target] = line
    return checkpoint


def _fill_in(job: dict[str, Any]) -> Iterator[str]:
    """Values without which a job is none; gives what a person has to put in their place."""
    if job["task"] != "predict":
        if not job["data"]["path"]:
            job["data"]["path"] = "/data/train.mindrecord"
            yield "data.path: a made-up path was put in; name your data"
        if job["task"] == "finetune" and not job["checkpoint"]["load"]:
            yield "checkpoint.load: names nothing, so that training would start from random weights"
        return
    predict, checkpoint = job["predict"], job["checkpoint"]
    if not predict["prompts"] and not predict.get("prompts_file"):
        predict["prompts"] = ["what color is the sky?"]
        yield "predict.prompts: an example was put in; write your own, or name a prompts_file"
    if not checkpoint["load"]:
        checkpoint["load"] = "/data/model.ckpt"
        yield "checkpoint.load: a made-up path was put in; name your checkpoint"


def job_text(imported: Imported, source: str) -> str:
    """YAML that `orchestrate launch` reads; `source` is named in its first line."""
    lines = [f"# From {source}, a run YAML of MindFormers."]
    lines += [f"# TO DO  {item}" for item in imported.to_do]
    sections = (_dump({key: _without_nothing(value)}) for key, value in imported.job.items())
    return "\n".join([*lines, ""]) + "".join(sections)


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _without_nothing(value: Any) -> Any:
    """Keys that say nothing are left to the job's defaults; `clip_grad: null` does say something."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None or key == "clip_grad"}
