"""Prediction: the prompts of a job, dealt out over its replicas, and their answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.config.prompt_templates import conversation
from model.config.settings import Settings, Worker
from model.data.records import Prompt, load_prompts
from model.errors import ModelError
from model.inference.load_model import Model, checkpoint_of, open_rank
from model.inference.sampling import Sampling
from model.phases import Phase, Phases

__all__ = [
    "Answer",
    "predict",
    "read_prompts",
]


def read_prompts(prompts: tuple[str, ...] | None, file: str | None) -> list[Prompt]:
    """The prompts given, then those of the file, see `formats.prompts`.

    Raises ModelError: a file that cannot be read, what is no prompt, no prompt at all.
    """
    found = [Prompt(text) for text in prompts or ()]
    if file is not None:
        found += load_prompts(Path(file))
    if not found:
        remedy = "give predict.prompts or predict.prompts_file"
        raise ModelError("there are none", where=file or "predict.prompts", remedy=remedy)
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered prompt; `index` is its place in the job's list, `seconds` its part of the batch's."""

    index: int
    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


def predict(settings: Settings, worker: Worker, home: Path, phases: Phases) -> Iterator[Answer]:
    """Answer this replica's prompts into `answers/rank_<r>.jsonl`, one line each as they are done.

    Replica d takes every data_parallel-th prompt from the d-th on. The ranks of a model group compute
    the same answers; the first of them writes, the others give and write none.
    """
    phases.enter(Phase.INIT)
    options = settings.predict
    checkpoint_of(settings)  # what is missing is reported before what is in the prompts
    prompts, sampling = read_prompts(options.prompts, options.prompts_file), Sampling.said_by(options)
    model, session = open_rank(settings, worker, options.batch_size)
    mine = list(enumerate(prompts))[session.place.dp :: session.strategy.data_parallel]
    answers = _answers(mine, model, sampling, options.batch_size, phases)
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
    prompts: Sequence[tuple[int, Prompt]], model: Model, sampling: Sampling, batch: int, phases: Phases
) -> Iterator[Answer]:
    tokenizer, template = model.tokenizer, model.config.prompt_template
    for start in range(0, len(prompts), batch):
        # The first answers compile. Every later batch says that it has begun: these are no steps.
        phases.enter(Phase.EVALUATE if start else Phase.COMPILE)
        part = prompts[start : start + batch]
        started = time.monotonic()
        texts = [conversation(prompt.history, prompt.text, prompt.input, template) for _, prompt in part]
        ids = tokenizer.encode_batch(texts)
        news = model.generator.generate(ids, sampling)
        seconds = round((time.monotonic() - started) / len(part), 4)
        for (index, prompt), prompt_ids, new in zip(part, ids, news, strict=True):
            text = tokenizer.decode(new)  # blanks and all: they are the model's
            yield Answer(index, prompt.text, text, len(prompt_ids), len(new), seconds)
