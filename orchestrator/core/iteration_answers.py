"""What a host answers of the checkpoints that MindFormers has saved there, beside the shards of ranks.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional, Tuple

from orchestrator.core.host_answers import FileName, ShardName, Size
from orchestrator.core.record_class import dataclass, field

__all__ = ["IterationFile", "IterationList", "IterationRow", "MetaRow"]


class IterationFile(ShardName):
    """The path on its host of a file of MindFormers' checkpoint 2.0, in the folder of its iteration."""

    FORM = re.compile(
        r"(?!.*[\x00-\x1f\x7f-\x9f])(?:/(?!\.\.?/)[^/]+)*/iteration_\d{8,12}/"
        r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}\.(?:safetensors|json)"
    )
    IS = "the path of a file of an iteration"


@dataclass(frozen=True)
class IterationRow:
    """One iteration of MindFormers' checkpoint 2.0 as a host has it: its tensor files, whole and not.

    `common`: its common.json can be read. `named` are the files that its metadata.json names, if it is there.
    `places` are the paths of its files, JSON ones too, with size, time of change and inode number.
    """

    iteration: Size
    files: Tuple[FileName, ...] = ()
    damaged: Tuple[FileName, ...] = ()
    common: bool = False
    named: Optional[Tuple[FileName, ...]] = None
    places: Mapping[IterationFile, Tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class MetaRow:
    """What the `meta.json` of a rank's folder names as its last checkpoint, and whether that is there."""

    rank: Size
    file: Optional[FileName] = None
    exists: bool = False


@dataclass(frozen=True)
class IterationList:
    """All iterations that a host has, and the one that the tracker there says to be the latest.

    `metas` are what the folders of ranks say, of the form of before.
    """

    tracker: Optional[Size] = None
    iterations: Tuple[IterationRow, ...] = ()
    metas: Tuple[MetaRow, ...] = ()
