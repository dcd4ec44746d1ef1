"""Arguments of a script of MindFormers as argparse reads them: which options they are, which files they name.

An option may be abbreviated to any beginning that no other one has (docs.python.org/3/library/argparse.html,
"Argument abbreviations"). The options are those that the script declares, else those of MindFormers'
run_mindformer.py, where pairs behind `--options`, and options that it does not know, go before the run YAML.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import is_module, overridden_by
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import Problem

__all__ = ["NamedPath", "argument_problems", "named_in_arguments"]

_WORDS = """
    --config --mode --device_id --device_target --run_mode --do_eval --train_dataset_dir --eval_dataset_dir
    --predict_data --modal_type --predict_batch_size --adapter_id --load_checkpoint --src_strategy_path_or_dir
    --auto_trans_ckpt --transform_process_num --only_save_strategy --resume_training
    --strategy_load_checkpoint --remote_save_url --seed --use_parallel --profile --options --epochs
    --batch_size --gradient_accumulation_steps --sink_mode --num_samples --output_dir --register_path --help
"""
_OF_MINDFORMERS = frozenset(_WORDS.split())
_PAIRS = "--options"
# Those whose values are files or folders that are read.
_READ = frozenset(
    {"--train_dataset_dir", "--eval_dataset_dir", "--register_path", "--strategy_load_checkpoint"}
)
_BESIDE_SCRIPT = "--register_path"  # a relative one is of the script's folder
_LARGEST = 1 << 20


def argument_problems(job: Job) -> Iterator[Problem]:
    """Arguments by which a script would change what the orchestrator has set, though it does not look so.

    Those that are written in full are refused as the job is read.
    """
    assert job.mindformers is not None
    options = _options(job)
    option = ""
    for index, word in enumerate(job.mindformers.args):
        where = job.where("mindformers", "args", index)
        if word == "--":
            return
        if not word.startswith("--"):
            found = overridden_by(f"--{word}") if option == _PAIRS and "=" in word else None
            if found:
                yield Problem(
                    where, plain(f"{word.partition('=')[0]} behind --options: {found[0]}"), found[1]
                )
            continue
        name = word.partition("=")[0]
        meant = _meant(name, options)
        option = meant[0] if len(meant) == 1 else name
        ours = [(each, found) for each in meant if each != name and (found := overridden_by(each))]
        if ours and len(meant) > 1:
            what = f"{name} may be {', '.join(meant)}, and the script would not start"
            yield Problem(where, plain(what), "write it in full")
        elif ours:
            [(_, (what, remedy))] = ours
            yield Problem(where, plain(f"{name} is short for an option: {what}"), remedy)


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A file or folder that an argument names, as seen from the workers' directory.

    `is_read`: the script reads it, by the option that it is the value of; of others nobody knows.
    """

    index: int
    text: str
    is_read: bool


def named_in_arguments(job: Job) -> Iterator[NamedPath]:
    """What the values of MindFormers' own options name, and what else is there beside the job file."""
    assert job.mindformers is not None
    options, option = _options(job), ""
    for index, word in enumerate(job.mindformers.args):
        value = word
        if word.startswith("--"):
            name, _, value = word.partition("=")
            meant = _meant(name, options)
            option = meant[0] if len(meant) == 1 else name
        elif option == _PAIRS:
            value = word.partition("=")[2]
        if not value or "://" in value or value.startswith("~"):
            continue
        if option in _READ:
            if (path := _from_workers(job, option, value)) is not None:
                yield NamedPath(index, path, True)
            option = ""
        elif _is_beside(job, value):
            yield NamedPath(index, value, False)


def _from_workers(job: Job, option: str, value: str) -> str | None:
    """A path from the workers' directory; None where it is not known here."""
    assert job.mindformers is not None
    script = job.mindformers.script or ""
    if value.startswith("/") or option != _BESIDE_SCRIPT:
        return value
    return None if is_module(script) else posixpath.join(posixpath.dirname(script), value)


def _meant(name: str, options: frozenset[str]) -> list[str]:
    """The options that argparse takes a word for: itself, else all that begin so."""
    if name in options or len(name) < len("--x"):
        return [name]
    return sorted(each for each in options if each.startswith(name)) or [name]


def _options(job: Job) -> frozenset[str]:
    """The options of the script: what it declares, where it is here and declares all that it is given."""
    assert job.mindformers is not None
    script = job.mindformers.script
    path = job.local_path(script) if script is not None and script.endswith(".py") else None
    try:
        if path is None or path.stat().st_size > _LARGEST:
            return _OF_MINDFORMERS
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return _OF_MINDFORMERS
    declared: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if any(_is_false(each) for each in node.keywords):
            return frozenset()  # allow_abbrev=False: a word is what it says
        if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            declared.update(each for each in words if isinstance(each, str) and each.startswith("--"))
    return frozenset(declared) if "--config" in declared else frozenset(declared | _OF_MINDFORMERS)


def _is_false(given: ast.keyword) -> bool:
    return (
        given.arg == "allow_abbrev" and isinstance(given.value, ast.Constant) and given.value.value is False
    )


def _is_beside(job: Job, text: str) -> bool:
    """Whether a relative path is there beside the job file."""
    path = job.local_path(text) if text else None
    try:
        return path is not None and path.exists()
    except (OSError, ValueError):
        return False
