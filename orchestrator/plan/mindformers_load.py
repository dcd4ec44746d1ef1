"""How a run YAML of MindFormers is told what to load: the one place that knows its keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.config.run_yaml import RunYaml

__all__ = ["load_keys", "load_words", "pointed"]


def load_words(
    folder: str, *, resume: bool | str, format: str | None = None, needs_all: bool = False
) -> dict[str, Any]:
    """What the run YAML says for it to load from a folder of the run's directory.

    `resume`: the file that rank 0 goes on from, True where the folder itself tells it, False for weights
    alone. `format` is that of the ranks' files, None of a checkpoint 2.0; `needs_all`: they leave out what
    other ranks have saved.
    """
    words = {"load_checkpoint": f"./{folder}", "resume_training": resume, "auto_trans_ckpt": False}
    if format is not None:
        words |= {"load_ckpt_format": format, "remove_redundancy": needs_all}
    return words


def load_keys(run: RunYaml, words: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The keys of this run YAML that have to say so, for `words` as `load_words` gives them.

    Nothing is transformed, so that strategies that it names would only be looked for in vain. A section
    `checkpoint`, of checkpoint 2.0, goes before the keys at the top, and is told, too.
    """
    keys: dict[tuple[str, ...], Any] = {(key,): value for key, value in words.items()}
    if "load_checkpoint" not in words:
        return keys
    if run.get("src_strategy_path_or_dir"):
        keys[("src_strategy_path_or_dir",)] = ""
    if isinstance(run.get("checkpoint"), dict):
        keys[("checkpoint", "load_path")] = words["load_checkpoint"]
        keys[("checkpoint", "no_load_optim")] = not words["resume_training"]
    return keys


def pointed(text: str, words: Mapping[str, Any]) -> str:
    """The text of a run YAML with these words; all other keys say what they did.

    ConfigError: it is written in a way that cannot be changed in place.
    """
    run = RunYaml("mindformers.yaml", text)
    for path, value in load_keys(run, words).items():
        run.set_alone(path, value)
    return run.text
