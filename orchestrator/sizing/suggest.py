"""Layouts of a job that fit, best first, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isqrt

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.families.network_layers import NetworkLayers
from orchestrator.sizing.estimate import Estimate, estimate
from orchestrator.sizing.step_workload import Workload

_LARGEST = 10_000_000  # ranks, and records of a step, above which no layout is looked for

__all__ = ["Suggestion", "fitting", "suggest"]

# Bytes a second that one device sends, and its useful operations a second: an Ascend 910A with HCCS inside a
# server and 100 GbE between them. Only ratios matter for the order.
_IN_HOST = 30e9
_BETWEEN_HOSTS = 10e9
_OPERATIONS = 100e12


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A layout; `seconds` is a rough time of a step, only good for comparing layouts of one job."""

    workload: Workload
    estimate: Estimate
    seconds: float
    reasons: tuple[str, ...]


def suggest(
    network: NetworkLayers, workload: Workload, limit: int, *, hbm: int | None = None, most: int = 5
) -> list[Suggestion]:
    """The fastest layouts of the same ranks and global batch whose every rank fits.

    Its pool into `limit` bytes and, with HCCL's buffers, into the `hbm` bytes of a device.
    """
    found = [_judge(network, *item, limit) for item in fitting(network, workload, limit, hbm)]
    found.sort(key=lambda item: item.seconds)
    return found[:most]


def fitting(
    network: NetworkLayers, workload: Workload, limit: int, hbm: int | None = None
) -> Iterator[tuple[Workload, Estimate]]:
    """The layouts of which `suggest` gives the fastest, in no order, each when it is asked for."""
    world = workload.cut.world_size
    if max(world, workload.batch_size * workload.replicas) > _LARGEST:
        return
    for candidate in _candidates(network, workload, world):
        made = estimate(network, candidate)
        if made.fits(limit, hbm):
            yield candidate, made


def _candidates(network: NetworkLayers, workload: Workload, world: int) -> Iterator[Workload]:
    batch = workload.batch_size * workload.replicas
    for mp in _divisors(world):
        for pp in _divisors(world // mp):
            dp = world // (mp * pp)
            # Model-parallel ranks talk in every block: they stay in one host.
            if dp % workload.context_parts or batch % (dp // workload.context_parts):
                continue
            if workload.automatic and network.num_layers % pp:
                continue  # MindFormers asks for an `offset` then, which is not made up here
            if mp > workload.ranks_per_host or workload.ranks_per_host % mp:
                continue
            cut = NetworkCut(network.family, dp, mp, pp, optimizer_shard=workload.trains and dp > 1)
            for parts in _divisors(batch * workload.context_parts // dp) if workload.trains else (1,):
                candidate = workload.with_cut(cut, batch, parts)
                if list(candidate.problems(network)) or (pp > 1 and parts < pp):
                    continue
                yield candidate
                if workload.trains and not workload.recompute:
                    yield replace(candidate, recompute=True)


def _divisors(number: int) -> list[int]:
    low = [value for value in range(1, isqrt(number) + 1) if number % value == 0]
    return sorted({*low, *(number // value for value in low)})


def _judge(network: NetworkLayers, workload: Workload, made: Estimate, limit: int) -> Suggestion:
    compute = _compute_seconds(network, workload)
    spread = workload.cut.ranks_per_stage > workload.ranks_per_host
    model = made.model_traffic / _IN_HOST
    data = made.data_traffic / (_BETWEEN_HOSTS if spread else _IN_HOST)
    pipeline = made.pipeline_traffic / _BETWEEN_HOSTS
    seconds = (compute + model + pipeline) / (1 - made.bubble) + data
    largest = made.largest
    reasons = [
        f"{largest.total / limit:.0%} of the memory on stage {largest.stage}",
        f"bubble {made.bubble:.0%}",
        f"model-parallel traffic {model / seconds:.0%} of the step",
    ]
    if workload.cut.data_parallel > 1:
        reasons.append(f"data-parallel traffic {data / seconds:.0%}")
    return Suggestion(workload, made, seconds, tuple(reasons))


def _compute_seconds(network: NetworkLayers, workload: Workload) -> float:
    """2 operations a parameter and token forward, twice that backward, once more where it is recomputed."""
    tokens = workload.batch_size * workload.replicas * network.seq_length
    passes = (4 if workload.recompute else 3) if workload.trains else 1
    return 2 * passes * network.parameter_count * tokens / (workload.cut.world_size * _OPERATIONS)
