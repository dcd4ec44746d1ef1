"""The search for a checkpoint that MindSpore writes at the end of a life, when another rank has failed.

While it is written its folder is called `ttp_saved_checkpoints-step_<n>_tmp`, and is renamed when it is whole
(mindspore/train/callback/_train_fault_tolerance.py, `_get_ckpt_dir`, `_save_checkpoint_on_failure`).
"""

from __future__ import annotations

import os
import re
from collections import deque
from pathlib import Path
from typing import Deque, Tuple

from orchestrator.agent.stop_grace import TFT, tft_saves

__all__ = ["is_last_save_written", "is_set_to_save"]

_BEING_WRITTEN = re.compile(r"ttp_saved_checkpoints-step_\d{1,15}_tmp", re.ASCII)
_DEEPEST, _MOST = 6, 5000
_LARGEST_ENVIRONMENT = 1 << 20


def is_last_save_written(folder: Path) -> bool:
    """Whether such a folder is below this one; no link is followed, and not everything is looked at."""
    left: Deque[Tuple[str, int]] = deque([(str(folder), 0)])
    seen = 0
    while left:
        where, depth = left.popleft()
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST:
                        return False
                    if not entry.is_dir(follow_symlinks=False):
                        continue
                    if _BEING_WRITTEN.fullmatch(entry.name):
                        return True
                    if depth < _DEEPEST:
                        left.append((entry.path, depth + 1))
        except OSError:
            continue
    return False


def is_set_to_save(pid: int) -> bool:
    """Whether the environment of a process, of an `env_script` say, has it make such a checkpoint."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            names = file.read(_LARGEST_ENVIRONMENT).decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return any(tft_saves(name[len(TFT) + 1 :]) for name in names if name.startswith(f"{TFT}="))
