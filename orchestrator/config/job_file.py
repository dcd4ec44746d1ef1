"""The job file and `--set` values -> Job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from orchestrator.config.file_kinds import refuse_other
from orchestrator.config.inventory_hostfile import as_lines, is_hostfile
from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.mindformers_job import is_module, unfold_settings
from orchestrator.config.run_terms import JobSource
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import MAX_TOLD, Loc, YamlFile, parse_yaml, read_source
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["load_job", "load_job_again"]


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job; `overrides` are `a.b.c=value` with YAML values.

    Raises ConfigError with every problem: `file:line: key`, or `--set key` for what an override brought in.
    """
    path = Path(path)
    raw = read_source(path)
    source = JobSource(path.absolute(), raw.decode("utf-8-sig", "replace"), tuple(overrides))
    return _checked(_parsed(path, raw), path, source)


def load_job_again(source: JobSource, overrides: Sequence[str] = (), *, needs_files: bool = True) -> Job:
    """The job of a run as it was launched, with further `overrides`. Raises what `load_job` does.

    The files that it names are those that are there now, relative to where it was; without `needs_files` they
    may be gone.
    """
    file = parse_yaml(str(source.path), source.text.encode())
    again = replace(source, overrides=(*source.overrides, *overrides))
    return _checked(file, source.path, again, needs_files)


def _checked(file: YamlFile, path: Path, source: JobSource, needs_files: bool = True) -> Job:
    refuse_other(str(path), file.data, "job")
    unfold_settings(file)
    file.override(source.overrides)
    file.as_text(("env",), ("command",), ("predict", "prompts"))
    job = validate(file, Job).attach(file, path, source)
    found = chain(_missing_files(job, file), _file_as_module(job, file))
    missing = list(islice(found, MAX_TOLD)) if needs_files else []
    if missing:
        raise ConfigError(missing)
    return job


def _parsed(path: Path, raw: bytes) -> YamlFile:
    try:
        return parse_yaml(str(path), raw)
    except ConfigError:
        if not is_hostfile(as_lines(raw.decode("utf-8-sig", "replace"))):
            raise
        remedy = f"name the job here, and the servers with -i {path}"
        raise ConfigError([Problem(plain(str(path)), "is a hostfile and no job", plain(remedy))]) from None


def _missing_files(job: Job, file: YamlFile) -> Iterator[Problem]:
    """Files of this machine that are not there; those on the hosts are probed later."""
    for loc, text, may_be_folder in _files(job):
        local = job.whole_checkpoint if loc == ("checkpoint", "load") else None
        local = local or job.local_path(text)
        if local is None:
            continue
        try:
            is_there, is_folder = local.exists(), local.is_dir()
        except OSError as error:
            yield file.problem(loc, f"{local} cannot be read: {error.strerror}")
            continue
        if not is_there:
            remedy = "relative paths start at the job file; absolute ones are looked for on the hosts"
            yield file.problem(loc, f"no such file {local}", remedy)
        elif is_folder and not may_be_folder:
            yield file.problem(loc, f"{local} is a folder, not a file")


def _file_as_module(job: Job, file: YamlFile) -> Iterator[Problem]:
    """A script that Python would look for as a module, and that lies beside the job as a file."""
    script = job.mindformers.script if job.mindformers is not None else None
    if script is None or not is_module(script):
        return
    for name in (script, f"{script}.py"):
        local = job.local_path(name)
        if local is not None and os.path.isfile(local):  # False for what no system could name, too
            what = f"{show(script)} is the name of a module, but {name} lies beside the job file"
            remedy = f"write ./{name}, or move the file" if name == script else f"write {name}"
            yield file.problem(("mindformers", "script"), what, remedy)
            return


def _files(job: Job) -> Iterator[tuple[Loc, str, bool]]:
    if job.data and job.data.path:
        yield ("data", "path"), job.data.path, False
    if job.data and job.data.tokenizer:
        yield ("data", "tokenizer"), job.data.tokenizer, False
    if job.checkpoint.load:
        # A checkpoint to distribute may be the folder of an index.
        yield ("checkpoint", "load"), job.checkpoint.load, job.checkpoint.distribute
    if job.checkpoint.strategy:
        yield ("checkpoint", "strategy"), job.checkpoint.strategy, True
    if job.predict and job.predict.prompts_file:
        yield ("predict", "prompts_file"), job.predict.prompts_file, False
    if (run := job.mindformers) is not None:
        yield ("mindformers", "config"), run.config, False
        if run.script is not None and not is_module(run.script):
            yield ("mindformers", "script"), run.script, False
    if job.model and is_path(job.model.preset):
        yield ("model", "preset"), job.model.preset, False
    for index, text in enumerate(job.sync):
        yield ("sync", index), text, True
