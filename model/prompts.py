"""The questions of a job: those in the job itself, and those of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ModelError

__all__ = ["Prompt", "read_prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, and the context that belongs to it."""

    text: str
    input: str = ""


def read_prompts(prompts: tuple[str, ...] | None, file: str | None) -> list[Prompt]:
    """The prompts given, then those of the file: a text a line, or an object a line in a .jsonl.

    An object has `prompt`, or `instruction` and `input` as Alpaca's records do. Raises ModelError: a file
    that cannot be read, a line that is no prompt, no prompt at all.
    """
    found = [Prompt(text) for text in prompts or ()]
    if file is not None:
        found += _of_file(Path(file))
    if not found:
        remedy = "give predict.prompts or predict.prompts_file"
        raise ModelError("there are none", where=file or "predict.prompts", remedy=remedy)
    return found


def _of_file(path: Path) -> Iterator[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        remedy = "see predict.prompts_file"
        raise ModelError(f"cannot be read: {error}", where=str(path), remedy=remedy) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _object(path, number, line) if path.suffix == ".jsonl" else Prompt(line)


def _object(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}:{number}"
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise ModelError(f"is no JSON: {error}", where=where) from error
    text = record.get("prompt", record.get("instruction")) if isinstance(record, dict) else None
    context = record.get("input", "") if isinstance(record, dict) else ""
    if not isinstance(text, str) or not text.strip() or not isinstance(context, str):
        remedy = 'write {"prompt": "..."}, or instruction and input'
        raise ModelError("is no prompt", where=where, remedy=remedy)
    return Prompt(text, context)
