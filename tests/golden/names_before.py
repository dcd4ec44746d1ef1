"""Outputs under the names that parameters had before: the proof that nothing but this has changed.

`bytes_with_prefix.json` is the list as it was while every parameter had the prefix `transformer.`. Each
output of today is written again here with that prefix, by the same writers; its sum must be the one of then.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, read_strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import (
    read_ckpt,
    read_safetensors,
    write_ckpt,
    write_safetensors,
)
from tests.golden.saved import with_prefix

__all__ = ["BEFORE", "sums_before"]

BEFORE = Path(__file__).with_name("bytes_with_prefix.json")


def sums_before(folder: Path, sums: dict[str, str], scratch: Path) -> dict[str, str]:
    """The sums that the files below `folder` would have under the names of before, by their paths of then."""
    before = {}
    for name, of_today in sums.items():
        path = folder / name
        content = _renamed(path, scratch)
        then = hashlib.sha256(content).hexdigest() if content is not None else of_today
        # A host's store calls a file by its sum.
        before[name.replace(of_today, then)] = then
    return before


def _renamed(path: Path, scratch: Path) -> bytes | None:
    """The content under the names of before; None where it has none of these names."""
    if path.name.endswith(".index.json"):
        content = json.loads(path.read_text())
        content["weight_map"] = {with_prefix(name): file for name, file in content["weight_map"].items()}
        end = "\n" if path.read_text().endswith("\n") else ""
        return (json.dumps(content, indent=2) + end).encode()
    if path.suffix == ".bin":
        return None  # PyTorch's own, under Hugging Face's names
    if path.name.startswith("ckpt_strategy"):
        strategy = read_strategy(path)
        layouts = {with_prefix(name): _cut_before(layout) for name, layout in strategy.layouts.items()}
        write_strategy(scratch, Strategy(strategy.stage, layouts))
        return scratch.read_bytes()
    is_safetensors = path.suffix == ".safetensors"
    held = (read_safetensors if is_safetensors else read_ckpt)(path)
    renamed = {with_prefix(name): tensor for name, tensor in held.items()}
    if renamed.keys() == held.keys():
        return None
    (write_safetensors if is_safetensors else write_ckpt)(scratch, renamed.items())
    return scratch.read_bytes()


def _cut_before(layout: Layout) -> Layout:
    """Moments that the data group alone cuts along axis 0 were told as the parallel optimizer's cut."""
    if layout.tensor_map[:1] != (1,):
        return layout
    data, model = layout.dev_matrix
    return Layout(layout.dev_matrix, (-1, *layout.tensor_map[1:]), model, data)
