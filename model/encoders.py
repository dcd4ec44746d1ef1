"""Chunks of records -> sequences, on processes of their own."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.encoding import encode, has_answer
from model.pool import processes
from model.records import Document, RecordError, parse
from model.tokenizer import Tokenizer

__all__ = ["Encoded", "Encoder", "encode_chunk", "encoder_processes"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one chunk of records became."""

    records: int
    sequences: list[np.ndarray]  # none longer than a row
    bad: list[tuple[int, str]]  # index within the chunk, why
    left_out: list[int]
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

    def encode(self, values: list[Any]) -> Encoded:
        items, places, bad = [], [], []
        for index, value in enumerate(values):
            try:
                items.append(parse(value))
                places.append(index)
            except RecordError as error:
                bad.append((index, str(error)))
        sequences = encode(items, self.tokenizer, self.template, self.tokenizer.eos, whole=self.whole)
        kept, left_out, cut = [], [], 0
        for place, item, sequence in zip(places, items, sequences, strict=True):
            if not has_answer(sequence, self.length):
                left_out.append(place)
            elif self.splits and isinstance(item, Document):
                kept += np.split(sequence, range(self.length, len(sequence), self.length))
            else:
                kept.append(sequence[: self.length])
                cut += len(sequence) > self.length
        longest = max((len(sequence) for sequence in sequences), default=0)
        return Encoded(len(values), kept, bad, left_out, cut, longest)


_encoder: list[Encoder] = []  # of this process


def encoder_processes(encoder: Encoder, count: int) -> Executor:
    """Processes on which `encode_chunk` works; with 0, this one."""
    options = (encoder.template, encoder.whole, encoder.length, encoder.splits)
    return processes(count, _start, (encoder.tokenizer.to_json(), options, count > 0))


def _start(tokenizer: str, options: tuple[Any, ...], is_own_process: bool) -> None:
    # One thread each: the library's own threads, measured, made two of them slower than one.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if is_own_process:
        # The one that writes is what all wait for; where cores are few, encoders make way for it.
        os.nice(3)
    _encoder[:] = [Encoder(Tokenizer.from_json(tokenizer), *options)]


def encode_chunk(values: list[Any]) -> Encoded:
    """The work of one such process."""
    return _encoder[0].encode(values)
