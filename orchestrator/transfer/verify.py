"""Verifying a checkpoint of this machine: whether it is whole and undamaged; every finding, not the first."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.assemble import Assembled, TensorSlice
from orchestrator.checkpoint.copy_plan import whole_region
from orchestrator.checkpoint.cut.coverage import is_moment, is_weight
from orchestrator.checkpoint.files.strategy_files import StrategySet, read_strategy_set
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import find_rank_files, open_checkpoint
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import crc_matches, map_file
from orchestrator.formats.safetensors_index import safetensors_entries
from orchestrator.transfer.check_replicas import odd_ones
from orchestrator.transfer.convert import RankFolder, kind_of, open_strategies
from orchestrator.transfer.verify_collected import CollectedCheck, is_collected

__all__ = ["Finding", "verify"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and whether it is as it should be."""

    where: str
    what: str
    ok: bool


def verify(path: Path, strategy: Path | None = None, *, step: int | None = None) -> Iterator[Finding]:
    """Look at a checkpoint, or at the files of all ranks, byte by byte.

    Each file: structure, and its own checksum where it has one. What was collected: the checksums of the
    manifest that lies beside it. Ranks: the strategies agree and fit, every
    slice is there, replicas hold the same bytes. CheckpointError: nothing is there to be looked at.
    """
    if is_collected(path):
        yield from _collected(path)
        return
    kind = kind_of(path)
    if kind == "strategy":
        strategies = read_strategy_set(path)
        yield Finding(str(path), f"tells how {strategies.world_size} ranks hold the tensors", True)
    elif kind == "checkpoint":
        yield from _file(path, 0, {})
    else:
        yield from _ranks(path / "checkpoint" if (path / "checkpoint").is_dir() else path, strategy, step)


def _collected(path: Path) -> Iterator[Finding]:
    try:
        check = CollectedCheck(path)
    except CheckpointError as error:
        yield from _file(path, 0, {}) if path.is_file() else ()
        yield Finding(error.where, error.what, False)
        return
    for file in check.files():
        if file.is_file():
            yield from _file(file, 0, {})
    wrong = 0
    try:
        for file, what in check.wrong():
            wrong += 1
            yield Finding(str(file), what, False)
    except CheckpointError as error:
        yield Finding(error.where, error.what, False)
        return
    if not check.is_comparable:
        what = "the manifest of an older version does not tell where tensors are: bytes were not compared"
        yield Finding(str(path), what, True)
    elif not wrong:
        yield Finding(str(path), f"holds what was collected: {check.label}", True)


def _file(path: Path, rank: int, opened: dict[int, Shard]) -> Iterator[Finding]:
    try:
        shard = open_checkpoint(path, rank)
        files = dict.fromkeys(stored.path or shard.path for stored in shard.tensors.values())
        checked = [_checksum(file) for file in files or [shard.path]]
    except CheckpointError as error:
        yield Finding(error.where, error.what, False)
        return
    opened[rank] = shard
    size = sum(stored.spec.nbytes for stored in shard.tensors.values())
    states = ", ".join(dict.fromkeys(state for state, _ in checked))
    what = f"{len(shard.tensors)} tensors, {size:,} bytes, {states}"
    yield Finding(str(path), what, all(right for _, right in checked))


def _checksum(file: str) -> tuple[str, bool]:
    buffer = map_file(file)
    if file.endswith(".safetensors"):
        entries, metadata = safetensors_entries(buffer, file)
        if "crc_num" not in metadata:
            return "no checksum", True
        value = 0
        with memoryview(buffer) as view:
            # As MindSpore takes it: names in alphabetic order, each before its bytes.
            for entry in sorted(entries, key=lambda entry: str(entry["name"])):
                ((offset, length),) = entry["pieces"]
                value = zlib.crc32(view[offset : offset + length], zlib.crc32(entry["name"].encode(), value))
        right = str(value) == metadata["crc_num"]
    else:
        if bytes(buffer[-17:-10]) != b"crc_num":
            return "no checksum", True
        right = crc_matches(buffer)
    return ("checksum right", True) if right else ("the checksum does not fit: the file is damaged", False)


def _ranks(folder: Path, strategy: Path | None, step: int | None) -> Iterator[Finding]:
    try:
        strategies = open_strategies(folder, strategy)
        found = find_rank_files(folder, strategies, step=step)
    except CheckpointError as error:
        yield Finding(error.where or str(folder), f"{error.what}", False)
        return
    notes = (*(strategies.notes if strategies else ()), *found.notes)
    yield from (Finding(str(folder), note, True) for note in notes)
    opened: dict[int, Shard] = {}
    for rank, path in sorted(found.files.items()):
        yield from _file(path, rank, opened)
    if len(opened) == len(found.files):
        ranks = RankFolder(folder, tuple(opened.values()), strategies, found.epoch, found.step, (), False)
        yield from _together(ranks, strategies)


def _together(ranks: RankFolder, strategies: StrategySet | None) -> Iterator[Finding]:
    where = str(ranks.folder)
    try:
        whole = ranks.assemble(with_optimizer=False, with_texts=False)
    except CheckpointError as error:
        yield Finding(error.where or where, error.what, False)
        return
    yield Finding(where, f"step {ranks.step}: all slices of {len(whole.tensors)} weights are there", True)
    try:
        whole = ranks.assemble(with_optimizer=True, with_texts=False)
    except CheckpointError as error:
        yield Finding(error.where or where, f"the optimizer's state is not whole: {error.what}", False)
    if strategies:
        yield from _replicas(whole, where)


def _replicas(whole: Assembled, where: str) -> Iterator[Finding]:
    compared, differing = 0, 0
    with MappedFiles() as files:
        for tensor in whole.tensors:
            name = tensor.spec.name
            for piece in tensor.slices if is_weight(name) or is_moment(name) else ():
                sums = _sums(files, name, piece)
                compared += len(sums) > 1
                if len(set(sums.values())) > 1:
                    differing += 1
                    yield Finding(where, f"{name}: {odd_ones(sums)}", False)
    if compared and not differing:
        yield Finding(where, f"replicas hold the same bytes ({compared} slices compared)", True)


def _sums(files: MappedFiles, name: str, piece: TensorSlice) -> Mapping[int, int]:
    sums = {}
    for shard in piece.holders if len(piece.holders) > 1 else ():
        stored, value = shard.tensors[name], 0
        for chunk in files.chunks(stored.path or shard.path, stored, whole_region(stored.spec)):
            value = zlib.crc32(chunk, value)
        sums[shard.rank] = value
    return sums
