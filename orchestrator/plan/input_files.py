"""What a job ships to its hosts: code and files, each by the hash of its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.worker_config import WorkerConfig
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.core.records import Input
from orchestrator.families.registry import hub_names
from orchestrator.formats.prompts import check_prompts
from orchestrator.formats.text_records import RecordFileError, check_records
from orchestrator.formats.tokenizer_files import SUMMARY, sha256_of
from orchestrator.plan.command_files import unsent_files, unsent_script
from orchestrator.plan.files_beside import FilesBeside

__all__ = ["TAKEN", "Shipment", "ship", "ship_synced", "shipped_again"]

# What the bundled workers import: the model, and the formats and configuration that both sides share.
_CODE = (
    "model/**/*.py",
    "orchestrator/__init__.py",
    "orchestrator/core/*.py",
    "orchestrator/families/*.py",
    "orchestrator/formats/*.py",
    "orchestrator/agent/*.py",
    "orchestrator/checkpoint/**/*.py",
    "orchestrator/config/__init__.py",
    "orchestrator/config/worker_config.py",
    "orchestrator/config/schema.py",
    "orchestrator/config/tasks.py",
    "orchestrator/config/job_fields.py",
    "orchestrator/config/yaml_reader.py",
    "orchestrator/config/yaml_messages.py",
)
# The names that a run directory uses itself.
TAKEN = frozenset(
    [
        "logs",
        "metrics",
        "strategy",
        "checkpoint",
        "model",
        "inputs",
        "done",
        "code",
        "manifest.json",
        "rank_table.json",
        "worker.yaml",
        "status.json",
        "events.jsonl",
        "control.sock",
        "chat.sock",
        "answers",
        "attempts",
        "supervisor.log",
    ]
)

# What of a configuration names files that stay those of the run.
_FILES = (("data", "path"), ("data", "tokenizer"), ("model", "preset"))


@dataclass(slots=True)
class Shipment:
    """The inputs of a run, and where on the control node each content is read from.

    `settings` are the worker's configuration of an attempt that has had them.
    """

    inputs: list[Input] = field(default_factory=list)
    sources: dict[str, Path] = field(default_factory=dict)
    host_paths: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    _paths: set[str] = field(default_factory=set)

    def add(self, source: Path, path: str, where: str) -> None:
        """Raises ConfigError at `where`: the file cannot be read, another one has this path already."""
        try:
            with source.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _refusal(where, f"{source} cannot be read: {error.strerror}") from None
        if path in self._paths:
            raise _refusal(where, f"two files would be {path} on the hosts", "rename one of them")
        self._paths.add(path)
        self.inputs.append(Input(path, sha256, executable=os.access(source, os.X_OK)))
        self.sources[sha256] = source

    def refer(self, job: Job, section: str, key: str, given: str, folder: str) -> str:
        """The path as the worker will see it: shipped if it is relative, the host's own if it is absolute."""
        source = job.local_path(given)
        if source is None:
            if given not in hub_names():  # of a model's name, the workers find the files
                self.host_paths.append(given)
            return given
        self.add(source, f"inputs/{folder}/{source.name}", job.where(section, key))
        return f"inputs/{folder}/{source.name}"


def ship(job: Job, *, hosts_are_here: bool = False) -> tuple[Shipment, dict[str, object]]:
    """What the job needs on its hosts, and the worker's configuration with its paths as seen from there.

    Raises ConfigError: files that cannot be read or do not belong together, see `files_beside`.
    """
    shipment = Shipment()
    shipment.notes += _check_texts(job)
    if job.task == "command":
        ship_synced(job, shipment)
        sent = {item.path: item for item in shipment.inputs}
        if problems := list(unsent_script(job, sent)):
            raise ConfigError(problems)
        shipment.notes += unsent_files(job, sent)
        return shipment, {"task": job.task}
    for source, name in _code_files():
        shipment.add(source, f"code/{name}", name)
    config = _worker_settings(job)
    _ship_files(job, shipment, config)
    beside = FilesBeside(job, hosts_are_here)
    if problems := list(beside.problems()):
        raise ConfigError(problems)
    if beside.tokenizer is not None and isinstance(block := config.get("data"), dict):
        block["tokenizer"] = _as_seen_there(job, shipment, beside.tokenizer)
    shipment.notes += beside.notes()
    return shipment, config


def shipped_again(job: Job, shipment: Shipment) -> dict[str, Any]:
    """The worker's configuration of a job that is given what an attempt before was given. Reads no file.

    All is as the job says; where its files lie is as that attempt has seen them.
    """
    if job.task == "command":
        return {"task": job.task}
    config = _worker_settings(job)
    if isinstance(options := config.get("checkpoint"), dict):
        for key in ("copies", "distribute", "strategy"):
            options.pop(key, None)
        if options.get("load"):
            options["load"] = (shipment.settings.get("checkpoint") or {}).get("load")
    for section, key in _FILES:
        before, block = shipment.settings.get(section), config.get(section)
        if isinstance(before, Mapping) and isinstance(block, dict) and before.get(key) is not None:
            block[key] = before[key]
    return config


def _worker_settings(job: Job) -> dict[str, Any]:
    told = job.model_dump(mode="json")
    told["parallel"].pop("replicas")  # where a rank is does not matter to it
    return {item.name: told[item.name] for item in fields(WorkerConfig) if item.name in told}


def _as_seen_there(job: Job, shipment: Shipment, file: Path) -> str:
    """The path on the hosts of a tokenizer: as it is sent with the weights or the data, or where it lies."""
    known = {item.sha256: item.path for item in shipment.inputs if Path(item.path).name == file.name}
    if (sent := known.get(sha256_of(file))) is not None:
        return sent
    if job.local_path(job.checkpoint.load or "") is None and job.whole_checkpoint is None:
        there = os.path.abspath(file)  # beside weights that are on the hosts, which are this machine
        shipment.host_paths.append(there)
        return there
    shipment.add(file, f"inputs/tokenizer/{file.name}", job.where("checkpoint", "load"))
    return f"inputs/tokenizer/{file.name}"


def _check_texts(job: Job) -> list[str]:
    """A note on what is not read of the records that are here, by the readers of the workers.

    Raises ConfigError: they, or the prompts, cannot be read.
    """
    notes = []
    section, key = "data", "path"
    try:
        data = job.local_path(job.data.path) if job.data and job.data.path else None
        if job.data and data is not None and data.is_file() and data.suffix != ".mindrecord":
            unread = check_records(data, job.data.limit).words()
            notes += [plain(f"{data}: {unread}")] if unread else []
        section, key = "predict", "prompts_file"
        file = job.local_path(job.predict.prompts_file) if job.predict and job.predict.prompts_file else None
        if file is not None and file.is_file():
            check_prompts(file)
    except RecordFileError as error:
        raise _refusal(job.where(section, key), f"{error.where}: {error.what}", error.remedy) from None
    return notes


def _ship_files(job: Job, shipment: Shipment, config: dict[str, object]) -> None:
    if isinstance(block := config.get("checkpoint"), dict):
        block.pop("copies", None)  # no worker knows of them
        block.pop("strategy", None)
    references = (
        ("data", "path", "data"),
        ("data", "tokenizer", "tokenizer"),
        ("checkpoint", "load", "load"),
        ("predict", "prompts_file", "prompts"),
    )
    for section, key, folder in references:
        block = config.get(section)
        if key == "load" and isinstance(block, dict) and block.pop("distribute", False):
            # The shards themselves are put in place, and read, by `orchestrator.transfer.distribute`.
            block |= {"load": "inputs/load", "resume": bool(block["resume"])}
        elif isinstance(block, dict) and block.get(key):
            block[key] = shipment.refer(job, section, key, block[key], folder)
    preset = job.model.preset if job.model else ""
    if is_path(preset) and isinstance(model := config.get("model"), dict):
        model["preset"] = shipment.refer(job, "model", "preset", preset, "preset")
    # What collect-ckpt puts beside the weights belongs to them.
    _ship_beside(job, shipment, "load", job.checkpoint.load, ("config.yaml", "tokenizer.json"))
    if job.data and job.data.path and job.data.path.endswith(".mindrecord"):
        # MindRecord is two files; prepare-data leaves its tokenizer with them.
        shipment.refer(job, "data", "path", f"{job.data.path}.db", "data")
        names = ("tokenizer.json", f"{Path(job.data.path).name}{SUMMARY}")
        _ship_beside(job, shipment, "data", job.data.path, names)


def _ship_beside(job: Job, shipment: Shipment, folder: str, given: str | None, names: Sequence[str]) -> None:
    file = job.local_path(given) if given else None
    if folder == "load":
        file = job.whole_checkpoint or file
    if file is None:
        return
    section, key = ("checkpoint", "load") if folder == "load" else ("data", "path")
    for name in names:
        if (beside := (file if file.is_dir() else file.parent) / name).exists():
            shipment.add(beside, f"inputs/{folder}/{name}", job.where(section, key))


def ship_synced(job: Job, shipment: Shipment) -> None:
    """The files of `sync`, each under its own name. Raises ConfigError."""
    for index, given in enumerate(job.sync):
        where = job.where("sync", index)
        root = job.local_path(given)
        if root is None:
            raise _refusal(where, "must be a path relative to the job file")
        # `.` and `..` have names too.
        root = Path(os.path.abspath(root))
        files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in files:
            name = path.relative_to(root.parent)
            if name.parts[0] in TAKEN:
                raise _refusal(where, f"{name.parts[0]} is a name the run directory uses", "rename it")
            shipment.add(path, name.as_posix(), where)


def _refusal(where: str, what: str, remedy: str = "") -> ConfigError:
    return ConfigError([Problem(where, plain(what), remedy)])


def _code_files() -> Iterator[tuple[Path, str]]:
    root = Path(orchestrator.__file__).parent.parent
    for pattern in _CODE:
        for path in sorted(root.glob(pattern)):
            yield path, path.relative_to(root).as_posix()
