"""The section `mindformers` of a job: which run YAML MindFormers' own trainer gets, and what starts it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from orchestrator.config.job_fields import FilePath, Text
from orchestrator.config.run_yaml_keys import known_in
from orchestrator.config.schema import Check, Section, key
from orchestrator.config.tasks import MINDFORMERS
from orchestrator.config.yaml_messages import Finding, Invalid, Loc, show
from orchestrator.config.yaml_reader import YamlFile, dotted

__all__ = [
    "MINDFORMERS",
    "RUN_MODES",
    "TRAINING_MODES",
    "MindFormersRun",
    "RunMode",
    "broken_mindformers_rules",
    "is_module",
    "overridden_by",
    "unfold_settings",
]

RunMode = Literal["train", "finetune", "eval", "predict"]
RUN_MODES: tuple[str, ...] = ("train", "finetune", "eval", "predict")
# Those in which MindFormers makes steps.
TRAINING_MODES = RUN_MODES[:2]

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PART = re.compile(r"[A-Za-z_][\w-]*|0|[1-9]\d{0,3}", re.ASCII)
_MOST_DEEP = 16
_MOST_SET = 1000

# What every attempt gets from the job or from what it is: who sets it is told where to say it.
_OURS = {
    "output_dir": ("is chosen for every attempt: ./attempts/<n>", "remove it"),
    "run_mode": ("is a key of this section", "write it as mindformers.run_mode"),
    "use_parallel": ("follows from the number of ranks", "remove it"),
    "context.device_id": ("is chosen for every rank", "remove it; the inventory has the devices"),
    "context.device_target": ("is a key of the job", "write it as device_target"),
    "local_rank": ("is chosen for every rank", "remove it"),
    "device_num": ("follows from the number of ranks", "remove it"),
}
# Options of run_mindformer.py that go before the run YAML. What every attempt sets, and what to do:
_SET = {
    "config": "write it as mindformers.config",
    "run_mode": "write it as mindformers.run_mode",
    "output_dir": "remove it: an attempt's files are in ./attempts/<n>",
    "use_parallel": "remove it",
    "device_target": "write it as device_target",
    "device_id": "remove it; the inventory has the devices",
}
# What an attempt that goes on from its own checkpoints sets otherwise.
_LOADS = (
    "load_checkpoint",
    "resume_training",
    "auto_trans_ckpt",
    "load_ckpt_format",
    "remove_redundancy",
    "src_strategy_path_or_dir",
)


def is_module(script: str) -> bool:
    """Whether a `script` is the name of a module, which Python finds, rather than of a file."""
    return _MODULE.fullmatch(script) is not None and not script.endswith(".py")


def unfold_settings(file: YamlFile) -> None:
    """Turn `set: {a.b: 1}` of a job file that was read into `{a: {b: 1}}`, so that `--set` finds its keys.

    The lines go along. Keys that are given twice are problems of the file.
    """
    where: Loc = ("mindformers", "set")
    given = file.get(where)
    if not isinstance(given, dict):
        return
    nested: dict[str, Any] = {}
    lines = {loc: line for loc, line in file.lines.items() if loc[:2] != where or loc == where}
    for loc, path, value in _leaves(given, where, ()):
        parent = _inside(nested, path[:-1])
        if parent is None or path[-1] in parent:
            file.tell(file.problem(loc, "sets what another key here sets, too", "keep one of them"))
            continue
        parent[path[-1]] = value
        for end in range(1, len(path) + 1):
            lines.setdefault((*where, *path[:end]), file.line(loc))
    file.data["mindformers"]["set"] = nested
    file.lines = lines


def _inside(table: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The mapping at a path, made where there is none; None where a value is in its place."""
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return None
        table = inner
    return table


def _settings(value: Any) -> Any:
    """`{"a.b.c": value}` of mappings in mappings."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for loc, path, item in _leaves(value, (), ()):
        if len(flat) == _MOST_SET:
            raise Invalid(f"holds more than {_MOST_SET} keys", "write them into the run YAML")
        if len(path) > _MOST_DEEP or not all(map(_PART.fullmatch, path)):
            what = f"{show(dotted(path))} is not the path of a key"
            raise Invalid(what, "write it as runner_config.epochs, or callbacks.1.save_checkpoint_steps", loc)
        flat[".".join(path)] = item
    return flat


def _leaves(
    value: Mapping[Any, Any], loc: Loc, path: tuple[str, ...]
) -> Iterator[tuple[Loc, tuple[str, ...], Any]]:
    """Where each value was written, the path of the key that it is for, and itself."""
    for name, item in value.items():
        at, parts = (*loc, name), (*path, *str(name).split("."))
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, at, parts)
        else:
            yield at, parts, item


@dataclass(frozen=True, slots=True)
class MindFormersRun(Section):
    """What MindFormers' own trainer is started with, of `task: mindformers`."""

    config: FilePath = field(
        metadata={
            "description": "run YAML of MindFormers beside the job file. It stays as it is: each attempt "
            "gets a copy, completed for it: `--dry-run` shows it"
        }
    )
    run_mode: RunMode | None = key(
        None, "what the trainer does; null: what the run YAML says, `train` where it says nothing"
    )
    script: FilePath | None = key(
        None,
        "what starts the trainer, as run_mindformer.py does with `--config` and `--run_mode`: a file beside "
        "the job file, which is sent, an absolute path on the hosts, or a module; null: a small file of "
        "orchestrate's own",
    )
    args: tuple[Text, ...] = key((), "further arguments of the script")
    set: Annotated[dict[str, Any], Check(_settings, "mapping", before=True)] = field(
        default_factory=dict,
        metadata={
            "description": "keys of the run YAML with other values: `{runner_config.epochs: 1}`; items of a "
            "list by their number: `callbacks.1.save_checkpoint_steps`"
        },
    )


def broken_mindformers_rules(run: MindFormersRun) -> Iterator[Finding]:
    """The rules between the keys of the section."""
    for name in run.set:
        for known, (what, remedy) in _OURS.items():
            if name == known or name.startswith(f"{known}."):
                yield ("mindformers", "set", *name.split(".")), what, remedy
    for index, word in enumerate(run.args):
        if found := overridden_by(word):
            yield ("mindformers", "args", index), *found
    if run.args and run.script is None:
        yield ("mindformers", "args"), "has no script that would take them", "name mindformers.script"
    if run.script is not None and run.script.endswith(".sh"):
        what = f"{show(run.script)} is of the shell, and each rank is a Python process of its own"
        remedy = "name the .py file that it starts, such as run_mindformer.py, and its further words as args"
        yield ("mindformers", "script"), what, remedy
    if not run.config.endswith((".yaml", ".yml")):
        what = f"{show(run.config)} is no YAML by its name, and MindFormers goes by the name"
        yield ("mindformers", "config"), what, "call it ….yaml"


def overridden_by(word: str) -> tuple[str, str] | None:
    """Why an argument of the script cannot be one: what it changes of the run YAML; None where nothing."""
    name = word.partition("=")[0].removeprefix("--") if word.startswith("--") else ""
    for known in (name, name.removeprefix("context.")):
        if known in _SET:
            return f"--{name} is set by the orchestrator for every attempt", _SET[known]
    # MindFormers takes --a.b for the key of the run YAML; a script's own option may have a dot, too.
    section = name.partition(".")[0]
    if name in _LOADS or (section != name and section in (known_in() or ())):
        return f"--{name} goes before the run YAML of every attempt", f"write it as mindformers.set.{name}"
    return None
