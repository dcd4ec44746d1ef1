"""Files and folders that a run YAML of MindFormers names: which are sent along, which must be on every host.

A relative one is looked for beside the job file and goes into the working directory under its own name, so
that the run YAML need not change. The keys are those of the loaders, tokenizers and checkpoints of
MindFormers 1.0 to 2.1; what its run writes (`output_dir`, graphs, profiles) is no business of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.mindformers_job import TRAINING_MODES
from orchestrator.config.run_yaml import RunYaml

__all__ = ["NamedFile", "files_named"]

# Keys at the top of the file; those that may be a name of a hub, or of MindFormers' list, are taken for
# files only where they look like it.
_TOP = ("load_checkpoint", "pretrained_model_dir", "src_strategy_path_or_dir")
_OF_DATA = (
    "dataset_dir",
    "data_path",
    "data_files",
    "path",
    "annotation_file",
    "vocab_file",
    "tokenizer_file",
)
_OF_TOKENIZER = ("vocab_file", "merges_file", "tokenizer_file", "tokenizer_path", "tokenizer_dir")
_MAY_BE_NAME = frozenset(
    {"load_checkpoint", "load_path", "pretrained_model_dir", "path", "checkpoint_name_or_path"}
)
# Data of Megatron: two files, named by what they have in common.
_PREFIX = "data_path"
_PAIR = (".bin", ".idx")
_SUFFIXES = (".ckpt", ".safetensors", ".mindrecord", ".json", ".jsonl", ".yaml", ".model", ".bin")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A path as the run YAML has it, and where; `paths` are the files that it stands for."""

    key: tuple[str, ...]
    text: str
    paths: tuple[str, ...]

    @property
    def is_absolute(self) -> bool:
        return self.text.startswith("/")


def files_named(run: RunYaml, mode: str) -> Iterator[NamedFile]:
    """Each once: those that a run in this mode reads."""
    seen = set()
    for key, text in run.strings():
        if text in seen or not text or text.startswith("~") or "://" in text or not _is_read(run, key, mode):
            continue
        if key[-1] in _MAY_BE_NAME and not looks_like_path(text):
            continue
        seen.add(text)
        pair = _PREFIX in key[-2:] and not text.endswith(_SUFFIXES)
        yield NamedFile(key, text, tuple(text + end for end in _PAIR) if pair else (text,))


def looks_like_path(text: str) -> bool:
    """Whether it is no `name` and no `owner/name` of a hub."""
    return text.startswith(("/", "./", "../")) or text.count("/") > 1 or text.endswith(_SUFFIXES)


def _is_read(run: RunYaml, key: tuple[str, ...], mode: str) -> bool:
    top, last = key[0], key[-1]
    if len(key) == 1:
        return top in _TOP
    if key == ("checkpoint", "load_path"):
        return True
    name = last if not last.isdecimal() else key[-2]
    if top in ("train_dataset", "train_dataset_task"):
        return mode in TRAINING_MODES and name in _OF_DATA and not _is_ratio(key, run)
    if top in ("eval_dataset", "eval_dataset_task"):
        return (mode == "eval" or bool(run.get("do_eval"))) and name in _OF_DATA and not _is_ratio(key, run)
    if top == "processor":
        return mode in ("predict", "eval") and name in _OF_TOKENIZER
    if top == "context":
        return name == "parallel_speed_up_json_path"
    return key == ("model", "model_config", "checkpoint_name_or_path") and mode != "train"


def _is_ratio(key: tuple[str, ...], run: RunYaml) -> bool:
    """Megatron's lists of data have a weight before each path, as a number or as text."""
    if key[-1].isdecimal() and key[-2] == _PREFIX:
        try:
            float(run.get(*key))
        except (TypeError, ValueError):
            return False
        return True
    return False


def beside(folder: Path, named: NamedFile) -> list[Path]:
    """The files that a relative path stands for, on this machine; those that are not there are left out."""
    found = []
    for text in named.paths:
        path = Path(os.path.normpath(folder / text))
        try:
            if path.exists():
                found.append(path)
        except (OSError, ValueError):
            continue
    return found
