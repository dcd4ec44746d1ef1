"""Estimates and suggested layouts for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal import wrapped
from orchestrator.families.network_layers import NetworkLayers
from orchestrator.sizing.device_memory import PoolRoom
from orchestrator.sizing.estimate import Estimate, StageEstimate
from orchestrator.sizing.step_workload import Workload
from orchestrator.sizing.suggest import Suggestion

__all__ = ["LABEL", "estimate_view", "sized", "spread_view", "suggestions_view"]

_GIB = 2**30
LABEL = 25  # columns before what a line says


def estimate_view(
    name: str,
    network: NetworkLayers,
    workload: Workload,
    made: Estimate,
    limit: int | None,
    hbm: int | None = None,
    *,
    width: int = 80,
) -> RenderableType:
    """Memory of a rank of each stage and what HCCL needs beside it, traffic, bubble; `width` in columns."""
    lines = [
        f"{name}: {_count(network.parameter_count)} parameters over {workload.cut.world_size} ranks, "
        f"{_degrees(workload)}",
        f"attention {_attention(network, workload)}",
        "",
    ]
    after = [
        "",
        f"sent by a rank per step  model group {sized(made.model_traffic)}, data group "
        f"{sized(made.data_traffic)}, next stage {sized(made.pipeline_traffic)}",
        f"pipeline bubble          {made.bubble:.1%} of a step, {workload.micro_batch_num} micro batches",
    ]
    if limit is not None:
        free = limit - made.largest.total
        fits = f"fits, {sized(free)} to spare" if free >= 0 else f"does not fit, {sized(-free)} too much"
        after.append(f"memory of a device       {sized(limit)}: {fits}")
    after.extend(_outside_the_pool(workload, made, limit, hbm))
    head = [part for line in lines for part in wrapped(line, width)]
    rest = [part for line in after for part in wrapped(line, width, LABEL)]
    return Group(Text("\n".join(head)), _stage_table(made), Text("\n".join(rest)))


def _degrees(workload: Workload) -> str:
    """`data 8 × model 4 × pipeline 2`."""
    cut, parts = workload.cut, workload.context_parts
    text = f"data {workload.replicas} × model {cut.model_parallel} × pipeline {cut.pipeline_stage}"
    return text if parts == 1 else f"{text} × context {parts}"


def spread_view(between: Mapping[str, Mapping[str, int]], *, width: int = 80) -> RenderableType:
    """What replicas on different hosts cost: the bytes of a rank and step that go over the network for it."""
    line = (
        f"replicas: spread         over the network {_over(between['spread'])} of a rank and step; packed: "
    )
    return Text("\n".join(wrapped(line + _over(between["packed"]), width, LABEL)))


def _over(sent: Mapping[str, int]) -> str:
    names = {"data_parallel": "data group", "pipeline": "next stage"}
    return ", ".join(f"{names[key]} {sized(size)}" for key, size in sent.items() if size) or "nothing"


def _attention(network: NetworkLayers, workload: Workload) -> str:
    """How it is computed, which decides whether scores of all pairs of tokens are held."""
    ways = ["step by step, scores of all pairs held"]
    if workload.flash:
        ways = ["by Ascend's flash kernel, no scores held (a 910A has none: -i tells by `chip:`)"]
    elif network.use_flash_attention and workload.trains:
        ways = ["step by step, for these devices or this network have no flash kernel"]
    if workload.sequence_parts > 1:
        ways.append(f"the sequence cut into {workload.sequence_parts}")
    return "; ".join(ways)


def _outside_the_pool(
    workload: Workload, made: Estimate, limit: int | None, hbm: int | None
) -> Iterator[str]:
    """HCCL's buffers, and whether a device has room for them beside MindSpore's pool."""
    most = made.most_buffers
    if not most.communicators:
        return
    ends = f" (stage {most.stage})" if len({stage.hccl_buffers for stage in made.stages}) > 1 else ""
    each = f"2 × {workload.hccl_buffer >> 20} MB each"
    yield (
        f"HCCL's buffers           {sized(most.hccl_buffers)} of a rank{ends}, outside MindSpore's memory: "
        f"{', '.join(most.communicators)}, {each}"
    )
    needed = made.most_on_device.on_device
    if hbm is None:
        needed = needed if limit is None else limit + most.hccl_buffers
        yield f"whole device             must have more than {sized(needed)}; --hbm judges it"
    elif needed > hbm:
        yield f"whole device             {sized(hbm)}: does not fit, {sized(needed - hbm)} too much"
    elif limit is None:
        yield f"whole device             {sized(hbm)}: fits, {sized(hbm - needed)} to spare"
    else:
        yield f"whole device             {sized(hbm)}: {_room(made.room(limit, hbm, workload.hccl_buffer))}"


def _room(room: PoolRoom) -> str:
    if room.left > 0:
        return f"max_device_memory leaves {sized(room.left)} beside HCCL's buffers"
    ways = [f"max_device_memory: {room.pool_gb}GB"] if room.pool_gb else []
    ways += [f"HCCL_BUFFSIZE: {room.buffer_mb}"] if room.buffer_mb else []
    missing = f"max_device_memory leaves HCCL {sized(-room.left)} too little"
    return f"{missing}; use {' or '.join(ways)}" if ways else missing


def _stage_table(made: Estimate) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
    table.add_column("STAGE", no_wrap=True)
    for column in ("BLOCKS", "WEIGHTS", "GRADS", "OPTIMIZER", "ACTIVATIONS", "CACHE", "TOTAL GiB"):
        table.add_column(column, justify="right", no_wrap=True)
    # Stages in the middle are often alike.
    for _, alike in groupby(made.stages, key=_sizes):
        stages = list(alike)
        first, last = stages[0], stages[-1]
        label = str(first.stage) if first is last else f"{first.stage}-{last.stage}"
        table.add_row(label, str(first.blocks), *(f"{size / _GIB:.2f}" for size in _sizes(first)[1:]))
    return table


def _sizes(stage: StageEstimate) -> tuple[int, ...]:
    return (
        stage.blocks,
        stage.weights,
        stage.gradients,
        stage.optimizer,
        stage.activations,
        stage.cache,
        stage.total,
    )


def suggestions_view(workload: Workload, found: list[Suggestion]) -> RenderableType:
    """Layouts that fit, best first."""
    if not found:
        return Text(f"\nno layout of {workload.cut.world_size} ranks fits; take more ranks")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("DATA", "MODEL", "PIPELINE", "MICRO", "RECOMPUTE", "GiB"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("WHY")
    for item in found:
        cut = item.workload.cut
        parts = item.workload.micro_batch_num
        numbers = (item.workload.replicas, cut.model_parallel, cut.pipeline_stage, parts)
        size = f"{item.estimate.largest.total / _GIB:.1f}"
        again = "yes" if item.workload.recompute else "no"
        table.add_row(*(str(number) for number in numbers), again, size, ", ".join(item.reasons))
    return Group(Text("\nlayouts that fit, the fastest first"), table)


def _count(number: int) -> str:
    for word, unit in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= unit:
            return f"{number / unit:.2f} {word}"
    return str(number)


def sized(size: int) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.2f} {unit}"
    return f"{size} B"
