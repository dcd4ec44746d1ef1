"""What a `.safetensors` file holds and where, without reading the tensors.

Format (https://github.com/huggingface/safetensors#format): eight bytes of header length, a JSON header, the
tensors one after another. Names are unique, spans leave no gap.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from orchestrator.core.errors import CheckpointError
from orchestrator.formats import protobuf as wire
from orchestrator.formats.ckpt_index import ITEM_SIZES, Entry, map_file

__all__ = ["CODES", "index_safetensors", "safetensors_entries"]

# MindSpore's name of a type and the format's.
CODES = {
    "Bool": "BOOL",
    "Int8": "I8",
    "UInt8": "U8",
    "Int16": "I16",
    "UInt16": "U16",
    "Int32": "I32",
    "UInt32": "U32",
    "Int64": "I64",
    "UInt64": "U64",
    "Float16": "F16",
    "BFloat16": "BF16",
    "Float32": "F32",
    "Float64": "F64",
}
_NAMES = {code: name for name, code in CODES.items()}
_LONGEST_HEADER = 100_000_000
_METADATA = "__metadata__"


def index_safetensors(path: str) -> list[Entry]:
    """The tensors in the order of the data, in the form of `index_ckpt`. The errors are the same, too."""
    with map_file(path) as buffer:
        return safetensors_entries(buffer, path)[0]


def safetensors_entries(buffer: wire.Buffer, path: str) -> tuple[list[Entry], dict[str, str]]:
    """The entries and the file's own metadata, of bytes at hand; `path` is for the messages."""
    header, start = _header(buffer, path)
    metadata = header.pop(_METADATA, None)
    metadata = metadata if isinstance(metadata, dict) else {}
    entries: list[Entry] = []
    position = start
    for name, dtype, dims, begin, end in sorted(_rows(header, path), key=lambda row: row[3:]):
        size = ITEM_SIZES[dtype]
        for dim in dims:
            size *= dim
        if start + begin != position or size != end - begin:
            _refuse(path, f"{name} of shape {dims} does not fit its bytes {begin} to {end}")
        if metadata.get(name) == "qint4x2":
            _refuse(path, f"{name} is of type qint4x2, which is not supported")
        position = start + end
        if position > len(buffer):
            _refuse(path, f"it ends inside {name}")
        entries.append({"name": name, "dims": dims, "dtype": dtype, "pieces": [[start + begin, size]]})
    if position != len(buffer):
        _refuse(path, f"{len(buffer) - position} bytes belong to no tensor")
    return entries, {str(key): str(value) for key, value in metadata.items()}


def _header(buffer: wire.Buffer, path: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or length > min(_LONGEST_HEADER, len(buffer) - 8):
        _refuse(path, "the header is cut off")
    try:
        header = json.loads(bytes(buffer[8 : 8 + length]), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, str(error) if isinstance(error, _Twice) else "the header is no JSON")
    if not isinstance(header, dict):
        _refuse(path, "the header is no table")
    return header, 8 + length


class _Twice(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"{next(name for name in names if names.count(name) > 1)} occurs twice")
    return table


def _rows(header: dict[str, Any], path: str) -> list[tuple[str, str, list[int], int, int]]:
    rows = []
    for name, entry in header.items():
        try:
            dims, (begin, end) = entry["shape"], entry["data_offsets"]
            dtype = _NAMES.get(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            _refuse(path, f"the entry of {name} is incomplete")
        if dtype is None:
            _refuse(path, f"{name} is of type {entry['dtype']}, which is not supported")
        if not isinstance(dims, list) or not all(_is_size(n) for n in [*dims, begin, end]) or len(dims) > 32:
            _refuse(path, f"the entry of {name} holds no sizes")
        rows.append((name, dtype, dims, begin, end))
    return rows


def _is_size(value: object) -> bool:
    # True is an int to Python; 2**48 is far above any tensor and far below what NumPy cannot count.
    return type(value) is int and 0 <= value < 1 << 48


def _refuse(path: str, what: str) -> NoReturn:
    raise CheckpointError(
        f"is damaged or no safetensors file: {what}", where=path, remedy="copy or save it again"
    )
