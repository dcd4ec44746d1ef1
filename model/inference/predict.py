"""Prediction: the prompts of a job, dealt out over its replicas, and their answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.config.prompt_templates import wrap
from model.config.settings import Settings, Worker
from model.errors import ModelError
from model.inference.load_model import Model, checkpoint_of, open_rank
from model.inference.sampling import Sampling

__all__ = [
    "Answer",
    "Prompt",
    "predict",
    "read_prompts",
]


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


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered prompt; `index` is its place in the job's list, `seconds` its part of the batch's."""

    index: int
    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


def predict(settings: Settings, worker: Worker, home: Path) -> Iterator[Answer]:
    """Answer this replica's prompts into `answers/rank_<r>.jsonl`, one line each as they are done.

    Replica d takes every data_parallel-th prompt from the d-th on. The ranks of a model group compute
    the same answers; the first of them writes, the others give and write none.
    """
    options = settings.predict
    checkpoint_of(settings)  # what is missing is reported before what is in the prompts
    prompts, sampling = read_prompts(options.prompts, options.prompts_file), Sampling.said_by(options)
    model, session = open_rank(settings, worker, options.batch_size)
    mine = list(enumerate(prompts))[session.place.dp :: session.strategy.data_parallel]
    answers = _answers(mine, model, sampling, options.batch_size)
    if session.place.mp > 0:
        for _ in answers:
            pass
        return
    path = home / "answers" / f"rank_{worker.rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
            file.flush()
            yield answer


def _answers(
    prompts: Sequence[tuple[int, Prompt]], model: Model, sampling: Sampling, batch: int
) -> Iterator[Answer]:
    tokenizer, template = model.tokenizer, model.config.prompt_template
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        started = time.monotonic()
        ids = [tokenizer.encode(wrap(prompt.text, prompt.input, template)) for _, prompt in part]
        news = model.generator.generate(ids, sampling)
        seconds = round((time.monotonic() - started) / len(part), 4)
        for (index, prompt), prompt_ids, new in zip(part, ids, news, strict=True):
            text = tokenizer.decode(new).strip()
            yield Answer(index, prompt.text, text, len(prompt_ids), len(new), seconds)
