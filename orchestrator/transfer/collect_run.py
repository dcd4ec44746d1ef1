"""Collecting a run: its strategies, its shards and what belongs to the model, from its hosts to one place.

The shards are read through the hosts' agents, or directly where their files are visible here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.companion_files import BesideOutput, SmallFile
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import CopyPlan
from orchestrator.checkpoint.cut.complete_steps import Choice, choose_step
from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.files.strategy_files import with_own_names
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.checkpoint.output_layout import Format, OutputLayout
from orchestrator.config.yaml_reader import parse_yaml
from orchestrator.control.attempts import plan_of_record
from orchestrator.control.copied_files import owners_word
from orchestrator.control.logs import copy_logs
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import read_record
from orchestrator.core.errors import (
    AgentError,
    CheckpointError,
    HostsFailed,
    OrchestrateError,
    TransportError,
)
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.transfer.collect import Collected, Collection, collect, plan_collection, planned_layout
from orchestrator.transfer.collect_iteration import METADATA, Iteration, iteration_of
from orchestrator.transfer.copied_shards import (
    copied_strategies,
    copies_read,
)
from orchestrator.transfer.mindformers_saves import MindFormersSaves, saves_of
from orchestrator.transfer.run_files import RunFiles
from orchestrator.transfer.saved_attempts import iterations_of
from orchestrator.transfer.small_files import KNOWN, Spool, parsed_strategies

__all__ = [
    "DryRun",
    "collect_run",
    "default_output",
    "dry_run",
    "format_of",
    "no_empty_folder",
]

_CONFIG = "config.yaml"
_LOGS = "logs"
_LOG = re.compile(r"(rank_\d+|scheduler|supervisor|plog\+.+)\.log", re.ASCII)
# What a folder for transformers takes over of the run's model/; the configuration is written anew there.
_FOR_HUGGINGFACE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


_NAMES: dict[Format, str] = {
    "ckpt": "{}.ckpt",
    "safetensors": "{}.safetensors",
    "huggingface": "{}-huggingface",
    "unified": "{}-unified",
}


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `collect_run` would do; `direct` are the bytes per host that are read without it."""

    choice: Choice
    plan: CopyPlan
    layout: OutputLayout
    direct: Mapping[str, int]
    absent: Mapping[int, str]
    unreachable: Mapping[str, OrchestrateError]


@dataclass(frozen=True, slots=True)
class _Run:
    plan: LaunchPlan
    fleet: Fleet
    files: RunFiles
    wanted: Collection
    model: Mapping[str, SmallFile]
    strategies: Mapping[str, SmallFile]
    notes: tuple[str, ...]

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.plan.hosts]


def dry_run(control: ControlDir, wanted: Collection, *, via_hosts: bool = False) -> DryRun:
    """Plan what `collect_run` would do. Asks the hosts, writes nothing, raises what `collect_run` does."""
    with _opened(control, wanted, via_hosts, Spool()) as run:
        choice, plan, unreachable = plan_collection(run.files, run.hosts, run.wanted)
        direct: dict[str, int] = {}
        for copy in plan.copies:
            if run.files.is_direct(copy.host, copy.path):
                direct[copy.host] = direct.get(copy.host, 0) + copy.nbytes
        layout = planned_layout(plan, run.wanted)
        return DryRun(choice, plan, layout, direct, _absent(run, choice, unreachable), unreachable)


def format_of(output: Path | None) -> Format:
    """The format that the name of an output asks for."""
    return "safetensors" if output is not None and output.suffix == ".safetensors" else "ckpt"


def default_output(control: ControlDir, form: Format) -> Path:
    """Where a run is collected that nobody says a place for."""
    return Path("collected") / control.run_id / _NAMES[form].format(read_plan(control.plan).job_name)


def collect_run(
    control: ControlDir,
    wanted: Collection,
    output: Path,
    options: CopyOptions | None = None,
    report: Report | None = None,
    *,
    with_logs: bool = False,
) -> Collected:
    """Write the run's weights to `output`, and beside it what belongs to them.

    That is the model's configuration and tokenizer, `<output>.strategy/`, and `<output>.logs/` if asked for.
    Of `wanted` the run itself fills in strategies, ranks and names; of `options` the number of streams.
    Raises what `collect` raises.
    """
    options, report = options or CopyOptions(), report or Report()
    with (
        no_empty_folder(output),
        _opened(control, wanted, options.via_hosts, Spool(_existing(output))) as run,
    ):
        # A stream takes a core for itself: more of them would only be in each other's way.
        streams = 2 if len(run.hosts) < (os.cpu_count() or 1) else 1
        options = replace(options, streams_per_host=streams)
        for line in run.notes:
            report.say(line)
        beside = _beside(run, output, with_logs)
        earlier = beside.require_free()
        wanted = replace(run.wanted, beside={name: file.sha256 for name, file in beside.files.items()})
        collected = collect(run.files, run.hosts, wanted, output, options, report)
        for rank, host in _absent(run, collected.choice, collected.unreachable).items():
            report.say(f"rank {rank} on {host} has no file of that step: replicas on other ranks were read")
        places = collected.choice.files.values()
        for line in copies_read({place: file for place in places if (file := run.files.listed(*place))}):
            report.say(line)
        put = beside.put(earlier)
        if with_logs:
            folder = beside.folder(f"{output.name}.{_LOGS}")
            with mapped_errors(folder):
                for line in copy_logs(run.plan, run.fleet, folder, without=collected.unreachable):
                    report.say(line)
            put = replace(put, written=(*put.written, *sorted(folder.iterdir())))
    return replace(collected, beside=put)


@contextmanager
def no_empty_folder(output: Path) -> Iterator[None]:
    """Take away the folders that were made for an output of which, in the end, nothing came."""
    existing = _existing(output)
    try:
        yield
    finally:
        for folder in output.absolute().parents:
            if folder == existing:
                break
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # something is in it, or it is not ours to take away
                break


def _existing(output: Path) -> Path:
    """The folder of the output, or that in which it will be made."""
    return next(folder for folder in output.absolute().parents if folder.is_dir())


@contextmanager
def _opened(control: ControlDir, wanted: Collection, via_hosts: bool, spool: Spool) -> Iterator[_Run]:
    record = read_record(control)
    plan = plan_of_record(control, record, wanted.attempt)
    saves = saves_of(plan)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        fleet.address(address_of(record, plan.attempt.number))
        said = owners_word(control, record)
        files = RunFiles(
            fleet,
            plan.run_id,
            plan.ssh,
            via_hosts=via_hosts,
            said=said,
            attempt=plan.attempt.number,
            with_steps=saves is not None,
        )
        try:
            strategies, model = files.small_files("strategy", spool), files.small_files("model", spool)
            strategies.files.update(copied_strategies(fleet, plan, strategies.files, said, spool))
            known = parsed_strategies(strategies.files)
            own = saves or MindFormersSaves()
            wanted = replace(
                wanted,
                strategies=known,
                replicated=wanted.replicated or (own.replicated and not known),
                needs_all=own.needs_all,
                world_size=plan.world_size,
                source=plan.run_id,
                placed={placement.rank: placement.host for placement in plan.placements},
                model=_hf_model(model.files) if wanted.format == "huggingface" else None,
            )
            notes = [*strategies.notes, *model.notes]
            if saves is not None:
                wanted = replace(wanted, iteration=_iteration(plan, fleet, files, wanted, notes))
            yield _Run(plan, fleet, files, wanted, model.files, strategies.files, tuple(notes))
        finally:
            files.close()


def _iteration(
    plan: LaunchPlan, fleet: Fleet, files: RunFiles, wanted: Collection, notes: list[str]
) -> Iteration | None:
    """The iteration of checkpoint 2.0 to collect; None where what is wanted is in shards, or nowhere.

    `notes` gets what is to be told of it.
    """
    answers = iterations_of(fleet, plan.run_id, plan.attempt)
    if not any(each.iterations for each in answers.values()):
        return None

    def metadata(host: str, number: int) -> bytes:
        folder = f"checkpoint/iteration_{number:08d}"
        pieces = fleet.agent(host).small_files(plan.run_id, folder, METADATA, attempt=plan.attempt)
        return b"".join(data for name, data in pieces if name is not None)

    newest = _of_shards(plan, files, wanted)
    try:
        found = iteration_of(answers, metadata, step=wanted.step, with_optimizer=wanted.with_optimizer)
    except (AgentError, CheckpointError, HostsFailed, TransportError) as error:
        if newest is None:
            raise
        notes.append(f"{error}: the ranks' own files, of step {newest}, are taken instead")
        return None
    if newest is not None and newest >= found.choice.iteration:
        return None
    for host, listed in found.files.items():
        files.take(host, listed)
    notes += found.notes
    return found


def _of_shards(plan: LaunchPlan, files: RunFiles, wanted: Collection) -> int | None:
    """The step that would be collected of the ranks' own files."""
    listed = {}
    for host in plan.hosts:
        with suppress(OrchestrateError):
            listed[host.name] = files.list_shards(host.name)
    with suppress(CheckpointError):
        return choose_step(
            by_global_step(listed),
            {} if wanted.needs_all else wanted.strategies,
            wanted.world_size,
            step=wanted.step,
            with_optimizer=wanted.with_optimizer,
            replicated=wanted.replicated,
        ).step
    return None


def _hf_model(files: Mapping[str, SmallFile]) -> HfModel | None:
    if _CONFIG not in files:
        return None
    beside = {name: files[name].content() for name in _FOR_HUGGINGFACE if name in files}
    return HfModel(parse_yaml(f"model/{_CONFIG}", files[_CONFIG].content()).data, beside)


def _absent(run: _Run, choice: Choice, unreachable: Mapping[str, OrchestrateError]) -> dict[int, str]:
    """The ranks without a file of the step, whose host was asked, with that host. Damaged files are told."""
    failed = {row.rank for key in choice.failed if (row := run.files.listed(*key))}
    ranks = {rank: host for rank, host in run.wanted.placed.items() if host not in unreachable}
    return {rank: host for rank, host in ranks.items() if rank not in choice.files and rank not in failed}


def _beside(run: _Run, output: Path, with_logs: bool) -> BesideOutput:
    """What is put beside the output: `config.yaml`, …, `<output>.strategy/…`, and later `<output>.logs/…`."""
    strategy = f"{output.name}.strategy"
    files = dict(run.model) if run.wanted.format != "huggingface" else {}
    same: dict[str, SmallFile] = {}  # the ranks of a stage have equal files
    for name, file in run.strategies.items():
        if file.sha256 not in same:
            same[file.sha256] = SmallFile.of(with_own_names(file.content(), name))
        files[f"{strategy}/{name}"] = same[file.sha256]
    folders = {strategy: KNOWN["strategy"]} if run.strategies else {}
    if with_logs:
        folders[f"{output.name}.{_LOGS}"] = _LOG
    return BesideOutput(output, files, folders, frozenset({f"{output.name}.{_LOGS}"}))
