"""The dataset of a job: rows of token ids, the tokenizer that made them, and which rows each step sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config.settings import Settings
from model.data.encode_records import as_row, encode, has_answer, scored, texts_of
from model.data.mindrecord import SUFFIX, read_rows
from model.data.records import Item, load_records
from model.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from model.data.tokenizer_choice import check_data, choose_tokenizer, tell_template
from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "Batch",
    "Dataset",
    "encode_records",
    "load_data",
]


@dataclass(frozen=True, slots=True)
class Batch:
    """One replica's part of a step; `weights` sum to 1 over the parts of all replicas."""

    tokens: NDArray[Any]  # (B, S) int32
    labels: NDArray[Any]  # (B, S) int32
    weights: NDArray[Any]  # (B, S) float32


def encode_records(
    records: Sequence[Item], tokenizer: Tokenizer, config: NetworkConfig, *, whole: bool = False
) -> NDArray[Any]:
    """Rows (n, seq_length + 1) of the records whose prompt leaves room for an answer; see encoding.py."""
    length = config.seq_length + 1
    sequences = encode(records, tokenizer, config.prompt_template, config.eos_token_id, whole=whole)
    rows = [as_row(item, length, config.eos_token_id) for item in sequences if has_answer(item, length)]
    if not rows:
        raise ModelError(
            f"no record leaves room for an answer in {config.seq_length} tokens",
            where="data.seq_length",
            remedy="raise it",
        )
    return np.stack(rows)


class Dataset:
    """Rows, and the order in which the steps see them; `mask` as in `encoding.scored`.

    Records follow each other epoch by epoch, each epoch shuffled from the seed. Step s takes the next
    `global_batch` of them, whatever data_parallel is; replica d takes the d-th part of these.
    """

    def __init__(self, rows: NDArray[Any], eos: int, mask: str = "label") -> None:
        self.ids, self.eos, self.mask = rows, eos, mask
        # Batch by batch: the mask of everything at once would take as much memory as the rows.
        parts = [self._scored(rows[start : start + 1024]).sum(1) for start in range(0, len(rows), 1024)]
        self.counts = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.ids)

    def _scored(self, rows: NDArray[Any]) -> NDArray[Any]:
        return scored(rows, self.eos, self.mask)

    def rows(self, step: int, global_batch: int, seed: int) -> NDArray[Any]:
        """The records of step `step` (from 1), (global_batch,)."""
        start = (step - 1) * global_batch
        positions = np.arange(start, start + global_batch)
        return np.concatenate(list(self._epoch_parts(positions, seed)))

    def _epoch_parts(self, positions: NDArray[Any], seed: int) -> Iterator[NDArray[Any]]:
        for epoch in range(positions[0] // len(self), positions[-1] // len(self) + 1):
            order = np.random.default_rng([seed, epoch]).permutation(len(self))
            yield order[positions[positions // len(self) == epoch] % len(self)]

    def epoch(self, step: int, global_batch: int) -> int:
        """The epoch, from 1, to which the last record of step `step` belongs."""
        return (step * global_batch - 1) // len(self) + 1

    def batch(self, step: int, batch_size: int, seed: int, replicas: int = 1, replica: int = 0) -> Batch:
        """What replica `replica` computes in step `step`."""
        rows = self.rows(step, batch_size * replicas, seed)
        return self.take(
            rows[replica * batch_size : (replica + 1) * batch_size], int(self.counts[rows].sum())
        )

    def take(self, rows: NDArray[Any], total: int) -> Batch:
        """These records, each scored position weighing one part of `total`."""
        ids = self.ids[rows]
        weights = self._scored(ids).astype(np.float32) / max(1, total)
        ids = np.abs(ids)
        return Batch(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]), weights)


def load_data(settings: Settings, config: NetworkConfig) -> tuple[Dataset, Tokenizer]:
    """The rows of data.path and their tokenizer, see `tokenizer_choice`. Raises ModelError."""
    if settings.data.path is None:
        raise ModelError("is missing", where="data.path", remedy="name a file of records, or MindRecord")
    path = Path(settings.data.path)
    is_prepared = path.suffix == SUFFIX or path.is_dir()
    chosen = choose_tokenizer(settings, path if is_prepared else None)
    if is_prepared and chosen is not None:
        check_data(path, chosen)
        tell_template(path, config.prompt_template)
        tokenizer = load_tokenizer(chosen, config)
        rows = read_rows(path, config, settings.data.limit)
    else:
        records = load_records(path, settings.data.limit)
        if chosen is not None:
            tokenizer = load_tokenizer(chosen, config)
        else:
            tokenizer = train_tokenizer(texts_of(records, config.prompt_template), config)
        rows = encode_records(records, tokenizer, config, whole=settings.task == "pretrain")
    return Dataset(rows, config.eos_token_id, settings.train.loss_mask), tokenizer
