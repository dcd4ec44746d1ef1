"""A small Bloom as a run of eight ranks saves it: the same bytes every time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array, Tensor
from orchestrator.families.bloom import BLOOM
from tests.checkpoint.support import cut as cut_slice

__all__ = ["CUT", "OTHER_CUT", "save_ranks", "save_strategies", "weights", "with_prefix"]

CUT = NetworkCut(BLOOM, 2, 2, 2, optimizer_shard=True)
OTHER_CUT = NetworkCut(BLOOM, 1, 4, 1)
_HIDDEN, _HEADS, _LAYERS, _VOCABULARY = 16, 4, 3, 96
_STEP = 20

CONFIG = (
    f"hidden_size: {_HIDDEN}\nnum_layers: {_LAYERS}\nnum_heads: {_HEADS}\nvocab_size: {_VOCABULARY}\n"
    "seq_length: 32\nhidden_act: gelu\nparam_init_type: float32\nembedding_init_type: float32\n"
    "compute_dtype: float32\n"
)


def weights() -> dict[str, Array]:
    """Under MindFormers' names; values that bfloat16 and float16 must round."""
    return {name: _values(name, shape) for name, shape in _shapes()}


def save_strategies(folder: Path, cut: NetworkCut) -> None:
    """One file a rank, which says how each parameter and its moments are cut."""
    folder.mkdir(parents=True)
    shapes = dict(_shapes())
    for rank in range(cut.world_size):
        stage = rank // cut.ranks_per_stage
        names = [name for name in shapes if stage in cut.stages(name, _LAYERS)]
        layouts = {
            prefix + name: cut.layout(prefix + name, shapes[name])
            for prefix in ("", "adam_m.", "adam_v.")
            for name in names
        }
        write_strategy(folder / f"ckpt_strategy_rank_{rank}.ckpt", Strategy(stage, layouts))


def save_ranks(root: Path, dtype: str) -> None:
    """`checkpoint/rank_<r>/` and `strategy/` of a run whose weights have this type, moments being float32."""
    save_strategies(root / "strategy", CUT)
    whole = weights()
    for rank in range(CUT.world_size):
        folder = root / f"checkpoint/rank_{rank}"
        folder.mkdir(parents=True)
        tensors = list(_shard(whole, rank, dtype))
        write_ckpt(folder / f"mindformers_rank_{rank}-1_{_STEP}.ckpt", tensors)


def _shard(whole: dict[str, Array], rank: int, dtype: str) -> Iterator[tuple[str, Array | Tensor]]:
    stage, index = divmod(rank, CUT.ranks_per_stage)
    held = {name: value for name, value in whole.items() if stage in CUT.stages(name, _LAYERS)}
    for name, value in held.items():
        part = np.ascontiguousarray(cut_slice(value, CUT.layout(name, value.shape), index))
        yield name, Tensor.of(_rounded(part), "BFloat16") if dtype == "bfloat16" else part
    for prefix in ("adam_m.", "adam_v."):
        for name, value in held.items():
            moment = _values(prefix + name, value.shape)
            layout = CUT.layout(prefix + name, value.shape)
            yield prefix + name, np.ascontiguousarray(cut_slice(moment, layout, index))
    yield "global_step", np.array(_STEP, np.int32)
    yield "epoch_num", np.array(1, np.int32)
    yield "loss_scale", np.array(65536.0, np.float32)


def _values(name: str, shape: tuple[int, ...]) -> Array:
    # RandomState, since its numbers are the same in every version of NumPy; each name its own.
    known = with_prefix(name)  # as it was called when the list of sums was first made
    random = np.random.RandomState(zlib.crc32(known.encode()))
    return (random.randint(-(2**20), 2**20, shape) / 2**18).astype(np.float32)


def with_prefix(name: str) -> str:
    """What a parameter, or its moment, was called before it had MindFormers' own name."""
    moment = next((kind for kind in ("adam_m.", "adam_v.") if name.startswith(kind)), "")
    weight = name[len(moment) :]
    return f"{moment}transformer.{weight}" if BLOOM.find(weight) else name


def _rounded(values: Array) -> Array:
    """The upper halves of float32, as an input: how to round is not what is tested with it."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    h, f = _HIDDEN, 4 * _HIDDEN
    yield "embedding.word_embedding.embedding_table", (_VOCABULARY, h)
    yield from _norm("embedding.norm")
    for block in range(_LAYERS):
        start = f"blocks.{block}"
        yield from _norm(f"{start}.layernorm1")
        for dense in ("dense1", "dense2", "dense3", "projection"):
            yield from _linear(f"{start}.attention.{dense}", (h, h), h)
        yield from _norm(f"{start}.layernorm2")
        yield from _linear(f"{start}.output.mapping", (h, f), f)
        yield from _linear(f"{start}.output.projection", (f, h), h)
    yield from _norm("ln_f")


def _norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from ((f"{name}.{part}", (_HIDDEN,)) for part in ("gamma", "beta"))


def _linear(name: str, shape: tuple[int, int], out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", (out,)
