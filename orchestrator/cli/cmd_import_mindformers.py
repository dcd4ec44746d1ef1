"""`orchestrate import-mindformers FILE`"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import json_option, print_json, set_option
from orchestrator.config.file_kinds import kind_of
from orchestrator.config.job import Job
from orchestrator.config.mindformers_import import import_any, with_settings
from orchestrator.config.mindformers_yaml import Imported, job_text
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_reader import read_source, read_yaml
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.core.paths import atomic_write
from orchestrator.plan.imported_files import missing_beside

__all__ = ["command"]


@click.command("import-mindformers")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The job; default: print it."
)
@click.option(
    "--keep", is_flag=True, help="Have MindFormers itself run a Bloom, instead of the bundled model."
)
@set_option("A value of the job (data.path=/data/train.mindrecord).")
@json_option
def command(file: Path, output: Path | None, keep: bool, overrides: tuple[str, ...], as_json: bool) -> int:
    """Turn FILE, a run YAML of MindFormers, into a job; say which keys were not carried over.

    A Bloom becomes a job of the bundled model. Of all others, and with --keep of a Bloom too, FILE stays as
    it is, and the job (`task: mindformers`) names it.

    With --json the job, where it was written, what is to do and what was not carried over are data.
    """
    folder = output.parent if output is not None else Path()
    imported = _with_files(import_any(file, overrides, keep=keep, beside=folder), file, folder)
    text = job_text(imported, file.name)
    if output is not None:
        _require_free(output, file)
        output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(output, text, mode=0o644)
        click.echo(f"{output}: written; look at it with: orchestrate launch {output} --dry-run", err=True)
    if as_json:
        print_json(_data(imported, output))
    elif output is None:
        click.echo(text, nl=False)
    _tell(imported)
    return 0


def _require_free(output: Path, file: Path) -> None:
    """What was imported before may be replaced, and nothing else: least of all what is imported."""
    if not os.path.lexists(output):
        return
    if output.exists() and output.samefile(file):
        raise UsageError(f"-o {output} is the run YAML itself", remedy="name another file for the job")
    kind = None
    if output.is_file():
        with suppress(ConfigError):
            kind = kind_of(read_yaml(output).data)
    if kind != "job":
        raise UsageError(f"-o {output} is there, and is no job", remedy="name a new file, or remove it")


def _with_files(imported: Imported, path: Path, folder: Path) -> Imported:
    """With what to do about files that the run YAML names relative to where it was."""
    if "mindformers" not in imported.job:
        return imported
    job = Job.model_validate(imported.job)
    run = with_settings(RunYaml(str(path), read_source(path).decode("utf-8-sig")), job)
    mode = (job.mindformers.run_mode if job.mindformers else None) or run.get("run_mode") or "train"
    told = {line.partition(": ")[0] for line in imported.to_do}
    missing = (line for line in missing_beside(run, mode, folder) if line.partition(": ")[0] not in told)
    return replace(imported, to_do=(*imported.to_do, *missing))


def _data(imported: Imported, output: Path | None) -> dict[str, Any]:
    return {
        "path": str(output) if output is not None else None,
        "to_do": list(imported.to_do),
        "left_out": [{"key": item.key, "reason": item.reason} for item in imported.left_out],
        "job": imported.job,
    }


def _tell(imported: Imported) -> None:
    for todo in imported.to_do:
        click.echo(f"to do: {todo}", err=True)
    reasons: dict[str, list[str]] = {}
    for item in imported.left_out:
        reasons.setdefault(item.reason, []).append(item.key)
    for reason, keys in reasons.items():
        click.echo(f"not carried over: {', '.join(keys)} ({reason})", err=True)
