"""Tokenizers that belong to weights or data: where the file lies, its hash, its ids, and the data's summary.

Weights, tokenizer and token ids belong together, and nothing fails where they do not: the loss is only worse.
Beside a data set `X.mindrecord`, `X.mindrecord.summary.json` says with which tokenizer it was made.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from orchestrator.formats.foreign_files import open_regular, read_small_json

__all__ = [
    "SUMMARY",
    "TOKENIZER",
    "beside_data",
    "beside_weights",
    "is_tokenizer",
    "made_with_another",
    "made_with_template",
    "recorded_tokenizer",
    "same_ids",
    "sha256_of",
    "summaries_of",
    "summary_text",
]

TOKENIZER = "tokenizer.json"
SUMMARY = ".summary.json"  # after the whole name of a .mindrecord
_LARGEST_TOKENIZER = 64 << 20  # the largest published ones have 30 MB
_LARGEST_SUMMARY = 1 << 20


def beside_weights(load: Path, name: str) -> Optional[Path]:
    """The file of this name that belongs to a checkpoint: of its folder, or of the run whose shards it holds.

    A run has it in `model/` beside `checkpoint/`, and in `checkpoint/` itself; where a folder only leads to
    the shards of several hosts, that of one of them counts.
    """
    places = [load / name, load.parent / "model" / name] if load.is_dir() else [load.parent / name]
    if load.is_dir():
        homes = {home.resolve().parent for home in _folders_of_ranks(load) if home.is_symlink()}
        places += [place for home in sorted(homes) for place in (home / name, home.parent / "model" / name)]
    return next((place for place in places if place.is_file()), None)


def _folders_of_ranks(load: Path) -> List[Path]:
    try:
        return [path for path in load.iterdir() if path.name.startswith("rank_")]
    except OSError:
        return []


def beside_data(data: Path, name: str = TOKENIZER) -> Optional[Path]:
    """The file of this name beside a MindRecord, or in a folder of them."""
    place = (data if data.is_dir() else data.parent) / name
    return place if place.is_file() else None


def summary_text(tokenizer: Path, **more: Any) -> str:
    """What a summary holds: the hash of the tokenizer, and what else is known of the data."""
    return json.dumps({"format": 1, "tokenizer_sha256": sha256_of(tokenizer), **more}, indent=1) + "\n"


def recorded_tokenizer(data: Path) -> Dict[Path, str]:
    """The SHA-256 of the tokenizer that each MindRecord of a file or folder was made with, where it is known.

    One that was made by an earlier version has no summary; what is no summary of ours says nothing either.
    """
    recorded = {file: table.get("tokenizer_sha256") for file, table in summaries_of(data).items()}
    return {file: sha256 for file, sha256 in recorded.items() if isinstance(sha256, str)}


def summaries_of(data: Path) -> Dict[Path, Dict[str, Any]]:
    """What the summary of each MindRecord of a file or folder says, where there is one."""
    files = sorted(data.glob("*.mindrecord")) if data.is_dir() else [data]
    tables = {file: read_small_json(file.with_name(file.name + SUMMARY), _LARGEST_SUMMARY) for file in files}
    return {file: table for file, table in tables.items() if isinstance(table, dict)}


def made_with_another(data: Path, tokenizer: Path) -> Dict[Path, str]:
    """The MindRecords of a file or folder that another tokenizer made, each with that one's SHA-256.

    The same one written anew is no other. One without a summary is taken.
    """
    of_data, mine = beside_data(data), sha256_of(tokenizer)
    others = {file: sha256 for file, sha256 in recorded_tokenizer(data).items() if sha256 != mine}
    if not others or of_data is None or not same_ids(tokenizer, of_data):
        return others
    beside = sha256_of(of_data)
    return {file: sha256 for file, sha256 in others.items() if sha256 != beside}


def made_with_template(data: Path, template: str) -> Dict[Path, str]:
    """The MindRecords of a file or folder that were prepared with another template, each with that one."""
    found = {file: table.get("template") for file, table in summaries_of(data).items()}
    return {file: other for file, other in found.items() if isinstance(other, str) and other != template}


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal. Raises OSError."""
    sha256 = hashlib.sha256()
    with open_regular(path) as file:
        while True:
            block = file.read(1 << 20)
            if not block:
                return sha256.hexdigest()
            sha256.update(block)


def same_ids(one: Path, other: Path) -> bool:
    """Whether two tokenizers give the tokens that both know the same ids; written anew, a file differs."""
    if sha256_of(one) == sha256_of(other):
        return True
    mine, its = (dict(_ids(read_small_json(path, _LARGEST_TOKENIZER))) for path in (one, other))
    shared = mine.keys() & its.keys()
    return bool(shared) and all(mine[token] == its[token] for token in shared)


def is_tokenizer(path: Path) -> bool:
    """Whether a file is a `tokenizer.json` of Hugging Face's tokenizers: JSON with a vocabulary.

    Also where it is too large to be looked into. Raises OSError.
    """
    if path.stat().st_size > _LARGEST_TOKENIZER:
        return True
    return next(_ids(read_small_json(path, _LARGEST_TOKENIZER)), None) is not None


def _ids(table: Any) -> Iterator[Any]:
    """(token, id) of the `tokenizer.json` of Hugging Face's tokenizers."""
    model = table.get("model") if isinstance(table, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    elif isinstance(vocabulary, list):  # Unigram: [[token, score], ...] in the order of their ids
        rows = enumerate(vocabulary)
        yield from (
            (row[0], number) for number, row in rows if isinstance(row, list) and row and _is_text(row[0])
        )
    added = table.get("added_tokens") if isinstance(table, dict) else None
    for item in added if isinstance(added, list) else ():
        if isinstance(item, dict) and _is_text(item.get("content")):
            yield item["content"], item.get("id")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
