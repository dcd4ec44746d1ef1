"""What `orchestrate plan` says of a run of MindFormers: of a job, a run YAML, or a model's config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.cli.options import print_json
from orchestrator.cli.render_sizing import LABEL, estimate_view, suggestions_view
from orchestrator.cli.sizing_data import estimate_data, suggestions_data
from orchestrator.cli.terminal import Console, wrapped
from orchestrator.config.file_kinds import kind_of
from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.run_yaml_keys import misspelt
from orchestrator.config.yaml_messages import plain
from orchestrator.config.yaml_reader import YamlFile, parse_yaml, read_source, read_yaml
from orchestrator.core.errors import ConfigError, Problem, UsageError
from orchestrator.plan.mindformers_run import complete, meant
from orchestrator.plan.placement import hosts_of
from orchestrator.sizing.estimate import Estimate, estimate, size_of
from orchestrator.sizing.mindformers_workload import SizedRun, sized_run
from orchestrator.sizing.suggest import Suggestion, suggest

__all__ = ["DescribedRun", "described_run", "plan_mindformers"]

CONFIG = "config.json"
DEGREES = ("data_parallel", "model_parallel", "pipeline_stage", "context_parallel")


@dataclass(frozen=True, slots=True)
class DescribedRun:
    """A run of MindFormers: its run YAML with the values of this plan, and its model's config.json.

    `run` of a config.json alone says nothing but what the command line does. `ranks` and `ranks_per_host` are
    a job's, None where nothing says them.
    """

    name: str
    run: YamlFile
    model: YamlFile | None
    hosts: Sequence[Host] = ()
    ranks: int | None = None
    ranks_per_host: int | None = None


def described_run(
    path: Path, overrides: Sequence[str], model: Path | None, inventory: Path | None
) -> DescribedRun | None:
    """What `path` says of a run of MindFormers; None where it is another job, or nothing that is known.

    Raises ConfigError: what it names is not there or cannot be read.
    """
    try:
        file = read_yaml(path)
    except ConfigError:
        return None  # which whoever reads it as a job tells
    is_model, is_run = is_model_config(file.data), kind_of(file.data) == "run YAML of MindFormers"
    if not is_model and not is_run and file.data.get("task") != MINDFORMERS:
        return None
    known = load_inventory(inventory) if inventory is not None else None
    hosts = known.hosts if known is not None else ()
    if is_model and model is not None:
        raise UsageError(f"--config: {path} is the config.json of a model itself")
    if is_model:
        run = YamlFile(str(path))
        _override(run, overrides, RunYaml(str(path), "{}"))
        return DescribedRun(path.absolute().parent.name or path.stem, _sound(run), _sound(file), hosts)
    if is_run:
        text = read_source(path).decode("utf-8-sig")
        parsed = RunYaml(str(path), text)
        if wrong := list(misspelt(parsed)):
            raise ConfigError(wrong)
        run = _values(parsed, text)
        _override(run, overrides, parsed)
        return DescribedRun(path.stem, _sound(run), _model_of(run, path.parent, model), hosts)
    job = load_job(path, overrides)
    return _of_job(job, model, known) if job.mindformers is not None else None


def is_model_config(data: Mapping[str, Any]) -> bool:
    """Whether these are the keys of a Hugging Face config.json."""
    return isinstance(data.get("model_type"), str) and "hidden_size" in data and "task" not in data


def _override(run: YamlFile, overrides: Sequence[str], written: RunYaml) -> None:
    """Apply `--set`. Raises ConfigError: a key that neither the run YAML nor MindFormers has."""
    keys = [assignment.partition("=")[0].strip() for assignment in overrides]
    found = ((key, meant(written, tuple(key.split(".")))) for key in keys)
    if wrong := [
        Problem(f"--set {plain(key)}", f"{written.name} has no such key", close)
        for key, close in found
        if close
    ]:
        raise ConfigError(wrong)
    run.override(overrides)


def _sound(file: YamlFile) -> YamlFile:
    if file.problems:
        raise file.too_many(file.problems)
    return file


def _values(run: RunYaml, source: str) -> YamlFile:
    """What a run YAML says, as MindFormers reads it, by the lines of the file as it is."""
    return replace(parse_yaml(run.name, source.encode()), data=run.data)


def _of_job(job: Job, model: Path | None, inventory: Inventory | None) -> DescribedRun:
    """The run YAML as `launch` completes it for the job's ranks; without hosts, for those of its degrees."""
    assert job.mindformers is not None
    hosts = hosts_of(job, inventory) if inventory is not None else ()
    count = len(hosts) if inventory is not None else job.host_count
    ranks = _ranks_of_degrees(job) if count is None else count * job.devices_per_host
    completed = complete(job, ranks=ranks, device=0)
    run = _values(completed.run, completed.source)
    folder = job.path.parent if job.path is not None else Path()
    return DescribedRun(job.name, run, _model_of(run, folder, model), hosts, ranks, job.devices_per_host)


def _ranks_of_degrees(job: Job) -> int:
    """The ranks that the degrees of the run YAML mean, those of one host where there are none."""
    assert job.mindformers is not None
    path = job.local_path(job.mindformers.config)
    table = read_yaml(path).get(("parallel_config",)) if path is not None else None
    given = dict(table) if isinstance(table, dict) else {}
    for name, value in job.mindformers.set.items():
        given |= {name.removeprefix("parallel_config."): value} if name.startswith("parallel_config.") else {}
    degrees = [given[key] for key in DEGREES if isinstance(given.get(key), int) and given[key] > 0]
    return math.prod(degrees) if given.get("data_parallel") is not None else job.devices_per_host


def _model_of(run: YamlFile, folder: Path, given: Path | None) -> YamlFile | None:
    """The config.json that the run YAML stands on; None where it names none."""
    if given is not None:
        return _model_file(given)
    named = run.get(("pretrained_model_dir",))
    if named in (None, ""):
        return None
    path = folder / str(named) / CONFIG
    if not path.is_file():
        what = f"{named} has no {CONFIG} on this machine"
        remedy = f"copy it from a host, and name it: --config {CONFIG}"
        raise ConfigError([run.problem(("pretrained_model_dir",), what, remedy)])
    return _model_file(path)


def _model_file(path: Path) -> YamlFile:
    file = _sound(read_yaml(path))
    if not is_model_config(file.data):
        what = "is no config.json of a model: it has no model_type and hidden_size"
        raise ConfigError([Problem(str(path), what)])
    return file


def plan_mindformers(
    described: DescribedRun, memory: str | None, device: int | None, *, wanted: bool, as_json: bool
) -> int:
    """Print the estimate, and with `wanted` layouts that fit. Raises ConfigError where it does not fit."""
    run = described.run
    sized = sized_run(run, described.model, ranks=described.ranks, ranks_per_host=described.ranks_per_host)
    limit = _limit(run, memory, sized)
    network, workload = sized.network, sized.workload
    problems = [run.problem(("parallel_config", key), *text) for key, *text in workload.problems(network)]
    made = None if problems else estimate(network, workload)
    found: list[Suggestion] = []
    if wanted:
        if limit is None:
            what = "is missing; --suggest needs to know what a device has"
            raise ConfigError([run.problem(("context", "max_device_memory"), what, "give --memory 58GB")])
        found = suggest(network, workload, limit, hbm=device)
    if as_json:
        print_json(_data(sized, made, found, device))
    else:
        _show(described.name, sized, made, found if wanted else None, limit, device)
    if problems:
        raise ConfigError(problems)
    if made is not None and not made.fits(limit, device):
        raise ConfigError([_too_large(run, made, limit, device)])
    return 0


def _limit(run: YamlFile, memory: str | None, sized: SizedRun) -> int | None:
    text = memory if memory is not None else sized.memory
    if text is None:
        return None
    try:
        return size_of(text)
    except ValueError as error:
        where = "--memory" if memory is not None else run.where(("context", "max_device_memory"))
        raise ConfigError([Problem(where, str(error))]) from None


def _show(
    name: str,
    sized: SizedRun,
    made: Estimate | None,
    found: list[Suggestion] | None,
    limit: int | None,
    device: int | None,
) -> None:
    console = Console(soft_wrap=True, highlight=False)
    if made is not None:
        view = estimate_view(name, sized.network, sized.workload, made, limit, device, width=console.width)
        console.print(view)
        for label, note in zip(("reckoned", *[""] * len(sized.notes)), sized.notes, strict=False):
            lines = wrapped(f"{label:<{LABEL}}{note}", console.width, LABEL)
            console.print("\n".join(lines), markup=False)
    if found is not None:
        console.print(suggestions_view(sized.workload, found))
        if any(item.workload.cut.optimizer_shard for item in found):
            console.print("where DATA is above 1: with parallel.enable_parallel_optimizer: True")


def _data(
    sized: SizedRun, made: Estimate | None, found: list[Suggestion], device: int | None
) -> dict[str, Any]:
    work = sized.workload
    data: dict[str, Any] = {
        "model": sized.network.title,
        "parameters": sized.network.parameter_count,
        "layout": {
            "data_parallel": work.replicas,
            "model_parallel": work.cut.model_parallel,
            "pipeline_stage": work.cut.pipeline_stage,
            "context_parallel": work.context_parts,
        },
        "hbm": device,
        "notes": list(sized.notes),
    }
    if made is not None:
        data["estimate"] = estimate_data(made)
    if found:
        data["suggestions"] = suggestions_data(found)
    return data


def _too_large(run: YamlFile, made: Estimate, limit: int | None, device: int | None) -> Problem:
    largest, room = made.largest, limit if limit is not None else device
    assert room is not None
    if device is not None:
        room = min(room, device)
    needs = f"a rank of stage {largest.stage} needs {largest.total / 2**30:.1f} GiB"
    remedy = "orchestrate plan --suggest proposes layouts that fit"
    return run.problem(("context", "max_device_memory"), f"{needs}, there are {room / 2**30:.1f} GiB", remedy)
