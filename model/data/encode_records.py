"""Records to sequences of token ids as MindFormers keeps them, in this process or side by side in others.

A sequence is a signed array: the ids of a prompt are negative, which masks them; then the answer and its eos.
A row is a sequence of one more than `seq_length` ids, cut or filled up with eos.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.config.prompt_templates import conversation
from model.data.records import Document, Item, Record, RecordError
from model.data.tokenizer import Tokenizer
from model.errors import ModelError

__all__ = [
    "Encoded",
    "Encoder",
    "Here",
    "as_row",
    "encode",
    "encode_chunk",
    "encoder_processes",
    "has_answer",
    "in_order",
    "processes",
    "result_of",
    "scored",
    "texts_of",
]

Result = TypeVar("Result")


class Here(Executor):
    """Does the work at once, in this process."""

    def __init__(self, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        start(*arguments)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(count: int, start: Callable[..., None], arguments: tuple[Any, ...]) -> Executor:
    """`count` fresh processes, each of which calls `start` first; with 0, this one."""
    if count == 0:
        return Here(start, arguments)
    # Not fork: threads of MindSpore and of the tokenizer do not survive one.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_start_process, initargs=(start, arguments))


def _start_process(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    start(*arguments)


def in_order(
    executor: Executor, work: Callable[[Any], Result], items: Iterable[Any], ahead: int
) -> Iterator[Result]:
    """`map` that takes no more than `ahead` items before their results are taken."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(work, item))
        if len(waiting) > ahead:
            yield result_of(waiting.popleft())
    while waiting:
        yield result_of(waiting.popleft())


def result_of(future: Future[Result]) -> Result:
    """Its result; ModelError where its process is gone."""
    try:
        return future.result()
    except BrokenExecutor as error:
        raise ModelError("a worker process died", remedy="is there memory enough? see --workers") from error


def prompt_of(record: Record, template: str) -> str:
    """The text that stands before a record's answer."""
    return conversation(record.history, record.instruction, record.input, template)


def texts_of(items: Iterable[Item], template: str) -> Iterator[str]:
    """Each record as one text, for training a tokenizer."""
    for item in items:
        if isinstance(item, Document):
            yield item.text
        else:
            yield prompt_of(item, template) + item.output


def encode(
    items: Sequence[Item], tokenizer: Tokenizer, template: str, eos: int, *, whole: bool = False
) -> list[NDArray[Any]]:
    """One int32 sequence a record, uncut; with `whole` the prompt is not masked."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, Document):
            texts += ["", item.text]
        else:
            texts += [prompt_of(item, template), item.output]
    ids = tokenizer.encode_batch(texts)
    sequences = []
    for prompt, answer in zip(ids[::2], ids[1::2], strict=True):
        sequence = np.array([*prompt, *answer, eos], np.int32)
        if not whole:
            sequence[: len(prompt)] *= -1
        sequences.append(sequence)
    return sequences


def has_answer(sequence: NDArray[Any], length: int) -> bool:
    """Whether a row of `length` ids would hold anything to learn."""
    return bool((sequence[1:length] > 0).any())


def as_row(sequence: NDArray[Any], length: int, eos: int) -> NDArray[Any]:
    """Cut to `length` ids, or filled up with eos to it."""
    row = np.full(length, eos, np.int32)
    row[: len(sequence)] = sequence[:length]
    return row


def scored(rows: NDArray[Any], eos: int, mask: str = "label") -> NDArray[np.bool_]:
    """Which positions the loss counts, (n, S) bool of rows (n, S + 1).

    "input" is MindFormers' rule: a position counts by its own token, which must be positive and not eos; so
    the first token of an answer, which the prompt's last one predicts, does not. "label" goes by the token
    that is to be predicted, so it does.
    """
    token, label = rows[:, :-1], rows[:, 1:]
    return np.asarray((np.abs(token) != eos) & ((token if mask == "input" else label) > 0))


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one chunk of records became."""

    records: int
    sequences: list[NDArray[Any]]  # none longer than a row
    bad: list[tuple[int, str]]  # index within the chunk, why
    skipped: list[int]
    cut: int
    longest: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """How chunks of records are encoded; with `splits` a long document becomes several sequences."""

    tokenizer: Tokenizer
    template: str
    whole: bool
    length: int
    splits: bool

    def encode(self, values: list[Item | RecordError]) -> Encoded:
        items: list[Item] = []
        places, bad = [], []
        for index, value in enumerate(values):
            if isinstance(value, RecordError):
                bad.append((index, str(value)))
            else:
                items.append(value)
                places.append(index)
        sequences = encode(items, self.tokenizer, self.template, self.tokenizer.eos, whole=self.whole)
        kept, skipped, cut = [], [], 0
        for place, item, sequence in zip(places, items, sequences, strict=True):
            if not has_answer(sequence, self.length):
                skipped.append(place)
            elif self.splits and isinstance(item, Document):
                kept += np.split(sequence, range(self.length, len(sequence), self.length))
            else:
                kept.append(sequence[: self.length])
                cut += len(sequence) > self.length
        longest = max((len(sequence) for sequence in sequences), default=0)
        return Encoded(len(values), kept, bad, skipped, cut, longest)


_encoder: list[Encoder] = []  # of this process


def encoder_processes(encoder: Encoder, count: int) -> Executor:
    """Processes on which `encode_chunk` works; with 0, this one."""
    options = (encoder.template, encoder.whole, encoder.length, encoder.splits)
    return processes(count, _start_encoder, (encoder.tokenizer.to_json(), options, count > 0))


def _start_encoder(tokenizer: str, options: tuple[Any, ...], is_own_process: bool) -> None:
    # One thread each: the library's own threads, measured, made two of them slower than one.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if is_own_process:
        # The one that writes is what all wait for; where cores are few, encoders make way for it.
        os.nice(3)
    _encoder[:] = [Encoder(Tokenizer.from_json(tokenizer), *options)]


def encode_chunk(values: list[Item | RecordError]) -> Encoded:
    """The work of one such process."""
    return _encoder[0].encode(values)
