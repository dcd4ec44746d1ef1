"""From a job file and `--set` options to its model; every problem at its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, Problem
from orchestrator.job.model import Job
from orchestrator.yaml_file import KeyPath, YamlFile, parse_scalar, read_yaml

__all__ = ["load_job"]


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job; an override is `a.b.c=value`. Raises ConfigError with every problem in it."""
    file = read_yaml(path)
    if "path" in file.data:
        raise ConfigError([file.problem(("path",), "unknown key")])
    problems = [problem for override in overrides if (problem := _override(file, override))]
    if problems:
        raise ConfigError(problems)
    job = file.validate(Job, {**file.data, "path": path})
    missing = _missing_files(file, job)
    if missing:
        raise ConfigError(missing)
    return job


def _override(file: YamlFile, text: str) -> Problem | None:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        return Problem(f"--set {text}", "not KEY=VALUE", "write it like train.steps=10")
    key: KeyPath = tuple(dotted.split("."))
    block: Any = file.data
    for part in key[:-1]:
        block = block.setdefault(part, {}) if block.get(part) is not None else _new_block(block, part)
        if not isinstance(block, dict):
            return Problem(f"--set {dotted}", f"`{part}` is no block of keys")
    block[key[-1]] = parse_scalar(value)
    file.origins[key] = f"--set {dotted}"
    return None


def _new_block(block: dict[str, Any], part: str | int) -> dict[str, Any]:
    block[str(part)] = {}
    fresh: dict[str, Any] = block[str(part)]
    return fresh


def _missing_files(file: YamlFile, job: Job) -> list[Problem]:
    """Relative paths name files of the control node: they must be there now."""
    given: list[tuple[KeyPath, str | None]] = [
        (("checkpoint", "load"), job.checkpoint.load),
        *(((("sync", index)), item) for index, item in enumerate(job.sync)),
    ]
    if job.data is not None:
        given += [(("data", "path"), job.data.path), (("data", "tokenizer"), job.data.tokenizer)]
    if job.predict is not None:
        given.append((("predict", "prompts_file"), job.predict.prompts_file))
    return [
        file.problem(key, f"no such file: {job.path.parent / text}", "an absolute path means the hosts' own")
        for key, text in given
        if text is not None and not Path(text).is_absolute() and not (job.path.parent / text).exists()
    ]
