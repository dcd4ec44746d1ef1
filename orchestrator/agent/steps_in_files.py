"""The step that a checkpoint of MindFormers holds inside, and the file that its `meta.json` names.

`<prefix>_rank_<r>-<epoch>_<step>` counts the step within the epoch, and with data sinking each sink is an
epoch. The file itself has `step_num`, the steps of all epochs, from which a resumed training goes on
(mindformers 1.9.0, core/callback/callback.py, `save_checkpoint`, and trainer/utils.py,
`load_resume_context_from_checkpoint`), and `global_step`, the updates of its optimizer.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from orchestrator.core.errors import CheckpointError
from orchestrator.core.safe_open import read_safely
from orchestrator.formats.ckpt_index import ITEM_SIZES, Entry, index_ckpt, map_file
from orchestrator.formats.safetensors_index import index_safetensors

__all__ = ["list_metas", "step_in_file"]

_NAMES = ("step_num", "global_step")
_INTEGERS = frozenset({"Int32", "Int64", "UInt32", "UInt64"})
_MOST_STEPS = 1 << 53  # larger ones are none
_FOLDER = re.compile(r"rank_(\d{1,7})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)
_META = "meta.json"
_LARGEST_META = 1 << 16


def step_in_file(path: str) -> Optional[int]:
    """How many steps had been made when it was saved; None where it does not say so, or cannot be read."""
    found: Dict[str, Entry] = {}
    with contextlib.suppress(CheckpointError, OSError):
        entries = index_safetensors(path) if path.endswith(".safetensors") else index_ckpt(path)
        for entry in entries:
            if entry["name"] in _NAMES:
                found[entry["name"]] = entry
        with map_file(path) as buffer:
            for name in _NAMES:
                if name in found and (step := _number(buffer, found[name])) is not None:
                    return step
    return None


def _number(buffer: Any, entry: Entry) -> Optional[int]:
    if any(dim != 1 for dim in entry["dims"]) or len(entry["pieces"]) != 1:
        return None
    offset, length = entry["pieces"][0]
    data, dtype = bytes(buffer[offset : offset + length]), entry["dtype"]
    if length != ITEM_SIZES[dtype]:
        return None
    value: float = -1
    if dtype in _INTEGERS:
        value = int.from_bytes(data, "little", signed=dtype.startswith("Int"))
    elif dtype == "Float32":
        value = struct.unpack("<f", data)[0]
    elif dtype == "Float64":
        value = struct.unpack("<d", data)[0]
    # A float that is no whole number is no step, and neither is a NaN.
    return int(value) if 0 <= value < _MOST_STEPS and value == value // 1 else None


def list_metas(folder: str) -> List[Dict[str, Any]]:
    """What the `meta.json` of each rank's folder names: `{"rank", "file", "exists"}`; `file` None: nothing.

    It is written after each save, by each rank for itself, and believed by MindFormers alone.
    """
    return sorted(_metas(folder), key=lambda row: int(row["rank"]))


def _metas(folder: str) -> Iterator[Dict[str, Any]]:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            match, home = _FOLDER.fullmatch(name), Path(folder, name)
            if match is None or not (home / _META).exists():
                continue
            file = _named(home)
            yield {
                "rank": int(match[1]),
                "file": file,
                "exists": file is not None and (home / file).is_file(),
            }


def _named(home: Path) -> Optional[str]:
    try:
        said = json.loads(read_safely(home / _META, home, _LARGEST_META))
    except (OSError, ValueError, RecursionError):
        return None
    name = said.get("last_ckpt_file") if isinstance(said, dict) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
