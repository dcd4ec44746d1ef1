"""A sharded checkpoint of a Bloom of any depth, as a run leaves it, without a run that trained it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.cut.slices import Layout, slice_shape
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array
from orchestrator.core.paths import AttemptDir
from orchestrator.families.bloom import BLOOM

__all__ = ["RANKS", "Shards"]

RANKS = 8
_HIDDEN, _VOCABULARY, _HEADS = 1024, 14_848, 16
_MOMENTS = ("adam_m.", "adam_v.")
_CONFIG = f"hidden_size: {_HIDDEN}\nnum_layers: {{layers}}\nnum_heads: {_HEADS}\nvocab_size: {_VOCABULARY}\n"


@dataclass(frozen=True)
class Shards:
    """The files of 8 ranks in `folder`: `rank_<r>/…-1_10.ckpt` and `strategy/`, float32 with two moments."""

    folder: Path
    layers: int

    @property
    def weights(self) -> int:
        """Bytes of the weights, each once."""
        return sum(4 * int(np.prod(shape)) for shape in self._shapes().values())

    def write(self) -> None:
        cut = NetworkCut(BLOOM, model_parallel=RANKS)
        shapes = self._shapes()
        # The embedding is cut too, so that the shards hold nothing twice that matters.
        layouts = {
            name: Layout((1, RANKS), (0, -1)) if "embedding_table" in name else cut.layout(name, shape)
            for name, shape in shapes.items()
        }
        every = {prefix + name: layout for prefix in ("", *_MOMENTS) for name, layout in layouts.items()}
        (self.folder / "strategy").mkdir(parents=True)
        pool = np.random.default_rng(1).standard_normal(8 << 20, np.float32)
        for rank in range(RANKS):
            write_strategy(self.folder / f"strategy/ckpt_strategy_rank_{rank}.ckpt", Strategy(0, every))
            home = self.folder / f"rank_{rank}"
            home.mkdir()
            write_ckpt(home / f"bench_rank_{rank}-1_10.ckpt", self._tensors(shapes, layouts, pool, rank))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        h, f = _HIDDEN, 4 * _HIDDEN
        block = {
            **{f"layernorm{n}.{part}": (h,) for n in (1, 2) for part in ("gamma", "beta")},
            **{f"attention.dense{n}.weight": (h, h) for n in (1, 2, 3)},
            **{f"attention.dense{n}.bias": (h,) for n in (1, 2, 3)},
            "attention.projection.weight": (h, h),
            "attention.projection.bias": (h,),
            "output.mapping.weight": (h, f),
            "output.mapping.bias": (f,),
            "output.projection.weight": (f, h),
            "output.projection.bias": (h,),
        }
        outside = {"embedding.word_embedding.embedding_table": (_VOCABULARY, h)}
        outside |= {
            f"{norm}.{part}": (h,) for norm in ("embedding.norm", "ln_f") for part in ("gamma", "beta")
        }
        blocks = {f"blocks.{n}.{name}": shape for n in range(self.layers) for name, shape in block.items()}
        return outside | blocks

    def _tensors(
        self, shapes: dict[str, tuple[int, ...]], layouts: dict[str, Layout], pool: Array, rank: int
    ) -> Iterator[tuple[str, Array]]:
        at = rank * 1_000_003
        for prefix in ("", *_MOMENTS):
            for name, shape in shapes.items():
                part = slice_shape(layouts[name], shape)
                size = int(np.prod(part))
                # What is whole on every rank is the same on every rank.
                at = (at + size) % (len(pool) - size) if part != shape else len(name)
                yield prefix + name, pool[at : at + size].reshape(part)
        yield "global_step", np.array(10, np.int32)

    def link_into(self, runs: list[AttemptDir]) -> None:
        """Make the shards those of a run on several hosts, as many of them on each."""
        for rank in range(RANKS):
            run = runs[rank * len(runs) // RANKS]
            home = run.checkpoint / f"rank_{rank}"
            home.mkdir(exist_ok=True)
            for path in (self.folder / f"rank_{rank}").iterdir():
                os.link(path, home / path.name)
            strategy = f"ckpt_strategy_rank_{rank}.ckpt"
            os.link(self.folder / "strategy" / strategy, run.strategy / strategy)
        (runs[0].model / "config.yaml").write_text(_CONFIG.format(layers=self.layers))

    def touch(self) -> None:
        """Have every byte in the page cache, where there is room."""
        buffer = bytearray(1 << 20)
        for path in self.folder.glob("rank_*/*.ckpt"):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
