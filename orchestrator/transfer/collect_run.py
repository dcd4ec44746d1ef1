"""Collecting a run: its strategies, its shards and what belongs to the model, from its hosts to one place.

The shards are read through the hosts' agents, or directly where their files are visible here.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.agent.attempt_guard import reading
from orchestrator.agent.saved_steps import copies
from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.companion_files import BesideOutput, SmallFile
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import CopyPlan, Segment
from orchestrator.checkpoint.cut.complete_steps import Choice
from orchestrator.checkpoint.files.strategy_files import with_own_names
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.checkpoint.host_files import ReadSegment
from orchestrator.checkpoint.output_layout import Format, OutputLayout
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.inventory import SshOptions
from orchestrator.config.yaml_reader import parse_yaml
from orchestrator.control.attempts import plan_of_record
from orchestrator.control.copied_files import OwnersWord, owners_word
from orchestrator.control.logs import copy_logs
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import read_record
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from orchestrator.core.paths import ControlDir, RunDir, Workdir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.bulk_channel import BulkAgents
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.transfer.collect import Collected, Collection, collect, plan_collection, planned_layout
from orchestrator.transfer.copied_shards import (
    copied_strategies,
    copies_read,
    index_there,
    known_files,
    require_whole_here,
)
from orchestrator.transfer.small_files import KNOWN, Gathered, Spool, gather, parsed_strategies

__all__ = [
    "DryRun",
    "RunFiles",
    "collect_run",
    "default_output",
    "dry_run",
    "format_of",
    "no_empty_folder",
]

T = TypeVar("T")
# Bulk bytes come in pieces of megabytes; a disk that stands still this long has failed.
_READ_TIMEOUT = 300.0


class RunFiles:
    """`HostFiles` of one run.

    Local hosts are this machine. A file of another host is read directly where the same path leads here to
    the same file (a shared file system): same size, time of change and inode number. `via_hosts` has all of
    them read by their hosts.
    """

    def __init__(
        self,
        fleet: Fleet,
        run_id: str,
        options: SshOptions,
        *,
        via_hosts: bool = False,
        said: OwnersWord | None = None,
        attempt: int = 1,
    ) -> None:
        """`said` is what owners have said of the copies of this attempt: without it copies do not count."""
        self._said = said or {}
        self._attempt = attempt
        self._fleet = fleet
        self._run_id = run_id
        self._via_hosts = via_hosts
        self._bulk = BulkAgents(fleet, options)
        self._listed: dict[tuple[str, str], ShardFile] = {}
        self._direct: dict[tuple[str, str], str] = {}

    def is_direct(self, host: str, path: str) -> bool:
        """Whether a listed file is read without its host."""
        return (host, path) in self._direct

    def listed(self, host: str, path: str) -> ShardFile | None:
        """The file of that path, where it was listed."""
        return self._listed.get((host, path))

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        if self._is_here(host):
            run = self._run_dir(host)
            own = ckpt_read.list_shards(str(run.attempt.checkpoint), follow_links=False)
            files = known_files([*own, *copies(run, run.number or 1)], self._said, self._attempt)
            self._direct.update({(host, file.path): file.path for file in files})
        else:
            rows = self._ask(host, lambda agent: agent.shards(self._run_id, timeout=_READ_TIMEOUT))
            files = known_files(map(vars, rows), self._said, self._attempt)
            for file in files:
                if not (self._via_hosts or file.owner) and (path := self._visible_path(host, file)):
                    self._direct[host, file.path] = path
        self._listed.update({(host, file.path): file for file in files})
        return files

    def _visible_path(self, host: str, file: ShardFile) -> str:
        """Where the same file is on this machine; "" where it is not. Nothing of its path is the host's word.

        But for its name, and a rank's folder: they have been checked.
        """
        known = self._fleet.hosts[host]
        workdir = known.workdir
        if known.user and workdir.startswith("~/"):
            workdir = f"~{known.user}{workdir[1:]}"
        run = Workdir(workdir).run(self._run_id)
        address = self._fleet.addressed({"run_id": self._run_id})
        if "meant" in address:
            run = run.pinned(address["meant"]["number"])
        folder, name = os.path.split(file.path)
        rank = f"rank_{file.rank}"
        path = str(run.attempt.checkpoint / (rank if os.path.basename(folder) == rank else "") / name)
        try:
            status = os.stat(path)
        except OSError:
            return ""
        is_same = tuple(ckpt_read.identity_of(status)) == file.identity
        return path if is_same and os.access(path, os.R_OK) else ""

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        file = self._listed.get((host, path))
        if self.is_direct(host, path):
            if file is not None and file.owner:
                require_whole_here(file)
            return ckpt_read.index_shard(self._direct[host, path])
        return map(vars, self._ask(host, lambda agent: index_there(agent, path, file)))

    def read(self, host: str, segments: Sequence[Segment]) -> Iterator[ReadSegment]:
        wanted = [(segment.copy.path, segment.spans) for segment in segments]
        identities = {path: list(self._listed[host, path].identity) for path, _ in wanted}
        if all(self.is_direct(host, path) for path in identities):
            here = {path: self._direct[host, path] for path in identities}
            direct = [(here[path], spans) for path, spans in wanted]
            named = {here[path]: identity for path, identity in identities.items()}
            for data in ckpt_read.read_segments(direct, named):
                yield data, None
            return
        buffer = memoryview(bytearray(max(segment.nbytes for segment in segments)))
        with self._bulk.agent(host) as agent:
            yield from agent.read_segments(buffer, wanted, identities, timeout=_READ_TIMEOUT)

    def sums(self, host: str, segments: Sequence[Segment]) -> Iterator[int]:
        if all(self.is_direct(host, segment.copy.path) for segment in segments):
            yield from (zlib.crc32(data) for data, _ in self.read(host, segments))
            return
        wanted = [(segment.copy.path, segment.spans) for segment in segments]
        identities = {path: list(self._listed[host, path].identity) for path, _ in wanted}
        yield from self._ask(
            host, lambda agent: agent.sum_segments(wanted, identities, timeout=_READ_TIMEOUT)
        )

    def small_files(self, folder: str, spool: Spool) -> Gathered:
        """The known files in this folder of the run, of all hosts that can be asked."""

        def here(host: str) -> RunDir | None:
            return self._run_dir(host) if self._is_here(host) else None

        return gather(self._fleet, self._run_id, folder, here, spool)

    def interrupt(self) -> None:
        self._bulk.interrupt()

    def close(self) -> None:
        self._bulk.close()

    def _is_here(self, host: str) -> bool:
        return self._fleet.hosts[host].transport == "local"

    def _run_dir(self, host: str) -> RunDir:
        try:
            workdir = Workdir(self._fleet.hosts[host].workdir)
            return reading(workdir, self._fleet.addressed({"run_id": self._run_id}))
        except AgentError as error:
            raise AgentError(error.what, where=host, remedy=error.remedy, kind=error.kind) from error

    def _ask(self, host: str, question: Callable[[Agent], T]) -> T:
        try:
            return question(self._fleet.agent(host))
        except TransportError:
            self._fleet.drop(host)
            raise


_CONFIG = "config.yaml"
_LOGS = "logs"
_LOG = re.compile(r"(rank_\d+|scheduler|supervisor|plog\+.+)\.log", re.ASCII)
# What a folder for transformers takes over of the run's model/; the configuration is written anew there.
_FOR_HUGGINGFACE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


_NAMES: dict[Format, str] = {
    "ckpt": "{}.ckpt",
    "safetensors": "{}.safetensors",
    "huggingface": "{}-huggingface",
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
        )
        try:
            strategies, model = files.small_files("strategy", spool), files.small_files("model", spool)
            strategies.files.update(copied_strategies(fleet, plan, strategies.files, said, spool))
            wanted = replace(
                wanted,
                strategies=parsed_strategies(strategies.files),
                world_size=plan.world_size,
                source=plan.run_id,
                placed={placement.rank: placement.host for placement in plan.placements},
                model=_hf_model(model.files) if wanted.format == "huggingface" else None,
            )
            notes = (*strategies.notes, *model.notes)
            yield _Run(plan, fleet, files, wanted, model.files, strategies.files, notes)
        finally:
            files.close()


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
