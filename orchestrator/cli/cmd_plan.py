"""`orchestrate plan JOB`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from orchestrator.cli.options import json_option, print_json
from orchestrator.cli.render_sizing import estimate_view, suggestions_view
from orchestrator.errors import ConfigError, Problem
from orchestrator.job import Job, load_job
from orchestrator.sizing import (
    Estimate,
    Network,
    Suggestion,
    Workload,
    estimate,
    network_of,
    size_of,
    suggest,
    workload_of,
)

__all__ = ["command"]


@click.command("plan")
@click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--suggest", "wanted", is_flag=True, help="Propose layouts that fit, the fastest first.")
@click.option(
    "--memory", metavar="SIZE", help="Of one device, such as 31GB; default: the job's max_device_memory."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the job for this plan."
)
@json_option
def command(job: Path, wanted: bool, memory: str | None, overrides: tuple[str, ...], as_json: bool) -> int:
    """Estimate what JOB needs on each rank; exit code 2 where that is more than a device has."""
    if memory is not None:
        overrides = (*overrides, f"max_device_memory={memory}")
    loaded = load_job(job, overrides)
    network, workload = network_of(loaded), workload_of(loaded)
    limit = size_of(loaded.max_device_memory) if loaded.max_device_memory else None
    problems = [Problem(loaded.where("parallel", key), what) for key, what in workload.problems(network)]
    made = None if problems else estimate(network, workload)
    found = _suggestions(loaded, network, workload, limit) if wanted else []
    if as_json:
        print_json(_as_data(network, made, found))
    else:
        console = Console(soft_wrap=True, highlight=False)
        if made is not None:
            console.print(estimate_view(loaded.name, network, workload, made, limit))
        if wanted:
            console.print(suggestions_view(workload, found))
    if problems:
        raise ConfigError(problems)
    if made is not None and limit is not None and made.largest.total > limit:
        raise ConfigError([_too_large(loaded, made)])
    return 0


def _suggestions(job: Job, network: Network, workload: Workload, limit: int | None) -> list[Suggestion]:
    if limit is None:
        what = "is missing; --suggest needs to know what a device has"
        raise ConfigError([Problem(job.where("max_device_memory"), what, "give it, or --memory 31GB")])
    return suggest(network, workload, limit)


def _too_large(job: Job, made: Estimate) -> Problem:
    largest = made.largest
    what = f"a rank of stage {largest.stage} needs {largest.total / 2**30:.1f} GiB, a device has "
    remedy = "orchestrate plan --suggest proposes layouts that fit"
    return Problem(job.where("max_device_memory"), what + str(job.max_device_memory), remedy)


def _as_data(network: Network, made: Estimate | None, found: list[Suggestion]) -> dict[str, Any]:
    data: dict[str, Any] = {"parameters": network.parameter_count}
    if made is not None:
        data["estimate"] = _estimate_data(made)
    if found:
        data["suggestions"] = [
            {
                "data_parallel": item.workload.cut.data_parallel,
                "model_parallel": item.workload.cut.model_parallel,
                "pipeline_stage": item.workload.cut.pipeline_stage,
                "micro_batch_num": item.workload.micro_batch_num,
                "optimizer_shard": item.workload.cut.optimizer_shard,
                "recompute": item.workload.recompute,
                "reasons": list(item.reasons),
                **_estimate_data(item.estimate),
            }
            for item in found
        ]
    return data


def _estimate_data(made: Estimate) -> dict[str, Any]:
    return {
        "bubble": round(made.bubble, 4),
        "bytes_per_step": {
            "model_parallel": made.model_traffic,
            "data_parallel": made.data_traffic,
            "pipeline": made.pipeline_traffic,
        },
        "stages": [
            {
                "stage": stage.stage,
                "blocks": stage.blocks,
                "parameters": stage.parameters,
                "weights": stage.weights,
                "gradients": stage.gradients,
                "optimizer": stage.optimizer,
                "activations": stage.activations,
                "cache": stage.cache,
                "total": stage.total,
            }
            for stage in made.stages
        ],
    }
