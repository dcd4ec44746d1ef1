"""Alpaca records -> token ids, and which records each step of each replica sees.

A record is `{"instruction", "input", "output"}`, the format of the Stanford Alpaca data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.config import BloomConfig
from model.errors import ModelError
from model.tokenizer import Tokenizer

__all__ = ["Batch", "Dataset", "Record", "encode_record", "load_records", "wrap"]

_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
PLAIN = f"{_TASK}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n"
WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. {_REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True, slots=True)
class Record:
    """One question and its answer."""

    instruction: str
    output: str
    input: str = ""


def wrap(instruction: str, input: str = "", template: str = "alpaca") -> str:
    """The prompt that stands before the answer. An empty input takes the template without one."""
    if template == "none":
        return f"{instruction}\n{input}\n" if input else f"{instruction}\n"
    # Not str.format: the texts may hold braces.
    text = WITH_INPUT if input else PLAIN
    head, tail = text.split("{instruction}")
    return head + instruction + tail.replace("{input}", input, 1)


def load_records(path: Path, limit: int | None = None) -> list[Record]:
    """The first `limit` records of a JSON list; ModelError names the first record that is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="see data.path"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"is no JSON: {error}", where=str(path)) from error
    if not isinstance(values, list) or not values:
        raise ModelError("must hold a JSON list of records", where=str(path))
    return [_record(value, f"{path}: record {index}") for index, value in enumerate(values[:limit])]


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise ModelError(f"must be a table, not {type(value).__name__}", where=where)
    for key in ("instruction", "output"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise ModelError(f"{key!r} must be a text that is not empty", where=where)
    if not isinstance(value.get("input") or "", str):
        raise ModelError("'input' must be a text", where=where)
    return Record(value["instruction"], value["output"], value.get("input") or "")


def encode_record(
    record: Record, tokenizer: Tokenizer, config: BloomConfig, *, whole: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    """ids (seq_length + 1,) int32 and weights (seq_length,) float32: 1 where the label is scored.

    Scored is the answer and the eos after it, with `whole` the prompt too. What is too long is cut off.
    None where the prompt leaves no room for an answer.
    """
    prompt = tokenizer.encode(wrap(record.instruction, record.input, config.prompt_template))
    answer = [*tokenizer.encode(record.output), config.eos_token_id]
    length = config.seq_length + 1
    if len(prompt) >= length:
        return None
    ids = np.full(length, config.pad_token_id, np.int32)
    joined = (prompt + answer)[:length]
    ids[: len(joined)] = joined
    weights = np.zeros(length - 1, np.float32)
    weights[0 if whole else len(prompt) - 1 : len(joined) - 1] = 1.0
    return ids, weights


@dataclass(frozen=True, slots=True)
class Batch:
    """One replica's part of a step; `weights` sum to 1 over the parts of all replicas."""

    tokens: np.ndarray  # (B, S) int32
    labels: np.ndarray  # (B, S) int32
    weights: np.ndarray  # (B, S) float32


class Dataset:
    """Encoded records, and the order in which the steps see them.

    Records follow each other epoch by epoch, each epoch shuffled from the seed. Step s takes the next
    `global_batch` of them, whatever data_parallel is; replica d takes the d-th part of these.
    """

    def __init__(
        self, records: Sequence[Record], tokenizer: Tokenizer, config: BloomConfig, *, whole: bool = False
    ) -> None:
        encoded = [encode_record(record, tokenizer, config, whole=whole) for record in records]
        kept = [pair for pair in encoded if pair is not None]
        self.left_out = len(encoded) - len(kept)
        if not kept:
            raise ModelError(
                f"no record leaves room for an answer in {config.seq_length} tokens",
                where="data.seq_length",
                remedy="raise it",
            )
        self.ids = np.stack([ids for ids, _ in kept])
        self.weights = np.stack([weights for _, weights in kept])

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, step: int, global_batch: int, seed: int) -> np.ndarray:
        """The records of step `step` (from 1), (global_batch,)."""
        start = (step - 1) * global_batch
        positions = np.arange(start, start + global_batch)
        return np.concatenate(list(self._epoch_parts(positions, seed)))

    def _epoch_parts(self, positions: np.ndarray, seed: int) -> Iterator[np.ndarray]:
        for epoch in range(positions[0] // len(self), positions[-1] // len(self) + 1):
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
            yield order[positions[positions // len(self) == epoch] % len(self)]

    def epoch(self, step: int, global_batch: int) -> int:
        """The epoch, from 1, to which the last record of step `step` belongs."""
        return (step * global_batch - 1) // len(self) + 1

    def batch(self, step: int, batch_size: int, seed: int, replicas: int = 1, replica: int = 0) -> Batch:
        """What replica `replica` computes in step `step`."""
        rows = self.rows(step, batch_size * replicas, seed)
        scored = float(self.weights[rows].sum(dtype=np.float64))
        part = rows[replica * batch_size : (replica + 1) * batch_size]
        ids = self.ids[part]
        weights = (self.weights[part] / scored).astype(np.float32)
        return Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]), weights)
