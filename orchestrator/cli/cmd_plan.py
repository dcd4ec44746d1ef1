"""`orchestrate plan JOB`"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.copy_notes import copies_line
from orchestrator.cli.options import json_option, print_json, set_option
from orchestrator.cli.plan_mindformers import described_run, plan_mindformers
from orchestrator.cli.render_saving import saving_data, saving_view
from orchestrator.cli.render_sizing import estimate_view, spread_view, suggestions_view
from orchestrator.cli.sizing_data import estimate_data, suggestions_data
from orchestrator.cli.terminal import Console, wrapped
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from orchestrator.control.past_saves import past_saves
from orchestrator.core.errors import ConfigError, Problem, UsageError
from orchestrator.families.network_config import NetworkConfig
from orchestrator.plan.fewer_hosts import require_min_hosts
from orchestrator.plan.placement import groups_between_hosts, hosts_of, spread_problems
from orchestrator.plan.spare_hosts import spares_of
from orchestrator.sizing.copy_rate import CopyNeed, copy_need
from orchestrator.sizing.device_memory import HBM
from orchestrator.sizing.estimate import Estimate, estimate, size_of
from orchestrator.sizing.saving import Saving, saving_of
from orchestrator.sizing.step_workload import Workload, workload_of
from orchestrator.sizing.suggest import Suggestion, suggest

__all__ = ["command"]


_LEAST_DEVICE = 1 << 30


@click.command("plan")
@click.argument("file", metavar="JOB", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--suggest", "wanted", is_flag=True, help="Propose layouts that fit, the fastest first.")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Of MindSpore's memory pool, such as 31GB; default: the job's max_device_memory.",
)
@click.option(
    "--hbm",
    metavar="SIZE",
    help="What a device has in all, such as 32GB: room for HCCL's buffers is judged by it.",
)
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take --hbm from the `chip` of the job's hosts: 910A 32 GB, 910B and A3 64 GB.",
)
@click.option(
    "--config",
    "model",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The config.json of the run YAML's `pretrained_model_dir`, where that is on the hosts.",
)
@set_option("Change a value of JOB for this plan.")
@json_option
def command(
    file: Path,
    wanted: bool,
    memory: str | None,
    hbm: str | None,
    inventory: Path | None,
    model: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Estimate what JOB needs on each rank; exit code 2 where that is more than a device has.

    JOB is a job, or a run YAML of MindFormers, or the config.json of a model: dense decoders such as Llama,
    Qwen and GLM are estimated, too. --set then names keys of the run YAML: parallel_config.model_parallel=8.
    """
    described = described_run(file, overrides, model, inventory)
    if described is not None:
        device = _device_memory(described.hosts, hbm, inventory)
        return plan_mindformers(described, memory, device, wanted=wanted, as_json=as_json)
    if model is not None:
        raise UsageError("--config: only a run of MindFormers has a pretrained_model_dir")
    if memory is not None:
        overrides = (*overrides, f"max_device_memory={memory}")
    loaded = _on_its_ranks(load_job(file, overrides), inventory)
    return _plan_bundled(loaded, hbm, inventory, wanted=wanted, as_json=as_json)


def _plan_bundled(
    loaded: Job, hbm: str | None, inventory: Path | None, *, wanted: bool, as_json: bool
) -> int:
    """Print the estimate of a job of a bundled network."""
    known = load_inventory(inventory) if inventory is not None else None
    hosts = hosts_of(loaded, known) if known is not None else ()
    spares = spares_of(loaded, known, hosts) if known is not None else ()
    chips = {host.chip for host in hosts if host.chip is not None}
    network, workload = network_of(loaded), workload_of(loaded, chips)
    limit = size_of(loaded.max_device_memory) if loaded.max_device_memory else None
    device = _device_memory(hosts, hbm, inventory)
    problems = [Problem(loaded.where("parallel", key), *text) for key, *text in workload.problems(network)]
    problems += spread_problems(loaded, max(1, workload.cut.world_size // loaded.devices_per_host))
    if known is not None:
        require_min_hosts(loaded, known)
    made = None if problems else estimate(network, workload)
    beside = _beside(loaded, made, spares, inventory)
    found = _suggestions(loaded, network, workload, limit, device) if wanted else []
    saving = _saving(loaded, made) if made is not None else None
    if as_json:
        print_json(_as_data(network, made, found, device, saving) | beside.data())
    else:
        console = Console(soft_wrap=True, highlight=False)
        if made is not None:
            console.print(
                estimate_view(loaded.name, network, workload, made, limit, device, width=console.width)
            )
        beside.show(console)
        if saving is not None:
            console.print(saving_view(loaded.checkpoint, saving, width=console.width))
        if wanted:
            console.print(suggestions_view(workload, found))
    if problems:
        raise ConfigError(problems)
    if made is not None and not made.fits(limit, device):
        raise ConfigError([_too_large(loaded, made, limit, device)])
    return 0


@dataclass(frozen=True, slots=True)
class _Beside:
    """What there is to tell beside the estimate: what replicas on different hosts and copies cost, spares."""

    spread: Mapping[str, Any] | None
    need: CopyNeed | None
    spares: Sequence[Host]

    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"spares": [host.name for host in self.spares]}
        if self.spread:
            data["between_hosts"] = self.spread
        if self.need is not None:
            data["copies"] = asdict(self.need) | {"seconds": self.need.seconds}
        return data

    def show(self, console: Console) -> None:
        if self.spread is not None:
            console.print(spread_view(self.spread, width=console.width))
        if self.need is not None:
            console.print("\n".join(wrapped(copies_line(self.need), console.width)), markup=False)
        if self.spares:
            console.print(f"spares                   {fold(host.name for host in self.spares)}", markup=False)


def _beside(job: Job, made: Estimate | None, spares: Sequence[Host], inventory: Path | None) -> _Beside:
    spread = _between_hosts(job, made) if made is not None and job.parallel.is_spread else None
    need = copy_need(job, made, _copy_rate(inventory)) if made is not None else None
    return _Beside(spread, need, spares)


def _copy_rate(inventory: Path | None) -> float | None:
    network = load_inventory(inventory).copies if inventory is not None else None
    return network.rate if network is not None else None


def _saving(job: Job, made: Estimate) -> Saving | None:
    """None for a job that saves nothing."""
    if job.train is None:
        return None
    return saving_of(
        made,
        world_size=job.parallel.world_size,
        ranks_per_host=job.devices_per_host,
        asynchronous=job.checkpoint.asynchronous,
        past=past_saves(job.name),
        mtbf=job.checkpoint.mtbf,
    )


def _on_its_ranks(job: Job, inventory: Path | None) -> Job:
    """The job with as many replicas as its hosts have room for, where it leaves that out."""
    hosts = len(hosts_of(job, load_inventory(inventory))) if inventory is not None else job.host_count
    sized = job.with_replicas((hosts or 1) * job.devices_per_host)
    if hosts is None and sized is not job:
        what = "parallel.data_parallel and host_count are left out: one host is assumed; give -i for all"
        click.echo(f"orchestrate: note: {what}", err=True)
    return sized


def _between_hosts(job: Job, made: Estimate) -> dict[str, dict[str, int]]:
    """What a rank sends to other hosts in a step, in bytes, with its replicas spread and as they would be."""
    found = {}
    for name in ("spread", "packed"):
        data, pipeline = groups_between_hosts(job.parallel, job.devices_per_host, spread=name == "spread")
        found[name] = {
            "data_parallel": made.data_traffic if data else 0,
            "pipeline": made.pipeline_traffic if pipeline else 0,
        }
    return found


def _device_memory(hosts: Sequence[Host], given: str | None, inventory: Path | None) -> int | None:
    """Bytes of the smallest device of the job's hosts; None where nothing says what it has."""
    if given is not None:
        try:
            size = size_of(given)
            if size < _LEAST_DEVICE:
                raise ValueError(f"{given} is less than a device has: write 64GB")
            return size
        except ValueError as error:
            raise UsageError(f"--hbm: {error}") from None
    nameless = [host.name for host in hosts if host.chip not in HBM]
    if nameless:
        what = f"{fold(nameless)} without `chip:` in {inventory}"
        rest = "are judged as the others" if len(nameless) < len(hosts) else "nothing is judged; give --hbm"
        click.echo(f"orchestrate: note: {what}: {rest}", err=True)
    known = [HBM[host.chip] for host in hosts if host.chip in HBM]
    return min(known, default=None)


def _suggestions(
    job: Job, network: NetworkConfig, workload: Workload, limit: int | None, device: int | None
) -> list[Suggestion]:
    if limit is None:
        what = "is missing; --suggest needs to know what a device has"
        raise ConfigError([Problem(job.where("max_device_memory"), what, "give it, or --memory 31GB")])
    return suggest(network, workload, limit, hbm=device)


def _too_large(job: Job, made: Estimate, limit: int | None, device: int | None) -> Problem:
    remedy = "orchestrate plan --suggest proposes layouts that fit"
    if made.fits(limit, None) and device is not None:
        most = made.most_on_device
        needs = f"a rank of stage {most.stage} needs {most.on_device / 2**30:.1f} GiB"
        if most.hccl_buffers:
            needs, remedy = f"{needs} with HCCL's buffers", f"lower HCCL_BUFFSIZE; {remedy}"
        return Problem(job.where("parallel"), f"{needs}, a device has {device / 2**30:.1f} GiB", remedy)
    largest = made.largest
    what = f"a rank of stage {largest.stage} needs {largest.total / 2**30:.1f} GiB, a device has "
    return Problem(job.where("max_device_memory"), what + str(job.max_device_memory), remedy)


def _as_data(
    network: NetworkConfig,
    made: Estimate | None,
    found: list[Suggestion],
    device: int | None,
    saving: Saving | None,
) -> dict[str, Any]:
    data: dict[str, Any] = {"parameters": network.parameter_count, "hbm": device}
    if made is not None:
        data["estimate"] = estimate_data(made)
    if saving is not None:
        data["saving"] = saving_data(saving)
    if found:
        data["suggestions"] = suggestions_data(found)
    return data
