import dataclasses

import pytest

from orchestrator.checkpoint.assemble import assemble
from orchestrator.checkpoint.copy_plan import plan_copies, whole_output
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.core.errors import CheckpointError

GRID = Layout((2, 2), (0, -1))
FREE = Layout((2, 2), (-1,))


def plan_collect(shards, strategies, **options):
    whole = assemble(shards, strategies, **options)
    return plan_copies(whole, [whole_output(whole)])


def entry(name, dims, dtype="Float32", offset=100):
    sizes = {"Float32": 4, "Float16": 2, "Int32": 4, "str": 4}
    length = sizes[dtype]
    for dim in dims:
        length *= dim
    return {"name": name, "dims": list(dims), "dtype": dtype, "pieces": [[offset, length]]}


def shard(rank, *entries, host=None):
    extra = [entry("adam_m.w", (2, 3)), entry("global_step", (), "Int32"), entry("note", (), "str")]
    every = entries or (entry("w", (2, 3)), entry("b", (5,)))
    return Shard.of(rank, host or "ab"[rank // 2 % 2], f"rank_{rank}.ckpt", [*every, *extra])


def strategies(*ranks, stage_size=4, **layouts):
    layouts = layouts or {"w": GRID, "b": FREE, "adam_m.w": GRID}
    return {rank: Strategy(rank // stage_size, layouts) for rank in ranks}


def four(**changes):
    return [
        changes.get(f"r{rank}", shard(rank)) for rank in range(4) if changes.get(f"r{rank}", 1) is not None
    ]


def test_every_slice_is_taken_once():
    plan = plan_collect(four(), strategies(0, 1, 2, 3))
    assert [(spec.name, spec.dims) for spec in plan.tensors] == [("w", (4, 3)), ("b", (5,))]
    assert [(copy.tensor, copy.region) for copy in plan.copies] == [
        (0, ((0, 2), (0, 3))),
        (0, ((2, 4), (0, 3))),
        (1, ((0, 5),)),
    ]
    assert plan.nbytes == 4 * 3 * 4 + 5 * 4
    assert all(copy.stored.spans[0][0] == 100 for copy in plan.copies)


def test_the_load_is_spread_over_the_replicas():
    names = [f"w{i}" for i in range(6)]
    shards = [shard(rank, *(entry(name, (2, 3)) for name in names)) for rank in range(4)]
    plan = plan_collect(shards, strategies(0, 1, 2, 3, **dict.fromkeys(names, GRID)))
    assert plan.bytes_per_host == {"a": 6 * 24, "b": 6 * 24}


def test_a_lost_rank_leaves_its_replica_the_work():
    plan = plan_collect(four(r3=None, r0=None), strategies(0, 1, 2, 3))
    assert {copy.rank for copy in plan.copies if copy.tensor == 0} == {1, 2}


def test_a_slice_that_nobody_holds_is_named_with_its_ranks():
    with pytest.raises(CheckpointError, match=r"w: no shard of ranks 1 or 3"):
        plan_collect(four(r1=None, r3=None), strategies(0, 1, 2, 3))


def test_a_stage_that_nobody_holds_is_named_with_its_ranks():
    with pytest.raises(CheckpointError, match="no shard of ranks 4, 5, 6 or 7"):
        plan_collect(four(), strategies(0, 1, 2, 3), world_size=8)
    with pytest.raises(CheckpointError, match="no shard of rank"):
        plan_collect(four(), strategies(0, 1, 2, 3) | strategies(4, w2=GRID), world_size=8)


def test_what_is_no_weight_stays_behind_with_a_reason():
    plan = plan_collect(four(), strategies(0, 1, 2, 3))
    assert [name for name, _ in plan.skipped] == ["adam_m.w", "global_step", "note"]
    everything = plan_collect(four(), strategies(0, 1, 2, 3), with_optimizer=True, with_texts=False)
    assert [spec.name for spec in everything.tensors] == ["w", "b", "adam_m.w", "global_step"]
    assert everything.skipped == (("note", "a text, which the output format cannot hold"),)


def test_parameters_without_a_layout_are_whole():
    plan = plan_collect(four(), strategies(0, 1, 2, 3, w=GRID))
    assert [(s.name, s.dims) for s in plan.tensors] == [("w", (4, 3)), ("b", (5,))]
    assert len([copy for copy in plan.copies if copy.tensor == 1]) == 1


def test_stages_bring_their_own_parameters_and_share_some():
    first = [shard(rank, entry("tied", (2, 3)), entry("x", (5,))) for rank in range(4)]
    second = [shard(rank, entry("y", (5,)), entry("tied", (2, 3))) for rank in range(4, 8)]
    known = strategies(0, 1, 2, 3, tied=GRID, x=FREE) | strategies(4, 5, 6, 7, tied=GRID, y=FREE)
    plan = plan_collect(first + second, known, world_size=8)
    assert [spec.name for spec in plan.tensors] == ["tied", "x", "y"]
    assert {copy.rank // 4 for copy in plan.copies if copy.tensor == 0} == {0}
    with pytest.raises(CheckpointError, match=r"tied is .* in stages"):
        other = [shard(rank, entry("y", (5,)), entry("tied", (2, 4))) for rank in range(4, 8)]
        plan_collect(first + other, known, world_size=8)


OTHER = Layout((2, 2), (1, -1))


@pytest.mark.parametrize(
    ("shards", "known", "message"),
    [
        ([], {}, "no shards"),
        ([shard(0), shard(0)], {}, "two shards for one rank"),
        (four(), {}, "4 ranks wrote shards but no strategy"),
        (four(), strategies(0, 1, 2), "rank 3 wrote a shard but no strategy"),
        (
            four(),
            strategies(0, 1, 2) | strategies(3, w=OTHER, b=FREE),
            "cut differently on rank 0 and on rank 3",
        ),
        (four(), strategies(0, 1, 2) | strategies(3, b=FREE), "none on rank 3"),
        (four(r1=shard(1, entry("w", (2, 4)), entry("b", (5,)))), strategies(0, 1, 2, 3), "and .* on rank 1"),
        (
            four(r1=shard(1, entry("w", (2, 3), "Float16"), entry("b", (5,)))),
            strategies(0, 1, 2, 3),
            "Float16",
        ),
        (four(r2=shard(2, entry("w", (2, 3)), entry("b", (6,)))), strategies(0, 1, 2, 3, w=GRID), "rank 2"),
        (
            four(),
            strategies(0, 1, 2, 3, w=Layout((2, 2), (0,)), b=FREE),
            "w does not fit the strategy of rank 0",
        ),
    ],
)
def test_contradictions_are_named(shards, known, message):
    with pytest.raises(CheckpointError, match=message):
        plan_collect(shards, known)


def test_replicas_without_a_strategy_need_a_word():
    plan = plan_collect(four(), {}, replicated=True)
    assert len(plan.copies) == 2
    assert plan_collect([shard(0)], {}).nbytes == 44


def test_a_moment_without_a_layout_of_its_own_is_refused_where_its_parameter_is_cut():
    shards = [shard(rank, entry("w", (2, 3)), entry("b", (5,)), entry("adam_m.b", (5,))) for rank in range(4)]
    known = strategies(0, 1, 2, 3, w=GRID, b=FREE)
    assert len(plan_collect(shards, known).tensors) == 2
    with pytest.raises(CheckpointError, match=r"rank 0 says how w is cut but not how adam_m.w is"):
        plan_collect(shards, known, with_optimizer=True)


def test_a_plan_is_plain_data():
    plan = plan_collect(four(), strategies(0, 1, 2, 3))
    assert plan == plan_collect(list(reversed(four())), strategies(3, 2, 1, 0))
    assert dataclasses.asdict(plan)["copies"][0]["path"] == "rank_0.ckpt"
