"""The run YAML of MindFormers, completed for one attempt: what its keys become, what contradicts the job.

Keys and what MindFormers makes of them: mindformers/trainer/trainer.py, base_trainer.py and
core/context/build_context.py of 1.0.2 to 2.1.0.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import RUN_MODES, TRAINING_MODES, MindFormersRun
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.run_yaml_keys import known_in, misspelt, refused
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import dotted, read_source
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.plan.mindformers_layout import (
    DEGREES,
    degrees_of,
    is_auto,
    is_degree,
    layout_problems,
    model_beside,
)
from orchestrator.plan.mindformers_load import load_keys, load_words
from orchestrator.plan.run_yaml_places import Places

__all__ = ["RUN_FOLDER", "CompletedRun", "complete", "meant", "saving_callback", "trains"]

# Where an attempt's files are, from the workers' directory: the same text on hosts with other workdirs.
RUN_FOLDER = "./attempts/{number}"
_MOST_NAMED = 4
# How MindFormers spells the callback that saves: with a slip of the pen up to 1.0.
_SAVES = ("CheckpointMonitor", "CheckpointMointor")


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A run YAML as it is on the hosts, and what else the plan takes from it.

    `source` is the file as it was read. `degrees` are those of the workers' configuration: by them the
    shards are cut. `places` is where a person wrote its keys. `prefix` is the first part of the names of
    checkpoints, `saves` whether there will be any.
    """

    text: str
    source: str
    run: RunYaml
    run_mode: str
    places: Places
    degrees: dict[str, Any] = field(default_factory=dict)
    prefix: str = "CKP"
    saves: bool = False
    notes: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        return self.run_mode in TRAINING_MODES


def trains(job: Job, run_yaml: str = "") -> bool:
    """Whether the workers of a `task: mindformers` make steps; `run_yaml` is its text, where it is known."""
    if job.task != "mindformers" or job.mindformers is None:
        return False
    mode = job.mindformers.run_mode
    if mode is None:
        mode = RunYaml("", run_yaml or _source(job, job.mindformers)[1]).get("run_mode")
    return mode in (None, *TRAINING_MODES)


def complete(
    job: Job, *, ranks: int, device: int, number: int = 1, load: str = "", source: str | None = None
) -> CompletedRun:
    """The run YAML of attempt `number` on so many ranks; reads the file, unless `source` is its text.

    `device` is that of rank 0, by the number that it has to it. With `load`, the folder of shards in the
    run's directory, it goes on from them. Raises ConfigError with every problem, of the job and of the run
    YAML.
    """
    assert job.mindformers is not None
    name, text = _source(job, job.mindformers) if source is None else (_name(job, job.mindformers), source)
    run = RunYaml(name, text)
    if problems := list(refused(run)) or list(misspelt(run)):
        raise ConfigError(problems)
    places = Places(job, run.copy())
    notes = list(_settings(job, run))
    mode = _run_mode(job, run)
    ours: dict[tuple[str, ...], Any] = {("output_dir",): RUN_FOLDER.format(number=number)}
    ours[("run_mode",)] = mode
    ours[("use_parallel",)] = ranks > 1
    problems = [*_contradictions(job, run, places, mode), *_degree_problems(job, run, places, ranks)]
    if not problems and mode in TRAINING_MODES and ranks > 1:
        folder = job.path.parent if job.path else Path()
        model = model_beside(run, folder) if source is None else {}
        problems = list(layout_problems(run, places, degrees_of(run, ranks), model))
    if problems:
        raise ConfigError(problems)
    ours[("context", "device_target")] = job.device_target
    if ranks == 1:
        ours[("context", "device_id")] = device  # of several, MindFormers takes each rank's own
    if ranks > 1 and not is_auto(run):
        given = degrees_of(run, ranks)
        ours[("parallel_config", "data_parallel")] = given["data_parallel"]
    if run.get("checkpoint", "save_path"):  # of checkpoint 2.0; else it is in the output folder by itself
        ours[("checkpoint", "save_path")] = f"{RUN_FOLDER.format(number=number)}/checkpoint"
    if load:
        ours |= _going_on(run, load)
    saving = _saving(run)
    if not load and mode in TRAINING_MODES and saving is not None:
        notes += _would_go_on(run)
    notes += _set_for_attempt(run, ours)
    if mode in TRAINING_MODES and saving is None:
        anew = ", and every restart begins at step 1" if job.restart.max else ""
        notes.append(f"{name}: callbacks has no CheckpointMonitor: nothing is saved{anew}")
    return CompletedRun(
        text=run.text,
        source=text,
        run=run,
        run_mode=mode,
        places=places,
        degrees=_layout(run, ranks),
        prefix=str(run.get("checkpoint", "prefix") or (saving or {}).get("prefix") or "CKP"),
        saves=saving is not None,
        notes=tuple(map(plain, notes)),
    )


def _name(job: Job, section: MindFormersRun) -> str:
    path = job.local_path(section.config)
    return section.config if path is None else str(path)


def _source(job: Job, section: MindFormersRun) -> tuple[str, str]:
    path = job.local_path(section.config)
    where = job.where("mindformers", "config")
    if path is None:
        what = f"{section.config} must be relative to the job file"
        raise ConfigError([Problem(where, plain(what), "put the run YAML beside the job: it is read here")])
    raw = read_source(path)
    try:
        return str(path), raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(f"{path}:{line}", "is not UTF-8 text", "save it as UTF-8")]) from None


def _settings(job: Job, run: RunYaml) -> Iterator[str]:
    """Write the keys of `mindformers.set`; a note on each that changes more than itself."""
    section = job.mindformers
    assert section is not None
    problems: list[Problem] = []
    notes: list[str] = []
    for name, value in section.set.items():
        path = tuple(name.split("."))
        where = job.where("mindformers", "set", *path)
        if close := meant(run, path):
            problems.append(Problem(where, f"{run.name} has no such key", close))
            continue
        try:
            run.set(path, value)
        except ConfigError as error:
            what = error.problems[0]
            problems.append(Problem(where, plain(f"{what.where}: {what.what}"), what.remedy))
            continue
        if aliases := run.aliases_of(path):
            notes.append(f"mindformers.set.{name} has an anchor there: also for {', '.join(aliases[:4])}")
    if problems:
        raise ConfigError(problems)
    yield from notes


def meant(run: RunYaml, path: tuple[str, ...]) -> str:
    """What a key was meant to be that neither the file nor MindFormers has; "" where it may be one."""
    if run.has(*path):
        return ""
    for depth, part in enumerate(path):
        known = known_in(path[0] if depth == 1 else "") if depth < 2 else None
        table = run.get(*path[:depth]) if depth else run.data
        there = {str(key) for key in table} if isinstance(table, dict) else set()
        if part in there or (known and part in known):
            continue
        if known is None and depth == 0:
            known = frozenset()
        words = sorted(there | (known or frozenset()))
        close = difflib.get_close_matches(part, words, n=1, cutoff=0.6 if known else 0.84)
        if close:
            return f"did you mean `{'.'.join((*path[:depth], close[0]))}`?"
        if known:
            return "where MindFormers is newer and has it, write it into the run YAML"
        return ""
    return ""


def _run_mode(job: Job, run: RunYaml) -> str:
    assert job.mindformers is not None
    mode = job.mindformers.run_mode or run.get("run_mode") or "train"
    if mode not in RUN_MODES:
        what = f"is {show(mode)}, and a job runs {', '.join(RUN_MODES)}"
        raise ConfigError([run.problem(("run_mode",), what, "set mindformers.run_mode")])
    return str(mode)


def _contradictions(job: Job, run: RunYaml, places: Places, mode: str) -> Iterator[Problem]:
    target = run.get("context", "device_target")
    if target is not None and target != job.device_target:
        left_out = "" if job.says("device_target") else ", which it is where nothing is said"
        there = places.where(("context", "device_target"))
        what = f"is {job.device_target}{left_out}, but {there} is {show(target)}"
        remedy = f"write device_target: {target}" if target in ("CPU", "Ascend") else "mend the run YAML"
        yield Problem(job.where("device_target"), plain(what), plain(remedy))
    for path, callback in _callbacks(run):
        if callback.get("type") in _SAVES and callback.get("directory"):
            what = "is where checkpoints would go, and they are taken from the attempt's folder"
            yield places.problem((*path, "directory"), what, "remove it")
    if str(run.get("checkpoint", "save_path") or "").startswith("/"):
        what = "is where checkpoints would go, and they are taken from the attempt's folder"
        yield places.problem(("checkpoint", "save_path"), what, "remove it")
    resumes = run.get("resume_training")
    key = ("load_checkpoint",) if run.get("load_checkpoint") else ("checkpoint", "load_path")
    load = run.get(*key)
    if job.checkpoint.distribute:
        if load:
            what = f"is loaded, but {job.where('checkpoint', 'load')} distributes {show(job.checkpoint.load)}"
            yield places.problem(key, what, "keep one of them")
    elif resumes and not load and mode in TRAINING_MODES:
        what = "has nothing to go on from: load_checkpoint is empty, and MindFormers would begin anew"
        yield places.problem(("resume_training",), what, "name the checkpoint, or write False")


def _degree_problems(job: Job, run: RunYaml, places: Places, ranks: int) -> Iterator[Problem]:
    table = run.get("parallel_config")
    if table is not None and not isinstance(table, dict):
        what = f"expected a mapping of keys to values, got {show(table)}"
        yield places.problem(("parallel_config",), what)
        return
    degrees = degrees_of(run, ranks)
    wrong = [key for key, value in degrees.items() if not is_degree(value)]
    for key in wrong:
        what = f"expected a whole number above 0, got {show(degrees[key])}"
        yield places.problem(("parallel_config", key), what)
    if wrong:
        return
    stages = degrees["pipeline_stage"]
    if is_auto(run):
        if ranks % stages:
            what = f"pipeline_stage {stages} does not divide {ranks} ranks"
            yield places.problem(("parallel_config", "pipeline_stage"), what)
        return
    product = math.prod(degrees.values())
    if product != ranks:
        shown = " × ".join(
            f"{key} {value}" for key, value in degrees.items() if value > 1 or key in (table or ())
        )
        hosts = f"{ranks // job.devices_per_host} hosts × {job.devices_per_host} devices_per_host"
        there = " and ".join(_places_of_degrees(places))
        what = f"{hosts} = {ranks} ranks, but {there}: {shown or 'no degrees'} = {product}"
        yield Problem(job.where("devices_per_host"), plain(what), "both sides must be equal")
        return
    experts = (table or {}).get("expert_parallel")
    within = product // stages
    if is_degree(experts) and within % experts:
        what = f"{experts} does not divide the {within} ranks of a stage"
        yield places.problem(("parallel_config", "expert_parallel"), what)


def _going_on(run: RunYaml, load: str) -> dict[tuple[str, ...], Any]:
    """The keys of an attempt that goes on from its own checkpoints, which are cut as its ranks are.

    Which file each rank loads, in which format, is said once the step has been chosen.
    """
    format = (_saving(run) or {}).get("checkpoint_format") or "ckpt"
    if run.get("use_legacy") is False:
        format = "safetensors"  # whatever the callback says (base_trainer.py)
    return load_keys(run, load_words(load, resume=True, format=str(format)))


def _places_of_degrees(places: Places) -> Iterator[str]:
    """Where the degrees are written, those of the job first."""
    paths = [("parallel_config", key) for key in DEGREES]
    yield from (places.where(path) for path in paths if places.is_set(path))
    if not all(places.is_set(path) or not places.file.has(*path) for path in paths) or not any(
        map(places.is_set, paths)
    ):
        yield places.file.where(("parallel_config",))


def _set_for_attempt(run: RunYaml, ours: dict[tuple[str, ...], Any]) -> Iterator[str]:
    for path, value in ours.items():
        if others := run.set_alone(path, value):
            yield f"{dotted(path)} is set for the attempt: {_kept(others)}"


def _would_go_on(run: RunYaml) -> Iterator[str]:
    """Whether the text can be told where to go on from, else every restart would fail; what is said of it."""
    trial = RunYaml(run.name, run.text)
    for path, value in _going_on(run, "load").items():
        try:
            others = trial.set_alone(path, value)
        except ConfigError as error:
            found = error.problems[0]
            what = f"{found.what}, and an attempt that goes on needs its own {dotted(path)}"
            remedy = f"write {dotted(path[:1])} out, with a line for each key"
            raise ConfigError([Problem(found.where, plain(what), plain(remedy))]) from None
        if others:
            yield f"{dotted(path)} is set for an attempt that goes on: {_kept(others)}"


def _kept(others: tuple[str, ...]) -> str:
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return f"{', '.join(others[:_MOST_NAMED])}{more}, alias of what was there, keeps that, written out"


def _callbacks(run: RunYaml) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    callbacks = run.get("callbacks")
    for number, callback in enumerate(callbacks if isinstance(callbacks, list) else ()):
        if isinstance(callback, dict):
            yield ("callbacks", str(number)), callback


def _saving(run: RunYaml) -> dict[str, Any] | None:
    """The callback that saves."""
    found = saving_callback(run)
    return None if found is None else found[1]


def saving_callback(run: RunYaml) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """The callback that saves and the path of its keys; None where the run YAML has none."""
    return next((found for found in _callbacks(run) if found[1].get("type") in _SAVES), None)


def _layout(run: RunYaml, ranks: int) -> dict[str, Any]:
    """The degrees under a job's names; of a run that MindSpore cuts by itself, only that it has stages."""
    degrees = degrees_of(run, ranks)
    if is_auto(run):
        stages = degrees["pipeline_stage"]
        degrees |= {"data_parallel": ranks // stages, "model_parallel": 1, "context_parallel": 1}
    asked = run.get("parallel", "enable_parallel_optimizer") or run.get("parallel_config", "optimizer_shard")
    return {**degrees, "optimizer_shard": bool(asked)}
