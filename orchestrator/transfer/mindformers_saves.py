"""What MindFormers' own checkpoints are: whole on each rank or cut; and how the next attempt loads them.

The run YAML of the attempt, `mindformers.yaml`, says it. What is not known there is taken as cut, and needed.
Source: mindformers 1.9.0 and 2.1.0, trainer/utils.py, tools/resume_ckpt.py, utils/load_checkpoint_utils.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.agent.shard_ranges import parse_name
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.run_yaml_keys import CUTS_NOTHING
from orchestrator.core.errors import CheckpointError, ConfigError
from orchestrator.core.iteration_answers import IterationList
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.mindformers_load import load_words
from orchestrator.plan.next_plan import load_folder

__all__ = [
    "MindFormersSaves",
    "load_name",
    "meta_notes",
    "resume_words",
    "saves_in",
    "saves_of",
    "words_of",
]

_DATA_PARALLEL = (0, "0", "data_parallel", "DATA_PARALLEL")
_CUT_BY = ("parallel_mode", "enable_parallel_optimizer", "parallel_optimizer_config")
_MOST_NAMED = 4
# What is put before `_rank_<r>`; a point in it is taken for the suffix (load_checkpoint_utils.py).
_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_+-]{0,99})_rank_\d+(?:_\d+)?-\d+_\d+", re.ASCII)
_OTHER_PREFIX = "checkpoint"
# Of a folder with this file and no `rank_<r>` MindFormers takes step and loss scale from it, and the weights
# from every file of the folder (trainer/utils.py, `is_hyper_param_existed_in_sf_dir`).
_WITH_ALL = "hyper_param.safetensors"


@dataclass(frozen=True, slots=True)
class MindFormersSaves:
    """How the shards of an attempt are cut, as far as its run YAML says it.

    `replicated`: plain data parallelism, each rank's file is whole. `needs_all`: ranks leave out what others
    have saved (`remove_redundancy`), so that no file takes the place of another. `layout` is equal where
    shards are, rank by rank.
    """

    replicated: bool = False
    needs_all: bool = False
    layout: tuple[Any, ...] = ()


def saves_of(plan: LaunchPlan) -> MindFormersSaves | None:
    """Of an attempt whose workers are MindFormers' own; None of any other."""
    return saves_in(plan.run_yaml, plan.world_size) if plan.task == MINDFORMERS else None


def saves_in(run_yaml: str, ranks: int) -> MindFormersSaves:
    """Of so many ranks whose run YAML has this text."""
    data = _read(run_yaml)
    parallel, degrees = _table(data, "parallel"), _table(data, "parallel_config")
    needs_all = any(each is not False for each in _redundancy(data))
    is_whole = parallel.get("parallel_mode") in _DATA_PARALLEL
    is_whole = is_whole and not parallel.get("enable_parallel_optimizer")
    replicated = not needs_all and (ranks == 1 or is_whole)
    cut = {name: parallel.get(name) for name in _CUT_BY}
    cut.update({name: value for name, value in degrees.items() if name not in CUTS_NOTHING})
    layout = (ranks, *sorted(f"{name} {value!r}" for name, value in cut.items()))
    return MindFormersSaves(replicated, needs_all, ("whole",) if replicated else layout)


def _read(text: str) -> dict[str, Any]:
    """What the text says to MindFormers, merges and aliases resolved; {} where it is no table."""
    try:
        data = RunYaml("mindformers.yaml", text).data
    except ConfigError:
        return {}
    return data if isinstance(data, dict) else {}


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _redundancy(data: Mapping[str, Any]) -> Iterator[Any]:
    """What each callback that saves says of leaving out what other ranks have."""
    callbacks = data.get("callbacks")
    for each in callbacks if isinstance(callbacks, list) else ():
        if isinstance(each, dict) and each.get("type") == "CheckpointMonitor":
            yield each.get("remove_redundancy", False)


def load_name(rank: int, file: ShardFile, *, world_size: int) -> str:
    """Where below the folder that an attempt loads from the file is put that `rank` loads.

    With MindFormers' own words for prefix, epoch and step, and the number of the rank that loads it: a
    replica's file is taken under this one. For a rank alone its loader of safetensors knows no folders of
    ranks: there the file is, beside the weights, the one from which MindFormers takes the step.
    """
    said = parse_name(file.path)
    stem, suffix = os.path.splitext(os.path.basename(file.path))
    known = _PREFIX.match(stem)
    prefix = known[1] if known else _OTHER_PREFIX
    if world_size == 1 and suffix == ".safetensors":
        return _WITH_ALL
    return f"rank_{rank}/{prefix}_rank_{rank}-{said['epoch']}_{said['step']}{suffix}"


def resume_words(
    number: int,
    sources: Mapping[int, ShardFile] | None,
    *,
    world_size: int,
    needs_all: bool = False,
) -> dict[str, Any]:
    """What the run YAML of attempt `number` says for it to go on; `sources` None: from an iteration of 2.0.

    As `words_of`, whose errors it raises.
    """
    folder = load_folder(number)
    if sources is None:
        return load_words(folder, resume=True)
    return words_of(folder, sources, world_size=world_size, needs_all=needs_all)


def words_of(
    folder: str,
    sources: Mapping[int, ShardFile],
    *,
    world_size: int,
    needs_all: bool = False,
    resumes: bool = True,
) -> dict[str, Any]:
    """What the run YAML says for each rank to load its file, which is in `folder` under its `load_name`.

    `needs_all`: the files leave out what other ranks have saved. `resumes`: the training goes on from them,
    else it begins with their weights.

    The file's name, not `True`: by that each rank takes its own file, and no other rank's folder is looked
    at. With `True` rank 0 lists the folders of all ranks, and the others read what it has written into
    `output_dir`, which only a folder that all hosts share can give. CheckpointError: files of two formats.
    """
    names = {load_name(0, file, world_size=world_size) for file in sources.values()}
    suffixes = sorted({os.path.splitext(name)[1][1:] for name in names})
    if len(suffixes) > 1:
        raise CheckpointError(f"the ranks' files are of two formats: {' and '.join(suffixes)}")
    name = sorted(names)[0]
    if len(names) > 1:
        raise CheckpointError(f"the ranks' files have names that differ in more than the rank: {name}, …")
    file = True if name == _WITH_ALL else os.path.basename(name)
    return load_words(folder, resume=resumes and file, format=suffixes[0], needs_all=needs_all)


def meta_notes(listed: Mapping[str, IterationList], files: Iterable[ShardFile]) -> list[str]:
    """A line for each host whose `meta.json` files name another checkpoint than the one that was taken."""
    taken = {file.rank: os.path.basename(file.path) for file in files}
    notes = []
    for host, each in sorted(listed.items()):
        wrong = []
        for row in each.metas:
            if row.file is None:
                wrong.append(f"of rank {int(row.rank)} cannot be read")
            elif int(row.rank) in taken and row.file != taken[int(row.rank)]:
                gone = "" if row.exists else ", which is not there"
                wrong.append(f"of rank {int(row.rank)} names {row.file}{gone}")
        if wrong:
            more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
            notes.append(f"{host}: meta.json {', '.join(wrong[:_MOST_NAMED])}{more}: not believed")
    return notes
