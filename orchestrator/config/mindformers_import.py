"""The import of any run YAML of MindFormers: a job of its own trainer, or of the bundled model.

The bundled model takes Bloom's (`mindformers_yaml`). All others, and with `keep` Bloom's too, stay as they
are and become the `config` of a `task: mindformers`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.config.file_kinds import refuse_other
from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import MINDFORMERS, RUN_MODES, TRAINING_MODES
from orchestrator.config.mindformers_yaml import Imported, hosts_for, import_run_yaml
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.run_yaml_keys import misspelt, refused
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import Loc, YamlFile, dotted, parse_yaml, read_source
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.families.registry import families

__all__ = ["import_any", "with_settings"]

_MODEL = ("model", "model_config")
_DEGREES = ("data_parallel", "model_parallel", "pipeline_stage", "context_parallel")
_PLACEHOLDERS = ("/path/", "path/", "/{path}", "{path}", "/your/", "your/", "/xxx", "xxx/")
_MOST_TO_DO = 20
_MOST_RANKS = 1_000_000


def import_any(
    path: Path, overrides: Sequence[str] = (), *, keep: bool = False, beside: Path | None = None
) -> Imported:
    """Read a run YAML; `overrides` are `key=value` of the job, as for a launch.

    `keep`: MindFormers itself runs it, whatever the model is. `beside` is the folder of the job file, from
    which the job names the run YAML; None: the current one. Raises ConfigError: no such file, no run YAML, or
    one that is no job, with the reason; a value that a job does not take (with its line).
    """
    raw = read_source(path)
    file = parse_yaml(str(path), raw)
    refuse_other(str(path), file.data, "run YAML of MindFormers")
    run = RunYaml(str(path), raw.decode("utf-8-sig"))
    _refuse_others(run)
    if _is_bundled(run) and not keep:
        return import_run_yaml(path, overrides)
    lines: dict[Loc, int] = {}
    job = {
        "name": re.sub(r"[^A-Za-z0-9._-]", "_", path.stem),
        **_job(run, path, beside or Path(), lines),
    }
    written = YamlFile(str(path), job, lines=lines)
    written.override(overrides)
    checked = validate(written, Job)
    answered = {assignment.partition("=")[0].strip() for assignment in overrides}
    return Imported(job, (), tuple(_to_do(with_settings(run, checked), checked, answered)))


def with_settings(run: RunYaml, job: Job) -> RunYaml:
    """The run YAML with what the job sets in it. Raises ConfigError: it cannot be set in this file."""
    made = run.copy()
    for name, value in (job.mindformers.set if job.mindformers else {}).items():
        made.set(tuple(name.split(".")), value)
    return made


def _refuse_others(run: RunYaml) -> None:
    """What has the form of a YAML of MindFormers and is no run of its trainer, or none that it could read."""
    if problems := [*refused(run)] or [*misspelt(run)]:
        raise ConfigError(problems)
    mode = run.get("run_mode")
    if mode is None and not isinstance(run.get("train_dataset"), dict):
        what = "has neither run_mode nor train_dataset: it is no run of MindFormers' trainer"
        remedy = "name MindFormers' run YAML, as run_mindformer.py takes it"
        raise ConfigError([Problem(plain(run.name), what, remedy)])
    if mode is not None and mode not in RUN_MODES:
        what, remedy = f"{show(mode)} is no job", f"{', '.join(RUN_MODES)} are"
        raise ConfigError([run.problem(("run_mode",), what, remedy)])


def _is_bundled(run: RunYaml) -> bool:
    """Whether the model is one of ours, by the name of its configuration or, without one, any other name."""
    kind = run.get(*_MODEL, "type")
    if kind is not None:
        return any(kind == family.mindformers for family in families())
    named = [run.get(*_MODEL, "model_type"), run.get("model", "arch", "type")]
    named.append(run.get("trainer", "model_name"))
    words = [name.lower() for name in named if isinstance(name, str)]
    return any(word.startswith(family.name) for word in words for family in families())


def _job(run: RunYaml, path: Path, beside: Path, lines: dict[Loc, int]) -> dict[str, Any]:
    """The job in the order of a job file; `lines` gets where each of its values comes from."""
    target = run.get("context", "device_target") or "Ascend"
    lines["device_target",] = run.line(("context", "device_target"))
    relative = os.path.relpath(path.absolute(), beside.absolute())
    ranks = _ranks(run)
    return {
        "task": MINDFORMERS,
        "hosts": "all",
        **hosts_for(ranks),
        "device_target": target,
        "mindformers": {"config": Path(relative).as_posix()},
        "networking": {"mode": "rank_table" if target == "Ascend" and ranks > 1 else "dynamic"},
    }


def _ranks(run: RunYaml) -> int:
    """By the degrees of parallelism; one device without `use_parallel`. ConfigError: no numbers."""
    if run.get("use_parallel") is not True:
        return 1
    ranks = 1
    for key in _DEGREES:
        value = run.get("parallel_config", key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            what = f"is {show(value)}, not a whole number above 0"
            raise ConfigError([run.problem(("parallel_config", key), what)])
        ranks *= value
    if ranks > _MOST_RANKS:
        raise ConfigError([run.problem(("parallel_config",), f"asks for {ranks:,} ranks")])
    return ranks


def _to_do(run: RunYaml, job: Job, answered: Collection[str]) -> Iterator[str]:
    """What a person has to fill in, by the keys of the run YAML, which has what the job sets in it.

    `answered` are the keys of the job that the person has given.
    """
    mode = (job.mindformers.run_mode if job.mindformers else None) or run.get("run_mode")
    trains = mode in (None, *TRAINING_MODES)
    folder = ("train_dataset", "data_loader", "dataset_dir")
    if trains and run.get(*folder) == "":
        yield f"{dotted(folder)}: names no data"
    found = [(loc, text) for loc, text in run.strings() if text.startswith(_PLACEHOLDERS)]
    # What an alias repeats stands where it was written first.
    first = {run.line(loc): (loc, text) for loc, text in reversed(found)}
    for loc, text in islice((first[line] for line in sorted(first)), _MOST_TO_DO):
        yield f"{dotted(loc)}: {show(text)} was not made for your hosts"
    if mode == "finetune" and not any(map(run.data.get, _LOADS)):
        yield "load_checkpoint: names nothing, so that training would start from random weights"
    if run.get("auto_trans_ckpt") and (job.host_count or 2) > 1:
        yield "auto_trans_ckpt: True needs an output folder that hosts share, and each has its own"
    is_guess = run.get("use_parallel") is True and run.get("parallel_config", "data_parallel") is None
    if is_guess and not {"host_count", "devices_per_host"} & set(answered):
        yield f"host_count: {job.host_count} is a guess, for parallel_config.data_parallel is left out"


_LOADS = ("load_checkpoint", "pretrained_model_dir", "resume_training")
