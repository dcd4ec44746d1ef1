"""What a run of MindFormers needs on its hosts: what starts it, files that its run YAML names, its argv."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path

import orchestrator.agent
from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import is_module
from orchestrator.config.yaml_messages import plain, show
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.paths import RUN_YAML
from orchestrator.plan.input_files import TAKEN, Shipment, ship_synced
from orchestrator.plan.mindformers_launch import launch_notes, launch_problems
from orchestrator.plan.mindformers_run import CompletedRun
from orchestrator.plan.run_yaml_files import NamedFile, beside, files_named
from orchestrator.plan.script_arguments import argument_problems, named_in_arguments

__all__ = ["LOG_PATH", "OUTPUT_PATH", "packages_of", "program_of", "run_environment", "ship_run"]

# MindFormers' own: where its log files are, and where everything is before it has read its run YAML.
LOG_PATH, OUTPUT_PATH = "LOG_MF_PATH", "LOCAL_DEFAULT_PATH"
_PER_HOST = "DEVICE_NUM_PER_NODE"
_START = "code/mindformers_start.py"
_MOST_FILES = 10_000


def ship_run(job: Job, completed: CompletedRun, *, resumes: bool = False) -> Shipment:
    """The shipment of a run. Raises ConfigError: a file that it names is not beside the job file, nor sent.

    A run that resumes loads what it has saved, and not what the run YAML names.
    """
    shipment = Shipment(notes=[*completed.notes, *map(plain, launch_notes(job, completed))])
    ship_synced(job, shipment)
    problems = [*launch_problems(job, completed), *_ship_script(job, shipment), *argument_problems(job)]
    for named in files_named(completed.run, completed.run_mode):
        if not (resumes and named.key in (("load_checkpoint",), ("checkpoint", "load_path"))):
            problems += _ship_named(job, completed.places.where(named.key), named, shipment)
    problems += _ship_arguments(job, shipment)
    if problems:
        raise ConfigError(problems)
    if "mindformers" not in packages_of(job):
        shipment.notes.append(
            "mindformers may come from beside the script, sync or PYTHONPATH: whether it is there, in one "
            "version, is not checked"
        )
    return shipment


def packages_of(job: Job) -> tuple[str, ...]:
    """What must be installed on every host, in one version. A source tree is none that pip knows."""
    section = job.mindformers
    script = section.script if section else None
    in_tree = script is not None and script.startswith("/")
    sent = any(posixpath.basename(posixpath.normpath(text)) == "mindformers" for text in job.sync)
    if in_tree or sent or job.env.get("PYTHONPATH"):
        return ("mindspore",)
    return ("mindspore", "mindformers")


def program_of(job: Job, completed: CompletedRun, number: int) -> tuple[str, ...]:
    """The argv of every worker, and of the scheduler."""
    section = job.mindformers
    assert section is not None
    script = section.script
    if script is None:
        start: tuple[str, ...] = (f"{{run_dir}}/{_START}",)
    elif is_module(script):
        start = ("-m", script)
    else:
        start = (script if script.startswith("/") else posixpath.normpath(script),)
    # Whole, since run_mindformer.py takes a relative one for a file beside itself.
    config = f"{{run_dir}}/attempts/{number}/{RUN_YAML}"
    words = ("--config", config, "--run_mode", completed.run_mode)
    return ("{python}", "-u", *start, *words, *section.args)


def run_environment(number: int, ranks_per_host: int) -> dict[str, str]:
    """MindFormers' own variables of attempt `number`; the job's `env` goes before them.

    Without the number of ranks per host MindFormers reckons with hosts of 8 (tools/utils.py,
    `get_device_num_per_node`): which hosts write a log of errors, and which ranks transform a checkpoint.
    """
    folder = f"{{run_dir}}/attempts/{number}"
    return {OUTPUT_PATH: folder, LOG_PATH: f"{folder}/log", _PER_HOST: str(ranks_per_host)}


def _ship_script(job: Job, shipment: Shipment) -> Iterator[Problem]:
    section = job.mindformers
    assert section is not None
    script, where = section.script, job.where("mindformers", "script")
    if script is None:
        source = Path(orchestrator.agent.__file__).with_name(posixpath.basename(_START))
        shipment.add(source, _START, where)
    elif script.startswith("/"):
        shipment.host_paths.append(script)
    elif not is_module(script):
        path = posixpath.normpath(script)
        if what := _not_ours(path):
            yield Problem(where, plain(f"{show(script)} {what}"), "put it beside the job file")
        elif path not in _sent(shipment):
            source_path = job.local_path(script)
            assert source_path is not None
            shipment.add(source_path, path, where)


def _ship_arguments(job: Job, shipment: Shipment) -> Iterator[Problem]:
    """Files that the script is to read are sent as those of the run YAML; a note on any other."""
    for named in named_in_arguments(job):
        if named.is_read:
            where = job.where("mindformers", "args", named.index)
            yield from _ship_named(job, where, NamedFile(("args",), named.text, (named.text,)), shipment)
        elif not _is_sent(posixpath.normpath(named.text), _sent(shipment)):
            shipment.notes.append(plain(_unsent(named.text, _sent(shipment))))


def _unsent(text: str, sent: Mapping[str, object]) -> str:
    name = posixpath.basename(posixpath.normpath(text))
    if _is_sent(name, sent):
        return f"mindformers.args names {text}, which sync sends as {name}: write that"
    return f"mindformers.args names {text}, which is not among the files of sync: no host gets it"


def _ship_named(job: Job, where: str, named: NamedFile, shipment: Shipment) -> Iterator[Problem]:
    if named.is_absolute:
        shipment.host_paths += [path for path in named.paths if path not in shipment.host_paths]
        return
    sent = _sent(shipment)
    path = posixpath.normpath(named.text)
    if what := _not_ours(path):
        yield Problem(where, plain(f"{show(named.text)} {what}"), "write an absolute path, of the hosts")
        return
    if all(_is_sent(posixpath.normpath(text), sent) for text in named.paths):
        return
    folder = job.path.parent if job.path else Path()
    found = beside(folder, named)
    if len(found) < len(named.paths):
        what = f"{show(named.text)} is not beside the job file"
        yield Problem(where, plain(what), "put it there, or write an absolute path, of the hosts")
        return
    for text, source in zip(named.paths, found, strict=True):
        yield from _ship_tree(source, posixpath.normpath(text), where, shipment)


def _ship_tree(source: Path, path: str, where: str, shipment: Shipment) -> Iterator[Problem]:
    if not source.is_dir():
        shipment.add(source, path, where)
        if path.endswith(".mindrecord"):  # which is two files
            other = source.with_name(f"{source.name}.db")
            if other.exists() and f"{path}.db" not in _sent(shipment):
                shipment.add(other, f"{path}.db", where)
        return
    files = sorted(one for one in source.rglob("*") if one.is_file())
    if len(files) > _MOST_FILES:
        what = f"{source} has more than {_MOST_FILES} files"
        yield Problem(where, plain(what), "put it on every host and write its absolute path")
        return
    for file in files:
        shipment.add(file, posixpath.join(path, file.relative_to(source).as_posix()), where)


def _not_ours(path: str) -> str:
    """Why a relative path cannot be one of the working directory."""
    first = path.split("/")[0]
    if first in ("..", "."):
        return "leads out of the folder of the job file" if first == ".." else "is the whole folder"
    return f"begins with {first}, a name that the run directory uses" if first in TAKEN else ""


def _sent(shipment: Shipment) -> Mapping[str, object]:
    return {item.path: item for item in shipment.inputs}


def _is_sent(path: str, sent: Mapping[str, object]) -> bool:
    return path in sent or any(other.startswith(f"{path}/") for other in sent)
