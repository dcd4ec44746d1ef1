"""The import of any run YAML of MindFormers: a job of its own trainer, or of the bundled model.

The bundled model takes Bloom's (`mindformers_yaml`). All others, and with `keep` Bloom's too, stay as they
are and become the `config` of a `task: mindformers`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.config.file_kinds import refuse_other
from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import MINDFORMERS, RUN_MODES
from orchestrator.config.mindformers_yaml import Imported, hosts_for, import_run_yaml
from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import Loc, YamlFile, dotted, read_yaml
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError
from orchestrator.families.registry import families

__all__ = ["import_any"]

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
    file = read_yaml(path)
    refuse_other(str(path), file.data, "run YAML of MindFormers")
    _refuse_others(file)
    if _is_bundled(file) and not keep:
        return import_run_yaml(path, overrides)
    lines: dict[Loc, int] = {}
    job = {"name": re.sub(r"[^A-Za-z0-9._-]", "_", path.stem), **_job(file, path, beside or Path(), lines)}
    written = YamlFile(str(path), job, lines=lines, problems=list(file.problems))
    written.override(overrides)
    validate(written, Job)
    return Imported(job, (), tuple(_to_do(file, job)))


def _refuse_others(file: YamlFile) -> None:
    """What has the form of a YAML of MindFormers and is no run of its trainer."""
    data = file.data
    if isinstance(data.get("training"), dict) and isinstance(data.get("parallelism"), dict):
        what = "is for MindFormers' PyNative trainer, with keys of its own"
        raise ConfigError([file.problem(("training",), what, "run it as a job of `task: command`")])
    mode = data.get("run_mode")
    if mode is None and not isinstance(data.get("train_dataset"), dict):
        what = "has neither run_mode nor train_dataset: it is no run of MindFormers' trainer"
        raise ConfigError(
            [file.problem((), what, "name MindFormers' run YAML, as run_mindformer.py takes it")]
        )
    if mode is not None and mode not in RUN_MODES:
        known = ", ".join(RUN_MODES)
        raise ConfigError([file.problem(("run_mode",), f"{show(mode)} is no job", f"{known} are")])


def _is_bundled(file: YamlFile) -> bool:
    """Whether the model is one of ours, by the name of its configuration or, without one, any other name."""
    kind = file.get((*_MODEL, "type"))
    if kind is not None:
        return any(kind == family.mindformers for family in families())
    named = [file.get((*_MODEL, "model_type")), file.get(("model", "arch", "type"))]
    named.append(file.get(("trainer", "model_name")))
    words = [name.lower() for name in named if isinstance(name, str)]
    return any(word.startswith(family.name) for word in words for family in families())


def _job(file: YamlFile, path: Path, beside: Path, lines: dict[Loc, int]) -> dict[str, Any]:
    """The job in the order of a job file; `lines` gets where each of its values comes from."""
    target = file.get(("context", "device_target")) or "Ascend"
    lines["device_target",] = file.line(("context", "device_target"))
    relative = os.path.relpath(path.absolute(), beside.absolute())
    ranks = _ranks(file)
    return {
        "task": MINDFORMERS,
        "hosts": "all",
        **hosts_for(ranks),
        "device_target": target,
        "mindformers": {"config": Path(relative).as_posix()},
        "networking": {"mode": "rank_table" if target == "Ascend" and ranks > 1 else "dynamic"},
    }


def _ranks(file: YamlFile) -> int:
    """By the degrees of parallelism; one device without `use_parallel`. ConfigError: no numbers."""
    if file.get(("use_parallel",)) is not True:
        return 1
    ranks = 1
    for key in _DEGREES:
        value = file.get(("parallel_config", key))
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            what = f"is {show(value)}, not a whole number above 0"
            raise ConfigError([file.problem(("parallel_config", key), what)])
        ranks *= value
    if ranks > _MOST_RANKS:
        raise ConfigError([file.problem(("parallel_config",), f"asks for {ranks:,} ranks")])
    return ranks


def _to_do(file: YamlFile, job: dict[str, Any]) -> Iterator[str]:
    """What a person has to fill in, by the keys of the run YAML."""
    trains = file.get(("run_mode",)) in (None, "train", "finetune")
    folder: Loc = ("train_dataset", "data_loader", "dataset_dir")
    if trains and file.get(folder) == "":
        yield f"{dotted(folder)}: names no data"
    found = [(loc, text) for loc, text in _texts(file.data, ()) if text.startswith(_PLACEHOLDERS)]
    # What an alias repeats stands where it was written first.
    first = {file.line(loc): (loc, text) for loc, text in reversed(found)}
    for loc, text in islice((first[line] for line in sorted(first)), _MOST_TO_DO):
        yield f"{dotted(loc)}: {show(text)} was not made for your hosts"
    if file.get(("run_mode",)) == "finetune" and not any(map(file.data.get, _LOADS)):
        yield "load_checkpoint: names nothing, so that training would start from random weights"
    if file.get(("use_parallel",)) is True and file.get(("parallel_config", "data_parallel")) is None:
        yield f"host_count: {job['host_count']} is a guess, for parallel_config.data_parallel is left out"


_LOADS = ("load_checkpoint", "pretrained_model_dir", "resume_training")


def _texts(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(value, str):
        yield loc, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _texts(item, (*loc, key))
