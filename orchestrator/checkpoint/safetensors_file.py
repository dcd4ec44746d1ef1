"""Single-file safetensors: eight bytes of header length, a JSON header, the tensors one after another.

Format: https://github.com/huggingface/safetensors#format. Names are unique, spans leave no gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.agent.ckpt_index import map_file
from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.tensor import Array, Spec, Tensor
from orchestrator.errors import CheckpointError

__all__ = ["lay_out_safetensors", "read_safetensors", "write_safetensors"]

_LONGEST_HEADER = 100_000_000
# MindSpore's own mark, which its reader and others look for.
_METADATA = {"format": "ms"}

_CODES = {
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
_NAMES = {code: name for name, code in _CODES.items()}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor in the order of the data, as views of the mapped file.

    CheckpointError: unreadable, truncated, overlapping or gapped spans, a type MindSpore has no name for.
    """
    where = str(path)
    view = memoryview(map_file(where))
    header, start = _header(view, where)
    tensors: dict[str, Tensor] = {}
    position = start
    for name, entry in sorted(_entries(header, where), key=lambda item: item[1][2]):
        dtype, dims, begin, end = entry
        if start + begin != position or Spec(name, dims, dtype).nbytes != end - begin:
            raise _damaged(where, f"{name} of shape {list(dims)} does not fit its bytes {begin} to {end}")
        position = start + end
        if position > len(view):
            raise _damaged(where, f"it ends inside {name}")
        tensors[name] = Tensor(dims, dtype, view[start + begin : position])
    if position != len(view):
        raise _damaged(where, f"{len(view) - position} bytes belong to no tensor")
    return tensors


def _header(view: memoryview, where: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(view[:8], "little")
    if len(view) < 8 or length > min(_LONGEST_HEADER, len(view) - 8):
        raise _damaged(where, "the header is cut off")
    try:
        header = json.loads(bytes(view[8 : 8 + length]))
    except (ValueError, RecursionError):
        raise _damaged(where, "the header is no JSON") from None
    if not isinstance(header, dict):
        raise _damaged(where, "the header is no table")
    return header, 8 + length


def _entries(
    header: Mapping[str, Any], where: str
) -> list[tuple[str, tuple[str, tuple[int, ...], int, int]]]:
    entries = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dims, (begin, end) = entry["shape"], entry["data_offsets"]
            dtype = _NAMES.get(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            raise _damaged(where, f"the entry of {name} is incomplete") from None
        if dtype is None:
            raise _damaged(where, f"{name} is of type {entry['dtype']}, which is not supported")
        if not isinstance(dims, list) or not all(_is_size(n) for n in [*dims, begin, end]) or len(dims) > 32:
            raise _damaged(where, f"the entry of {name} holds no sizes")
        entries.append((name, (dtype, tuple(dims), begin, end)))
    return entries


def _is_size(value: object) -> bool:
    # True is an int to Python; 2**48 is far above any tensor and far below what NumPy cannot count.
    return type(value) is int and 0 <= value < 1 << 48


def _damaged(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"is damaged or no safetensors file: {what}", where=where, remedy="copy or save it again"
    )


def write_safetensors(
    path: str | Path,
    tensors: Iterable[tuple[str, Array | Tensor]],
    *,
    metadata: Mapping[str, str] = _METADATA,
) -> None:
    """Write all tensors into one file; atomic, mode 0600. Arrays are not copied, but all must be at hand.

    CheckpointError: a text (the format has none), a name that occurs twice, a disk that is full.
    """
    ready = [(name, value if isinstance(value, Tensor) else Tensor.of(value)) for name, value in tensors]
    layout = lay_out_safetensors([tensor.spec(name) for name, tensor in ready], metadata)
    with replacing(Path(path)) as file:
        file.write(layout.frames[0][1])
        for _, tensor in ready:
            file.write(tensor.data)


def lay_out_safetensors(specs: Sequence[Spec], metadata: Mapping[str, str] = _METADATA) -> FileLayout:
    """Where `write_safetensors` puts tensors of these shapes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    spans = []
    for spec in specs:
        if spec.dtype not in _CODES:
            raise CheckpointError(f"{spec.name} is a text, which safetensors cannot hold")
        if spec.name in header:
            raise CheckpointError(f"{spec.name} cannot be stored: the name occurs twice or is reserved")
        span = [position, position + spec.nbytes]
        header[spec.name] = {"dtype": _CODES[spec.dtype], "shape": list(spec.dims), "data_offsets": span}
        spans.append((position, spec.nbytes))
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = tuple(((start + offset, length),) for offset, length in spans)
    return FileLayout(start + position, ((0, len(text).to_bytes(8, "little") + text),), places)
