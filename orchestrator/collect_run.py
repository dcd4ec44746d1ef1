"""Collect a run: its strategies, its shards and what belongs to the model, from its hosts into one place."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.checkpoint.plan import CollectPlan
from orchestrator.checkpoint.steps import Choice
from orchestrator.checkpoint.strategy_file import Strategy, parse_strategy
from orchestrator.checkpoint.target import OutputLayout
from orchestrator.checkpoint.transfer import Progress
from orchestrator.collect import Collected, collect, lay_out
from orchestrator.collect_plan import Collection, plan_collection
from orchestrator.errors import OrchestrateError
from orchestrator.fleet import Fleet, fleet_of
from orchestrator.launch_plan import LaunchPlan, read_plan
from orchestrator.layout import ControlDir, atomic_write
from orchestrator.logs import copy_logs
from orchestrator.run_files import RunFiles
from orchestrator.yaml_file import parse_yaml

__all__ = ["DryRun", "collect_run", "dry_run"]

_STRATEGY = re.compile(r".*_rank_(\d+)\.ckpt")
_CONFIG = "config.yaml"
# What a folder for transformers takes over of the run's model/; the configuration is written anew there.
_FOR_HUGGINGFACE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What `collect_run` would do; `direct` are the bytes per host that are read without it."""

    choice: Choice
    plan: CollectPlan
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

    @property
    def hosts(self) -> list[str]:
        return [host.name for host in self.plan.hosts]


def dry_run(control: ControlDir, wanted: Collection, *, via_hosts: bool = False) -> DryRun:
    """Plan what `collect_run` would do. Asks the hosts, writes nothing, raises what `collect_run` does."""
    with _opened(control, wanted, via_hosts) as run:
        choice, plan, unreachable = plan_collection(run.files, run.hosts, run.wanted)
        direct: dict[str, int] = {}
        for read in plan.reads:
            if run.files.is_direct(read.host, read.path):
                direct[read.host] = direct.get(read.host, 0) + read.nbytes
        layout = lay_out(plan, run.wanted)
        return DryRun(choice, plan, layout, direct, _absent(run, choice, unreachable), unreachable)


def collect_run(
    control: ControlDir,
    wanted: Collection,
    output: Path,
    *,
    via_hosts: bool = False,
    with_logs: bool = False,
    rate: int | None = None,
    durable: bool = True,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Collected:
    """Write the run's weights to `output`, and beside it what belongs to them.

    That is the model's configuration and tokenizer, `<output>.strategy/`, and `<output>.logs/` if asked for.
    Of `wanted` the run itself fills in strategies, ranks and names. Raises what `collect` raises.
    """
    with _opened(control, wanted, via_hosts) as run:
        collected = collect(
            run.files,
            run.hosts,
            run.wanted,
            output,
            progress=progress,
            say=say,
            rate=rate,
            durable=durable,
            # A stream takes a core for itself: more of them would only be in each other's way.
            streams_per_host=2 if len(run.hosts) < (os.cpu_count() or 1) else 1,
        )
        for rank, host in _absent(run, collected.choice, collected.unreachable).items():
            say(f"rank {rank} on {host} has no file of that step: replicas on other ranks were read")
        with mapped_errors(output):
            _write_beside(run, output)
            if with_logs:
                for line in copy_logs(run.plan, run.fleet, _beside(output, "logs")):
                    say(line)
    return collected


@contextmanager
def _opened(control: ControlDir, wanted: Collection, via_hosts: bool) -> Iterator[_Run]:
    plan = read_plan(control.plan)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        files = RunFiles(fleet, plan.run_id, plan.ssh, via_hosts=via_hosts)
        try:
            strategies, model = files.small_files("strategy"), files.small_files("model")
            wanted = replace(
                wanted,
                strategies=_parsed(strategies),
                world_size=plan.world_size,
                source=plan.run_id,
                placed={placement.rank: placement.host for placement in plan.placements},
                model=_hf_model(model) if wanted.format == "huggingface" else None,
            )
            yield _Run(plan, fleet, files, wanted, model, strategies)
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
        for name, data in run.strategies.items():
            atomic_write(folder / name, data, mode=0o644)


def _beside(output: Path, what: str) -> Path:
    """An empty folder: what another collection left there would mix with this one's."""
    folder = output.with_name(f"{output.name}.{what}")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder
