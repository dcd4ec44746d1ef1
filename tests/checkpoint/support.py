"""Sharded checkpoints as a run leaves them: cut with NumPy, written with our own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.cut.slices import Layout, region
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array, Tensor

WHOLE = Layout((2, 2), (-1,))


@dataclass(frozen=True)
class Run:
    """Two hosts' checkpoint folders, and what the collected file must hold."""

    folders: Mapping[str, Path]
    strategies: Mapping[int, Strategy]
    world_size: int
    full: Mapping[str, Array]

    def shard(self, rank: int, epoch: int = 1, step: int = 10) -> Path:
        (path,) = next(iter(self.folders.values())).parent.glob(
            f"*/rank_{rank}/*_rank_{rank}-{epoch}_{step}.ckpt"
        )
        return path


def cut(value: Array, layout: Layout, index: int) -> Array:
    return value[tuple(slice(*span) for span in region(layout, value.shape, index))]


def random(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> Array:
    values = np.random.default_rng(seed).integers(-1000, 1000, shape)
    return values.astype(dtype)


def save_run(
    root: Path,
    stages: list[dict[str, tuple[Array, Layout]]],
    *,
    steps: tuple[tuple[int, int], ...] = ((1, 10),),
    hosts: tuple[str, ...] = ("a", "b"),
    bfloat16: frozenset[str] = frozenset(),
) -> Run:
    """Write every rank's shard and strategy; ranks of a stage are as many as the largest device matrix."""
    strategies: dict[int, Strategy] = {}
    size = max(layout.device_count for _, layout in stages[0].values())
    world_size = size * len(stages)
    for rank in range(world_size):
        stage, index = divmod(rank, size)
        parameters = stages[stage]
        layouts = {name: layout for name, (_, layout) in parameters.items()}
        layouts |= {f"adam_m.{name}": layout for name, layout in layouts.items()}
        strategies[rank] = Strategy(stage, layouts)
        write_strategy(_made(root / "strategy") / f"ckpt_strategy_rank_{rank}.ckpt", strategies[rank])
        folder = _made(root / hosts[rank * len(hosts) // world_size] / f"rank_{rank}")
        for epoch, step in steps:
            tensors: list[tuple[str, Array | Tensor]] = []
            for name, (value, layout) in parameters.items():
                part = cut(value, layout, index)
                tensors.append((name, Tensor.of(part, "BFloat16") if name in bfloat16 else part))
                tensors.append((f"adam_m.{name}", part.astype(np.float32)))
            tensors.append(("global_step", np.array(step, np.int32)))
            write_ckpt(folder / f"mindformers_rank_{rank}-{epoch}_{step}.ckpt", tensors)
    full = {name: value for stage in stages for name, (value, _) in stage.items()}
    return Run({host: _made(root / host) for host in hosts}, strategies, world_size, full)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bloom(dp: int, mp: int, seed: int = 0, dtype: str = "float32") -> dict[str, tuple[Array, Layout]]:
    """Parameters cut on the first axis, on the last and not at all."""
    grid = (dp, mp)
    return {
        "embedding_table": (random((12 * mp, 10), dtype, seed), Layout(grid, (0, -1))),
        "mapping.weight": (random((10, 6 * mp), dtype, seed + 1), Layout(grid, (-1, 0))),
        "mapping.bias": (random((6 * mp,), dtype, seed + 2), Layout(grid, (0,))),
        "projection.weight": (random((6 * mp, 10), dtype, seed + 3), Layout(grid, (0, -1))),
        "norm.gamma": (random((10,), dtype, seed + 4), Layout(grid, (-1,))),
    }
