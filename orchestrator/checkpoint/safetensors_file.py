"""Single-file safetensors; the format is described in `orchestrator.agent.safetensors_index`.

The safetensors library is not used here but to test against: it does not tell where in a file a tensor lies,
which is what reading parts of shards on other hosts and writing each part at its place live on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.agent.ckpt_index import map_file
from orchestrator.agent.safetensors_index import CODES, safetensors_entries
from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.tensor import Array, Spec, Tensor, join_pieces
from orchestrator.errors import CheckpointError

__all__ = ["lay_out_safetensors", "read_safetensors", "write_safetensors"]

# MindSpore's own mark, which its reader and others look for.
_METADATA = {"format": "ms"}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor in the order of the data, as views of the mapped file.

    CheckpointError: unreadable, truncated, overlapping or gapped spans, a type MindSpore has no name for.
    """
    buffer = map_file(str(path))
    entries, _ = safetensors_entries(buffer, str(path))
    view = memoryview(buffer)
    return {
        entry["name"]: Tensor(tuple(entry["dims"]), entry["dtype"], join_pieces(view, entry["pieces"]))
        for entry in entries
    }


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
        if spec.dtype not in CODES:
            raise CheckpointError(f"{spec.name} is a text, which safetensors cannot hold")
        if spec.name in header:
            raise CheckpointError(f"{spec.name} cannot be stored: the name occurs twice or is reserved")
        span = [position, position + spec.nbytes]
        header[spec.name] = {"dtype": CODES[spec.dtype], "shape": list(spec.dims), "data_offsets": span}
        spans.append((position, spec.nbytes))
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = tuple(((start + offset, length),) for offset, length in spans)
    return FileLayout(start + position, ((0, len(text).to_bytes(8, "little") + text),), places)
