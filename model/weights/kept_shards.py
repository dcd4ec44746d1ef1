"""The shards of a rank that are kept: the newest few over all attempts of a run, and what it goes on from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.paths import RunDir
from orchestrator.formats.shard_sum import sum_path
from orchestrator.formats.told_step import read_told_step

__all__ = ["remove_old", "shards_in"]

_NAME = re.compile(r"-(\d+)_(\d+)\.ckpt$")
# As `core.paths.replacing` calls what it writes.
_HALF = re.compile(r"-\d+_\d+\.ckpt(\.sum)?\.[0-9a-f]{16}$")
_RANK = re.compile(r"rank_\d+")


@dataclass(frozen=True, slots=True, order=True)
class _Saved:
    attempt: int
    step: int
    path: Path


def shards_in(home: Path) -> list[tuple[int, Path]]:
    """The shards of one rank's folder by their step, the oldest first."""
    found = [(_NAME.search(path.name), path) for path in home.glob("*.ckpt")]
    return sorted((int(match[2]), path) for match, path in found if match)


def remove_old(folder: Path, rank: int, keep: int, *, unfinished: int = 0) -> None:
    """Remove this rank's shards but for the newest `keep`, counted over the attempts of the run.

    `folder` is the run's `checkpoint`. Neither the newest step that is complete over all hosts goes, nor
    what is newer: the monitor has told which that is. As long as it has told nothing, the last but one is
    taken for it, of which every rank has saved its shard: none makes a step before all have made the one
    before. Where others write behind their steps, so many of their newest shards may be `unfinished`: then as
    many more stay. Ranks that earlier attempts had on this host and this one has not are the lowest rank's to
    see to. Halves that killed processes of this rank left go, too: nobody else writes in its folders.
    """
    run = RunDir(folder.parent)
    number = run.number or 1
    told = read_told_step(run.root)
    folders = _folders(run, folder, number)
    _remove(_of_rank(folders, rank), keep, told, unfinished)
    _remove_halves(folders, rank)
    if number > 1 and rank == min(_ranks_in(folder), default=rank):
        others = {other for old in folders.values() for other in _ranks_in(old)} - _ranks_in(folder)
        newest = shards_in(folder / f"rank_{rank}")[-keep:]
        for other in others if len(newest) == keep and told is not None else ():
            # Of an attempt in another layout: once as many steps of this one are there, none of it counts.
            _remove(_of_rank(folders, other), 0, told, unfinished)
    if number > 1 and told is not None and told[0] == number:
        # What it started from: links to shards of an earlier attempt, or what was brought here.
        for _, path in shards_in(run.folder_of(number) / "load" / f"rank_{rank}"):
            _unlink(path)


def _remove(saved: list[_Saved], keep: int, told: tuple[int, int] | None, unfinished: int) -> None:
    older = saved[: max(0, len(saved) - keep)]
    if told is None:
        newest = saved[-2 - unfinished :]  # of which the first is complete, where there are so many
        told = (newest[0].attempt, newest[0].step) if len(newest) == 2 + unfinished else (0, 0)
    for each in older:
        if (each.attempt, each.step) < told:
            _unlink(each.path)


def _remove_halves(folders: Mapping[int, Path], rank: int) -> None:
    for folder in folders.values():
        for path in (folder / f"rank_{rank}").glob(".*"):
            if _HALF.search(path.name):
                path.unlink(missing_ok=True)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    sum_path(path).unlink(missing_ok=True)


def _folders(run: RunDir, folder: Path, number: int) -> dict[int, Path]:
    """The checkpoint folders by attempt, up to this one, whose is `folder`; no link is taken for one."""
    homes = {each: run.folder_of(each) for each in run.numbers() if each < number}
    old = {each: home / "checkpoint" for each, home in homes.items() if not home.is_symlink()}
    real = {each: path for each, path in old.items() if path.is_dir() and not path.is_symlink()}
    return {**real, number: folder}


def _of_rank(folders: Mapping[int, Path], rank: int) -> list[_Saved]:
    """All of its shards, the oldest first."""
    return sorted(
        _Saved(attempt, step, path)
        for attempt, home in folders.items()
        for step, path in shards_in(home / f"rank_{rank}")
    )


def _ranks_in(folder: Path) -> set[int]:
    return {int(path.name[5:]) for path in folder.glob("rank_*") if _RANK.fullmatch(path.name)}
