"""Collecting a run: its strategies, its shards and what belongs to the model, from its hosts to one place.

The shards are read through the hosts' agents, or directly where their files are visible here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.agent import host_runs as runs
from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import CopyPlan, Segment
from orchestrator.checkpoint.cut.complete_steps import Choice
from orchestrator.checkpoint.files.strategy_files import Strategy, parse_strategy, with_own_names
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.checkpoint.host_files import ReadSegment
from orchestrator.checkpoint.output_layout import Format, OutputLayout
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.inventory import SshOptions
from orchestrator.config.yaml_reader import parse_yaml
from orchestrator.control.logs import copy_logs
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from orchestrator.core.paths import ControlDir, RunDir, Workdir, atomic_write
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.bulk_channel import BulkAgents
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.transfer.collect import Collected, Collection, collect, plan_collection, planned_layout

__all__ = [
    "DryRun",
    "RunFiles",
    "collect_run",
    "default_output",
    "dry_run",
    "format_of",
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

    def __init__(self, fleet: Fleet, run_id: str, options: SshOptions, *, via_hosts: bool = False) -> None:
        self._fleet = fleet
        self._run_id = run_id
        self._via_hosts = via_hosts
        self._bulk = BulkAgents(fleet, options)
        self._listed: dict[tuple[str, str], ShardFile] = {}
        self._direct: dict[tuple[str, str], str] = {}

    def is_direct(self, host: str, path: str) -> bool:
        """Whether a listed file is read without its host."""
        return (host, path) in self._direct

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        if self._is_here(host):
            folder = str(self._run_dir(host).attempt.checkpoint)
            here = ckpt_read.list_shards(folder, follow_links=False)
            files = [ShardFile.of(row) for row in here]
            self._direct.update({(host, file.path): file.path for file in files})
        else:
            rows = self._ask(host, lambda agent: agent.shards(self._run_id, timeout=_READ_TIMEOUT))
            files = [ShardFile.of(vars(row)) for row in rows]
            for file in files:
                if not self._via_hosts and (path := self._visible_path(host, file)):
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
        if self.is_direct(host, path):
            return ckpt_read.index_shard(self._direct[host, path])
        return map(vars, self._ask(host, lambda agent: agent.index(path, timeout=_READ_TIMEOUT)))

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

    def small_files(self, folder: str) -> tuple[dict[str, bytes], list[str]]:
        """The files in this folder of the run, of all hosts that can be asked; of one name, the last's.

        Also a line a host on files whose names are not those that belong there: they are left out.
        """
        known = _KNOWN[folder]

        def fetch(agent: Agent) -> list[tuple[str | None, bytes]]:
            return list(agent.small_files(self._run_id, folder, known))

        listed = {
            host: [(name if known.fullmatch(name) else None, data) for name, data in files]
            for host in self._fleet.hosts
            if self._is_here(host)
            for files in [runs.small_files(self._run_dir(host), folder)]
        }
        # A host that is gone may not be needed: its replicas are elsewhere. `collect` decides that.
        listed.update(
            self._fleet.each(fetch, [host for host in self._fleet.hosts if host not in listed]).values
        )
        found: dict[str, bytes] = {}
        skipped = []
        for host, files in listed.items():
            found.update({name: data for name, data in files if name is not None})
            if count := sum(name is None for name, _ in files):
                skipped.append(f"{host}: {count} files of {folder}/ are none of ours and were left out")
        same: dict[bytes, bytes] = {}  # the ranks of a stage have equal strategies, which can be large
        return {name: same.setdefault(data, data) for name, data in found.items()}, skipped

    def interrupt(self) -> None:
        self._bulk.interrupt()

    def close(self) -> None:
        self._bulk.close()

    def _is_here(self, host: str) -> bool:
        return self._fleet.hosts[host].transport == "local"

    def _run_dir(self, host: str) -> RunDir:
        try:
            return runs.find(Workdir(self._fleet.hosts[host].workdir), self._run_id)
        except AgentError as error:
            raise AgentError(error.what, where=host, remedy=error.remedy, kind=error.kind) from error

    def _ask(self, host: str, question: Callable[[Agent], T]) -> T:
        try:
            return question(self._fleet.agent(host))
        except TransportError:
            self._fleet.drop(host)
            raise


_STRATEGY = re.compile(r"[\w.+-]*_rank_(\d+)\.ckpt", re.ASCII)
# What a worker puts beside the weights, and what comes with a tokenizer.
_MODEL = re.compile(
    r"config\.(yaml|json)|generation_config\.json|tokenizer\.(json|model)|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)"
)
_KNOWN = {"strategy": _STRATEGY, "model": _MODEL}
_CONFIG = "config.yaml"
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
    model: Mapping[str, bytes]
    strategies: Mapping[str, bytes]
    skipped: tuple[str, ...]

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.plan.hosts]


def dry_run(control: ControlDir, wanted: Collection, *, via_hosts: bool = False) -> DryRun:
    """Plan what `collect_run` would do. Asks the hosts, writes nothing, raises what `collect_run` does."""
    with _opened(control, wanted, via_hosts) as run:
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
    with _opened(control, wanted, options.via_hosts) as run:
        # A stream takes a core for itself: more of them would only be in each other's way.
        streams = 2 if len(run.hosts) < (os.cpu_count() or 1) else 1
        options = replace(options, streams_per_host=streams)
        collected = collect(run.files, run.hosts, run.wanted, output, options, report)
        for line in run.skipped:
            report.say(line)
        for rank, host in _absent(run, collected.choice, collected.unreachable).items():
            report.say(f"rank {rank} on {host} has no file of that step: replicas on other ranks were read")
        with mapped_errors(output):
            _write_beside(run, output)
            if with_logs:
                for line in copy_logs(run.plan, run.fleet, _beside(output, "logs")):
                    report.say(line)
    return collected


@contextmanager
def _opened(control: ControlDir, wanted: Collection, via_hosts: bool) -> Iterator[_Run]:
    plan = read_plan(control.plan)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        files = RunFiles(fleet, plan.run_id, plan.ssh, via_hosts=via_hosts)
        try:
            (strategies, odd), (model, others) = files.small_files("strategy"), files.small_files("model")
            wanted = replace(
                wanted,
                strategies=_parsed(strategies),
                world_size=plan.world_size,
                source=plan.run_id,
                placed={placement.rank: placement.host for placement in plan.placements},
                model=_hf_model(model) if wanted.format == "huggingface" else None,
            )
            yield _Run(plan, fleet, files, wanted, model, strategies, (*odd, *others))
        finally:
            files.close()


def _parsed(files: Mapping[str, bytes]) -> dict[int, Strategy]:
    strategies: dict[int, Strategy] = {}
    same: dict[bytes, Strategy] = {}  # the ranks of a stage have equal files
    for name, data in files.items():
        match = _STRATEGY.fullmatch(name)
        if match is not None:
            same[data] = strategies[int(match[1])] = same.get(data) or parse_strategy(data, name)
    return strategies


def _hf_model(files: Mapping[str, bytes]) -> HfModel | None:
    if _CONFIG not in files:
        return None
    beside = {name: files[name] for name in _FOR_HUGGINGFACE if name in files}
    return HfModel(parse_yaml(f"model/{_CONFIG}", files[_CONFIG]).data, beside)


def _absent(run: _Run, choice: Choice, unreachable: Mapping[str, OrchestrateError]) -> dict[int, str]:
    """The ranks without a file of the step, whose host was asked, with that host."""
    ranks = {rank: host for rank, host in run.wanted.placed.items() if host not in unreachable}
    return {rank: host for rank, host in ranks.items() if rank not in choice.files}


def _write_beside(run: _Run, output: Path) -> None:
    if run.wanted.format != "huggingface":
        for name, data in run.model.items():
            atomic_write(output.parent / name, data, mode=0o644)
    if run.strategies:
        folder = _beside(output, "strategy")
        same: dict[bytes, bytes] = {}  # the ranks of a stage have equal files
        for name, data in run.strategies.items():
            if data not in same:
                same[data] = with_own_names(data, name)
            atomic_write(folder / name, same[data], mode=0o644)


def _beside(output: Path, what: str) -> Path:
    """An empty folder: what another collection left there would mix with this one's."""
    folder = output.with_name(f"{output.name}.{what}")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder
