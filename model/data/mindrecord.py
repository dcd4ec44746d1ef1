"""MindRecord files of token ids, with the schema of MindFormers' make_mindrecord.py: `input_ids`, int64.

A file has a `.db` beside it and knows its own name: both may be moved to another folder, not renamed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
import numpy as np
from mindspore.mindrecord import FileWriter
from mindspore.mindrecord.common.exceptions import MindRecordException
from numpy.typing import NDArray

from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig

__all__ = ["SUFFIX", "RowWriter", "files_of", "read_rows"]

SUFFIX = ".mindrecord"
COLUMN = "input_ids"
# One call a row costs six times as much.
ROWS_AT_ONCE = 256


class RowWriter:
    """One new file; it can be read after `commit`."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._writer = FileWriter(str(path), shard_num=1)
        self._writer.add_schema({COLUMN: {"type": "int64", "shape": [-1]}}, "lm-schema")

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows (n, length) of signed ids."""
        with _mapped(self.path, "cannot be written"):
            for start in range(0, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE].astype(np.int64)
                self._writer.write_raw_data([{COLUMN: row} for row in part])
        self.rows += len(rows)

    def commit(self) -> None:
        """Write the index; nothing can be appended any more."""
        with _mapped(self.path, "cannot be written"):
            self._writer.commit()


def files_of(path: Path) -> list[Path]:
    """The file itself, or those of a folder in the order of their names; ModelError where there is none."""
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise ModelError(f"holds no {SUFFIX} file", where=str(path), remedy="see data.path")
    for file in files:
        for needed in (file, file.with_name(f"{file.name}.db")):
            if not needed.is_file():
                raise ModelError("there is no such file", where=str(needed), remedy="see data.path")
    return files


def read_rows(path: Path, config: NetworkConfig, limit: int | None = None) -> NDArray[np.int32]:
    """The rows (n, seq_length + 1) int32 of a file or folder, in their order; the first `limit` of them.

    ModelError where rows are of another length or hold ids that the vocabulary has not.
    """
    found: list[NDArray[np.int32]] = []
    held = 0
    for file in files_of(path):
        for rows in _batches(file):
            _check(rows, held, file, config)
            found.append(rows.astype(np.int32))
            held += len(rows)
            if limit is not None and held >= limit:
                break
        if limit is not None and held >= limit:
            break
    if not held:
        raise ModelError("holds no record", where=str(path), remedy="see data.path")
    return np.concatenate(found)[:limit]


def _batches(file: Path) -> Iterator[NDArray[Any]]:
    with _mapped(file, "cannot be read as MindRecord"):
        rows = ds.MindDataset([str(file)], columns_list=[COLUMN], shuffle=False).batch(512)
        for item in rows.create_dict_iterator(num_epochs=1, output_numpy=True):
            yield item[COLUMN]


def _check(rows: NDArray[Any], first: int, file: Path, config: NetworkConfig) -> None:
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise ModelError(f"{COLUMN} is no list of whole numbers", where=str(file))
    if rows.shape[1] != config.seq_length + 1:
        raise ModelError(
            f"has rows of {rows.shape[1]} ids, seq_length {config.seq_length} needs {config.seq_length + 1}",
            where=str(file),
            remedy=f"set data.seq_length to {rows.shape[1] - 1}, or prepare the data again",
        )
    highest = np.abs(rows).max(1)
    wrong = np.flatnonzero(highest >= config.vocab_size)
    if len(wrong):
        raise ModelError(
            f"holds id {highest[wrong[0]]}, but the vocabulary has {config.vocab_size}",
            where=f"{file}: record {first + wrong[0]}",
            remedy="prepare the data with the tokenizer of this model",
        )


@contextlib.contextmanager
def _mapped(path: Path, what: str) -> Iterator[None]:
    """The one door for errors of MindSpore on a MindRecord file."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, MindRecordException) as error:
        raise ModelError(f"{what}: {_reason(str(error))}", where=str(path)) from error


def _reason(text: str) -> str:
    """The one line that says it, of a message with frames and rulers."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if not re.match(r"-{3,}|- |Exception thrown", line)]
    return re.sub(r"^\[ERROR\] ", "", (reasons or lines or ["no reason given"])[0])
