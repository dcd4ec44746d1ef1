"""Folders of checkpoints as MindFormers leaves them, of our writers: two ranks, whole or cut in halves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from tests.checkpoint.support import cut
from tests.transfer.mindformers_run import weights

STEPS = 10  # of an epoch


def tensors(step: int, rank: int = 0, halves: bool = False) -> list[tuple[str, Any]]:
    """What a file holds after a step: halves by rows of what has two axes, where it is cut."""
    found: list[tuple[str, Any]] = []
    for prefix, off in (("", 0), ("adam_m.", 1000), ("adam_v.", 2000)):
        for name, value in weights(step + off).items():
            found.append((prefix + name, cut(value, layout(value), rank) if halves else value))
    counters = {"epoch_num": np.array(2, np.int64), "step_num": np.array(step, np.int64)}
    return [*found, *counters.items(), ("global_step", np.array([step], np.int32))]


def layout(value: np.ndarray, is_cut: bool = True) -> Layout:
    return Layout((2,), (0, -1) if is_cut and value.ndim == 2 else (-1,) * value.ndim)


def saved_by_mindformers(
    folder: Path, *steps: int, halves: bool = False, suffix: str = "ckpt", ranks: int = 2
) -> Path:
    """As MindFormers saves, in the folder `saved` of a job."""
    for rank in range(ranks):
        home = folder / f"saved/checkpoint/rank_{rank}"
        home.mkdir(parents=True, exist_ok=True)
        for step in steps:
            epoch, within = (step - 1) // STEPS + 1, (step - 1) % STEPS + 1
            write = write_ckpt if suffix == "ckpt" else write_safetensors
            write(home / f"llama_rank_{rank}-{epoch}_{within}.{suffix}", tensors(step, rank, halves))
        (home / "meta.json").write_text(json.dumps({"last_ckpt_file": "llama_rank_0-9_9.ckpt"}))
    return folder / "saved"


def strategies_of_two(folder: Path, *, is_cut: bool = True) -> Path:
    """As semi-auto parallelism writes them in its output folder."""
    folder.mkdir(parents=True, exist_ok=True)
    layouts = {
        prefix + name: layout(value, is_cut)
        for prefix in ("", "adam_m.", "adam_v.")
        for name, value in weights(0).items()
    }
    for rank in (0, 1):
        write_strategy(folder / f"ckpt_strategy_rank_{rank}.ckpt", Strategy(0, layouts))
    return folder
