"""What a run of MindFormers begins with, out of a checkpoint of this machine: what each host gets of it.

A folder of all ranks' files, a file or folder of whole tensors, or an iteration of checkpoint 2.0. In what
layout ranks have saved, their strategies and the run YAML beside them say; nothing is taken for granted.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent.iteration_folders import list_iterations
from orchestrator.agent.saved_steps import check_shard
from orchestrator.agent.shard_ranges import identity_of
from orchestrator.checkpoint.assemble import Assembled, assemble
from orchestrator.checkpoint.copy_engine import StreamedFile
from orchestrator.checkpoint.copy_plan import Output, plan_copies, rank_outputs, unknown_names, whole_output
from orchestrator.checkpoint.cut.coverage import is_moment
from orchestrator.checkpoint.cut.iterations import newest_iteration
from orchestrator.checkpoint.files.strategy_files import StrategySet, read_strategy_set
from orchestrator.checkpoint.open_checkpoint import RankFiles, open_checkpoint, open_rank_files
from orchestrator.checkpoint.output_layout import Format, lay_out
from orchestrator.checkpoint.shard_index import Shard, ShardFile
from orchestrator.config.job import Job
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_reader import read_source
from orchestrator.core.codec import from_json
from orchestrator.core.errors import CheckpointError
from orchestrator.core.iteration_answers import IterationList
from orchestrator.core.paths import RUN_YAML
from orchestrator.hosts.push_content import ContentFile
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.mindformers_load import load_words
from orchestrator.transfer.convert import kind_of, open_strategies, plan_combine, require, write
from orchestrator.transfer.distribute import LOADED, Shards, ranks_by_host
from orchestrator.transfer.mindformers_saves import MindFormersSaves, load_name, saves_in, words_of

__all__ = ["Share", "share_of"]

_RANK = re.compile(r"rank_(\d{1,6})", re.ASCII)
_ITERATION = re.compile(r"iteration_(\d{8,12})", re.ASCII)
_JSON = ("common.json", "metadata.json")
_WEIGHTS = (".ckpt", ".safetensors")
# Beside MindFormers' own folder of whole tensors: what the training loop keeps.
_COUNTERS = "hyper_param.safetensors"
# Of parameters in files of Hugging Face, which MindFormers converts where it loads them itself.
_FOREIGN = re.compile(r"(^|\.)(embed_tokens|self_attn|word_embeddings_layernorm)\.")
_TELL = "put the run YAML that it was saved with there, as " + RUN_YAML


@dataclass(frozen=True, slots=True)
class Share:
    """The files of all hosts, what the run YAML says for them to be loaded, and lines on what was taken."""

    shards: Shards
    words: Mapping[str, Any]
    notes: tuple[str, ...]


def share_of(job: Job, plan: LaunchPlan, source: Path, spool: Path) -> Share:
    """What each host gets of `source` for the plan's ranks. Reads headers and checksums.

    `spool` is a folder for a copy of the tensors, which is made where the ranks' files must be cut anew; what
    is sent is read from it. CheckpointError: nothing that is whole, damaged, without an optimizer's state
    where the run resumes; a layout that is another one, or that nothing tells, with what to do.
    """
    require(source)
    run = RunYaml(RUN_YAML, plan.run_yaml)
    resumes = job.checkpoint.resume
    ours = _Target(job, plan, bool(run.get("resume_training") if resumes is None else resumes))
    folder, step = _inside(source)
    if step is not None or any(map(_ITERATION.fullmatch, _names(folder))):
        _require_form(run, source, newer=True)
        return _of_iteration(ours, folder, step)
    _require_form(run, source, newer=False)
    if folder.is_dir() and kind_of(folder) == "ranks" and any(map(_RANK.fullmatch, _names(folder))):
        return _of_ranks(ours, folder, spool)
    return _of_whole(ours, _whole_file(folder))


@dataclass(frozen=True, slots=True)
class _Target:
    """The job for whose ranks it is, and whether they go on with optimizer and step."""

    job: Job
    plan: LaunchPlan
    resumes: bool

    @property
    def saves(self) -> MindFormersSaves:
        return saves_in(self.plan.run_yaml, self.plan.world_size)

    @property
    def ranks(self) -> dict[str, tuple[int, ...]]:
        return ranks_by_host(self.plan.placements)

    def strategies(self) -> StrategySet | None:
        """Those of the job's own layout, where it names them."""
        given = self.job.checkpoint.strategy
        if given is None:
            return None
        path = (self.job.path.parent if self.job.path else Path()) / given
        require(path)
        found = read_strategy_set(path)
        if found.world_size != self.plan.world_size:
            what = f"is for {found.world_size} ranks, and the job has {self.plan.world_size}"
            raise CheckpointError(what, where=str(path), remedy=f"see {self.where}")
        return found

    @property
    def where(self) -> str:
        return self.job.where("checkpoint", "strategy")

    def share(
        self,
        files: Mapping[int, StreamedFile | ContentFile],
        named: ShardFile,
        notes: Sequence[str] = (),
        *,
        needs_all: bool = False,
    ) -> Share:
        """Of the files of all ranks, which are named as one is."""
        size = self.plan.world_size
        names = {rank: load_name(rank, named, world_size=size) for rank in files}
        words = words_of(LOADED, {0: named}, world_size=size, needs_all=needs_all, resumes=self.resumes)
        return Share(Shards(files, self.ranks, names=names), words, tuple(notes))


def _inside(source: Path) -> tuple[Path, int | None]:
    """The folder of the checkpoints, and the iteration that was named."""
    match = _ITERATION.fullmatch(source.absolute().name)
    if match and source.is_dir():
        return source.absolute().parent, int(match[1])
    return (source / "checkpoint" if (source / "checkpoint").is_dir() else source), None


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _require_form(run: RunYaml, source: Path, *, newer: bool) -> None:
    """MindFormers loads each of its two forms where its run YAML is of that form, and no other."""
    is_newer = isinstance(run.get("checkpoint"), dict) or run.get("use_legacy_format") is False
    if newer and not is_newer:
        what = "is a checkpoint 2.0, which this run YAML does not load"
        raise CheckpointError(what, where=str(source), remedy="write use_legacy_format: False there")
    if is_newer and not newer:
        what = "is no checkpoint 2.0, and this run YAML (use_legacy_format: False) loads no other"
        remedy = "write use_legacy_format: True there, without a section checkpoint"
        raise CheckpointError(what, where=str(source), remedy=remedy)


def _of_iteration(ours: _Target, folder: Path, step: int | None) -> Share:
    """All files for each host: MindFormers itself takes from them what a rank needs, in any layout."""
    listed = {"here": from_json(IterationList, list_iterations(str(folder)))}
    chosen = newest_iteration(listed, step=step, with_optimizer=ours.resumes)
    home = folder / f"iteration_{chosen.iteration:08d}"
    names = [*sorted(chosen.files), *(name for name in _JSON if (home / name).is_file())]
    files = {number: ContentFile(home / name) for number, name in enumerate(names)}
    shards = Shards(files, ours.ranks, names=dict(enumerate(names)), whole=True)
    notes = (*chosen.notes(), f"{home}: all of it for each host")
    return Share(shards, load_words(LOADED, resume=ours.resumes), notes)


def _of_ranks(ours: _Target, folder: Path, spool: Path) -> Share:
    strategies, target, wanted = open_strategies(folder, None), ours.saves, ours.strategies()
    ranks = strategies.world_size if strategies else _ranks_in(folder)
    saved = _saved_as(folder, ranks)
    replicated = ranks == 1 or (saved is not None and saved.replicated)
    if wanted is None and not target.replicated:
        if saved is None or saved.layout != target.layout:
            raise _other_layout(ours, folder, ranks, is_told=saved is not None)
        found, shards = open_rank_files(folder, None, with_optimizer=True)
        return _as_they_are(ours, found, shards, needs_all=saved.needs_all)
    if replicated and wanted is None:
        found, shards = open_rank_files(folder, None, replicated=True, with_optimizer=True)
        return _as_they_are(ours, found, shards)
    if strategies is None and not replicated:
        what = f"holds files of {ranks} ranks, and nothing says how they are cut"
        remedy = f"{_TELL}, or their strategies in a folder `strategy` beside it"
        raise CheckpointError(what, where=str(folder), remedy=remedy)
    found, _ = open_rank_files(folder, strategies, replicated=replicated, with_optimizer=ours.resumes)
    for path in found.files.values():
        _check(path)
    format: Format = "safetensors" if next(iter(found.files.values())).suffix == ".safetensors" else "ckpt"
    combined = plan_combine(
        folder,
        None,
        step=found.step or None,
        with_optimizer=ours.resumes,
        replicated=replicated,
        format=format,
    )
    whole = spool / f"whole.{format}"
    write(combined, whole)
    made = _of_whole(ours, whole, name=ShardFile(0, 1, 1, 0, _path(found.epoch, found.step, format)))
    line = f"{folder}: step {found.step}, of {ranks} ranks, cut anew"
    return dataclasses.replace(made, notes=(*found.notes, line, *made.notes))


def _ranks_in(folder: Path) -> int:
    return max(int(match[1]) for name in _names(folder) if (match := _RANK.fullmatch(name))) + 1


def _saved_as(folder: Path, ranks: int) -> MindFormersSaves | None:
    """What the run YAML says with which the ranks have saved: in the folder, or beside it as in our runs."""
    for path in (folder / RUN_YAML, folder.absolute().parent / RUN_YAML):
        if path.is_file():
            text = read_source(path).decode("utf-8-sig", "replace")
            return saves_in(RunYaml(str(path), text).text, ranks)
    return None


def _other_layout(ours: _Target, folder: Path, ranks: int, *, is_told: bool) -> CheckpointError:
    theirs = (
        f"was saved by {ranks} ranks in another layout" if is_told else "does not say in which layout it is"
    )
    cut = (
        "name the strategies of the job's layout, which MindFormers writes with only_save_strategy: True, as "
        "checkpoint.strategy"
    )
    remedy = cut if is_told else f"{_TELL}; or {cut}"
    return CheckpointError(
        f"{theirs}, and MindFormers loads no other than its own", where=str(folder), remedy=remedy
    )


def _as_they_are(
    ours: _Target, found: RankFiles, shards: Sequence[Shard], *, needs_all: bool = False
) -> Share:
    """The ranks' own files; a single one for all ranks where each of them is whole."""
    target, ranks = ours.saves, range(ours.plan.world_size)
    lacking = [] if target.replicated else [rank for rank in ranks if rank not in found.files]
    if lacking or len({path.suffix for path in found.files.values()}) > 1:
        what = f"no file of rank {lacking[0]}" if lacking else "files of two formats, ckpt and safetensors"
        raise CheckpointError(f"holds {what}", where=str(next(iter(found.files.values())).parent.parent))
    files: dict[int, StreamedFile | ContentFile] = {}
    for shard in shards[:1] if target.replicated else shards:
        _require_state(ours, shard)
        # Who has left something out says so in the file.
        as_it_is = ours.resumes or needs_all
        files[shard.rank] = _file(Path(shard.path)) if as_it_is else _weights_of(shard)
    if target.replicated:
        files = dict.fromkeys(ranks, next(iter(files.values())))
    first = found.files[shards[0].rank]
    named = ShardFile(shards[0].rank, found.epoch, found.step, 0, str(first))
    if found.step == 0:  # the names do not tell
        named = dataclasses.replace(named, path=_path(0, 0, first.suffix[1:]))
    line = f"{first.parent.parent}: step {found.step}" if found.step else f"{first.parent.parent}"
    notes = (*found.notes, f"{line}: the ranks' files, as they are")
    return ours.share(files, named, notes, needs_all=needs_all)


def _of_whole(ours: _Target, path: Path, name: ShardFile | None = None) -> Share:
    shard = _with_counters(open_checkpoint(path)) if ours.resumes else open_checkpoint(path)
    if foreign := next((name for name in shard.tensors if _FOREIGN.search(name)), None):
        what = f"holds {foreign}, a name of Hugging Face's, and MindFormers converts where it loads itself"
        remedy = "put the folder on the hosts, and name it as pretrained_model_dir or load_checkpoint"
        raise CheckpointError(what, where=str(path), remedy=remedy)
    _require_state(ours, shard)
    suffix = "safetensors" if path.suffix != ".ckpt" else "ckpt"
    named = name or ShardFile(0, 0, 0, 0, _path(0, 0, suffix))
    wanted, ranks = ours.strategies(), range(ours.plan.world_size)
    if wanted is None:
        if not ours.saves.replicated:
            what = "holds whole tensors, and the job's ranks load slices of them"
            remedy = (
                f"name the strategies by which they are cut as {ours.where}: MindFormers writes them with"
            )
            raise CheckpointError(what, where=str(path), remedy=f"{remedy} only_save_strategy: True")
        one = _file(path) if ours.resumes and path.suffix in _WEIGHTS else _weights_of(shard, ours.resumes)
        return ours.share(dict.fromkeys(ranks, one), named)
    for each in {stored.path or shard.path for stored in shard.tensors.values()}:
        _check(Path(each))
    whole = assemble([shard], {}, with_optimizer=ours.resumes, with_texts=suffix == "ckpt")
    slices = _slices(whole, wanted, ours, shard.path, suffix)
    return ours.share(slices, named, _lacking(whole, wanted, shard.path))


def _slices(
    whole: Assembled, wanted: StrategySet, ours: _Target, where: str, suffix: str
) -> dict[int, StreamedFile | ContentFile]:
    """What each rank loads, cut by these strategies; equal ones are one file."""
    try:
        outputs = rank_outputs(whole, wanted)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=where, remedy=f"see {ours.where}") from error
    first: dict[tuple[object, ...], Output] = {}
    for output in outputs:
        first.setdefault(output.tensors, output)
    plan = plan_copies(whole, list(first.values()))
    files = [output.specs for output in plan.outputs]
    layout = lay_out(files, _format(suffix), names=[f"rank_{each.rank}" for each in first.values()])
    streams = {tensors: StreamedFile(plan, layout, index) for index, tensors in enumerate(first)}
    return {output.rank: streams[output.tensors] for output in outputs}


def _lacking(whole: Assembled, wanted: StrategySet, where: str) -> list[str]:
    names = unknown_names(whole, wanted)
    more = ", …" if len(names) > 3 else ""
    return (
        [f"{where} lacks {len(names)} parameters of the layout: {', '.join(names[:3])}{more}"]
        if names
        else []
    )


def _weights_of(shard: Shard, with_all: bool = False) -> StreamedFile | ContentFile:
    """The weights of a file, or all that it holds, as a file that is read when it is sent."""
    for path in {stored.path or shard.path for stored in shard.tensors.values()}:
        _check(Path(path))
    suffix = "ckpt" if shard.path.endswith(".ckpt") else "safetensors"
    whole = assemble([shard], {}, with_optimizer=with_all, with_texts=suffix == "ckpt")
    if not whole.skipped and shard.path.endswith(_WEIGHTS):
        return ContentFile(Path(shard.path))
    if not whole.tensors:
        raise CheckpointError("holds no weights", where=shard.path)
    plan = plan_copies(whole, [whole_output(whole)])
    layout = lay_out([output.specs for output in plan.outputs], _format(suffix))
    return StreamedFile(plan, layout, 0)


def _format(suffix: str) -> Format:
    return "ckpt" if suffix == "ckpt" else "safetensors"


def _file(path: Path) -> ContentFile:
    _check(path)
    return ContentFile(path)


def _check(path: Path) -> None:
    """CheckpointError: by its structure, or a checksum of its own or beside it, the file is damaged."""
    if path.suffix in _WEIGHTS:
        check_shard(str(path), identity_of(path.stat()), hashed=False)


def _with_counters(shard: Shard) -> Shard:
    """With what lies beside an index of whole tensors: of which step they are."""
    beside = Path(shard.path).parent / _COUNTERS
    if not shard.path.endswith(".json") or not beside.is_file():
        return shard
    more = {
        name: dataclasses.replace(stored, path=str(beside))
        for name, stored in open_checkpoint(beside).tensors.items()
    }
    return dataclasses.replace(shard, tensors={**more, **shard.tensors})


def _require_state(ours: _Target, shard: Shard) -> None:
    if not ours.resumes:
        return
    has_moments = any(map(is_moment, shard.tensors))
    if not has_moments or "step_num" not in shard.tensors:
        lacks = "no step_num, from which MindFormers goes on" if has_moments else "no optimizer's state"
        remedy = "collect it with --with-optimizer, or begin with its weights: checkpoint.resume: false"
        raise CheckpointError(f"holds {lacks}", where=shard.path, remedy=remedy)


def _whole_file(path: Path) -> Path:
    """The one file of weights of a folder without an index; CheckpointError where there are several."""
    if not path.is_dir() or any(
        name.endswith((".index.json", "param_name_map.json")) for name in _names(path)
    ):
        return path
    files = [path / name for name in _names(path) if name.endswith(_WEIGHTS)]
    if len(files) == 1:
        return files[0]
    what = f"holds {len(files)} files of weights without an index" if files else "holds no checkpoint"
    raise CheckpointError(what, where=str(path), remedy="name the file, or the folder with rank_0, rank_1, …")


def _path(epoch: int, step: int, suffix: str) -> str:
    return f"rank_0/checkpoint_rank_0-{epoch}_{step}.{suffix}"
