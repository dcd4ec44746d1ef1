"""Records -> sequences of token ids as MindFormers keeps them, and which positions the loss counts.

A sequence is a signed array: the ids of a prompt are negative, which masks them; then the answer and its eos.
A row is a sequence of one more than `seq_length` ids, cut or filled up with eos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from model.records import Document, Item
from model.templates import wrap
from model.tokenizer import Tokenizer

__all__ = ["as_row", "encode", "has_answer", "scored", "texts_of"]


def texts_of(items: Iterable[Item], template: str) -> Iterator[str]:
    """Each record as one text, for training a tokenizer."""
    for item in items:
        if isinstance(item, Document):
            yield item.text
        else:
            yield wrap(item.instruction, item.input, template) + item.output


def encode(
    items: Sequence[Item], tokenizer: Tokenizer, template: str, eos: int, *, whole: bool = False
) -> list[np.ndarray]:
    """One int32 sequence a record, uncut; with `whole` the prompt is not masked."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, Document):
            texts += ["", item.text]
        else:
            texts += [wrap(item.instruction, item.input, template), item.output]
    ids = tokenizer.encode_batch(texts)
    sequences = []
    for prompt, answer in zip(ids[::2], ids[1::2], strict=True):
        sequence = np.array([*prompt, *answer, eos], np.int32)
        if not whole:
            sequence[: len(prompt)] *= -1
        sequences.append(sequence)
    return sequences


def has_answer(sequence: np.ndarray, length: int) -> bool:
    """Whether a row of `length` ids would hold anything to learn."""
    return bool((sequence[1:length] > 0).any())


def as_row(sequence: np.ndarray, length: int, eos: int) -> np.ndarray:
    """Cut to `length` ids, or filled up with eos to it."""
    row = np.full(length, eos, np.int32)
    row[: len(sequence)] = sequence[:length]
    return row


def scored(rows: np.ndarray, eos: int, mask: str = "label") -> np.ndarray:
    """Which positions the loss counts, (n, S) bool of rows (n, S + 1).

    "input" is MindFormers' rule: a position counts by its own token, which must be positive and not eos; so
    the first token of an answer, which the prompt's last one predicts, does not. "label" goes by the token
    that is to be predicted, so it does.
    """
    told, label = rows[:, :-1], rows[:, 1:]
    return (np.abs(told) != eos) & ((told if mask == "input" else label) > 0)
