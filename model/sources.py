"""What a job trains on: its rows, from records or from MindRecord, and the tokenizer that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.config import BloomConfig
from model.data import Dataset, encode_records
from model.encoding import texts_of
from model.errors import ModelError
from model.mindrecord import SUFFIX, read_rows
from model.records import load_records
from model.settings import Settings
from model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

__all__ = ["load_data"]


def load_data(settings: Settings, config: BloomConfig) -> tuple[Dataset, Tokenizer]:
    """The rows of data.path and their tokenizer: the one given, the one beside MindRecord, or a new one."""
    if settings.data.path is None:
        raise ModelError("is missing", where="data.path", remedy="name a file of records, or MindRecord")
    path = Path(settings.data.path)
    if path.suffix == SUFFIX or path.is_dir():
        tokenizer = load_tokenizer(_tokenizer_of(settings, path), config)
        rows = read_rows(path, config, settings.data.limit)
    else:
        tokenizer, rows = _from_records(settings, config, path)
    return Dataset(rows, config.eos_token_id, settings.train.loss_mask), tokenizer


def _tokenizer_of(settings: Settings, path: Path) -> Path:
    if settings.data.tokenizer:
        return Path(settings.data.tokenizer)
    beside = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not beside.is_file():
        raise ModelError(
            "is missing, and there is no tokenizer.json beside the data",
            where="data.tokenizer",
            remedy="name the one that the data was prepared with",
        )
    return beside


def _from_records(settings: Settings, config: BloomConfig, path: Path) -> tuple[Tokenizer, np.ndarray]:
    records = load_records(path, settings.data.limit)
    if settings.data.tokenizer:
        tokenizer = load_tokenizer(Path(settings.data.tokenizer), config)
    else:
        tokenizer = train_tokenizer(texts_of(records, config.prompt_template), config)
    return tokenizer, encode_records(records, tokenizer, config, whole=settings.task == "pretrain")
