"""The job file and `--set` values -> Job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.yaml_reader import MAX_TOLD, Loc, YamlFile, read_yaml
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["load_job"]


# Keys that nearly every run YAML of MindFormers has, and no job.
_OF_MINDFORMERS = (
    *(("run_mode", str), ("use_parallel", bool)),
    *(
        (key, dict)
        for key in ("runner_config", "parallel_config", "trainer", "train_dataset_task", "processor")
    ),
)


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job; `overrides` are `a.b.c=value` with YAML values.

    Raises ConfigError with every problem: `file:line: key`, or `--set key` for what an override brought in.
    """
    path = Path(path)
    file = read_yaml(path)
    if any(isinstance(file.data.get(key), kind) for key, kind in _OF_MINDFORMERS) and "task" not in file.data:
        remedy = f"orchestrate import-mindformers {path} -o job.yaml"
        raise ConfigError([Problem(str(path), "is a run YAML of MindFormers and no job", remedy)])
    file.override(overrides)
    file.as_text(("env",), ("command",), ("predict", "prompts"))
    job = validate(file, Job).attach(file, path)
    missing = list(islice(_missing_files(job, file), MAX_TOLD))
    if missing:
        raise ConfigError(missing)
    return job


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


def _files(job: Job) -> Iterator[tuple[Loc, str, bool]]:
    if job.data and job.data.path:
        yield ("data", "path"), job.data.path, False
    if job.data and job.data.tokenizer:
        yield ("data", "tokenizer"), job.data.tokenizer, False
    if job.checkpoint.load:
        # A checkpoint to distribute may be the folder of an index.
        yield ("checkpoint", "load"), job.checkpoint.load, job.checkpoint.distribute
    if job.predict and job.predict.prompts_file:
        yield ("predict", "prompts_file"), job.predict.prompts_file, False
    if job.model and is_path(job.model.preset):
        yield ("model", "preset"), job.model.preset, False
    for index, text in enumerate(job.sync):
        yield ("sync", index), text, True
