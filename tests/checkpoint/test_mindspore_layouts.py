"""Random layouts: our files against MindSpore's own merge and transformation, bit by bit."""

import os
import random as chance

import numpy as np
import pytest

from orchestrator.checkpoint.cut.coverage import weight_of
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.families.bloom import BLOOM
from orchestrator.transfer.convert import plan_combine, plan_split, plan_transform, write
from tests.checkpoint.support import cut, random, save_run
from tests.checkpoint.test_strategy_set import as_json

pytestmark = pytest.mark.mindspore

DTYPES = ("float16", "float32", "bfloat16")


@pytest.fixture(scope="module")
def ms():
    os.environ.setdefault("GLOG_v", "3")
    return pytest.importorskip("mindspore")


def layout_for(dice, dims, dp, mp):
    """A cut over the model group on one axis or none, and perhaps the parallel optimizer's on axis 0."""
    axis = dice.choice([None, *range(dims)]) if mp > 1 else None
    tensor_map = tuple(0 if number == axis else -1 for number in range(dims))
    repeated = [size for size in ((dp,) if axis is not None else (dp, mp)) if size > 1]
    if not repeated or dice.random() < 0.5:
        return Layout((dp, mp), tensor_map)
    if len(repeated) == 2:
        return Layout((dp, mp), tensor_map, 1, dp * mp)
    size = dice.choice([n for n in (2, 3, 4) if repeated[0] % n == 0])
    return Layout((dp, mp), tensor_map, mp if dp > 1 else 1, size)


def grid(dice, sizes):
    return dice.choice([(dp, mp) for dp in (1, 2, 3, 4) for mp in (1, 2, 3, 4) if dp * mp in sizes])


def stages_for(dice, shapes, pp, grid):
    """Each parameter in one stage, the first in the first and in the last (a tied embedding)."""
    names = list(shapes)
    stages = [{} for _ in range(pp)]
    for number, name in enumerate(names):
        homes = {0, pp - 1} if number == 0 else {min(number * pp // len(names), pp - 1)}
        layout = layout_for(dice, len(shapes[name]), *grid)
        for stage in homes:
            stages[stage][name] = layout
    return stages


def values_for(dice):
    """Odd shapes in every type; the factors are what grids of up to 4 × 4 may cut."""
    values, brain = {}, set()
    for number in range(6):
        dims = dice.choice([1, 2, 2, 3])
        shape = (dice.choice([144, 720, 1008]), *(dice.choice([12, 36]) for _ in range(dims - 1)))
        dtype = dice.choice(DTYPES)
        name = f"layer{number}.weight"
        if dtype == "bfloat16":
            # Finite values: transform_checkpoints takes bfloat16 through float32.
            values[name] = (random(shape, "float32", number).view(np.uint32) >> 16).astype(np.uint16)
            brain.add(name)
        else:
            values[name] = random(shape, dtype, number)
    return values, frozenset(brain)


def made(root, dice, values, brain, pp, grid):
    stages = stages_for(dice, {name: value.shape for name, value in values.items()}, pp, grid)
    return save_run(
        root,
        [{name: (values[name], layout) for name, layout in stage.items()} for stage in stages],
        hosts=("checkpoint",),
        bfloat16=brain,
    )


def merged(ms, root):
    path = str(root / "merged.ckpt")
    ms.merge_pipeline_strategys(str(root / "strategy"), path)
    return path


def assert_same(ours, theirs, *, names=None):
    ours, theirs = read_ckpt(ours), read_ckpt(theirs)
    assert set(ours) == (set(theirs) if names is None else names)
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dims, tensor.dtype) == (other.dims, other.dtype), name
        assert bytes(tensor.data) == bytes(other.data), name


def transformed(ms, root, out, source, target):
    ms.transform_checkpoints(str(root / "checkpoint"), str(out), "w_", source, target)
    return out


@pytest.mark.parametrize("seed", range(12))
def test_ranks_to_one_file_and_back(ms, tmp_path, seed):
    dice = chance.Random(seed)
    values, brain = values_for(dice)
    run = made(tmp_path / "run", dice, values, brain, dice.choice([1, 1, 2, 3]), grid(dice, (2, 3, 4, 6)))
    theirs = transformed(ms, tmp_path / "run", tmp_path / "out", merged(ms, tmp_path / "run"), None)
    write(plan_combine(tmp_path / "run", None, with_optimizer=True), tmp_path / "ours.ckpt")
    assert_same(tmp_path / "ours.ckpt", theirs / "rank_0" / "w_0.ckpt")
    strategy = tmp_path / "run" / "strategy"
    write(plan_split(tmp_path / "ours.ckpt", strategy, with_optimizer=True), tmp_path / "s")
    for rank in range(run.world_size):
        part = tmp_path / "s" / f"rank_{rank}" / f"checkpoint_rank_{rank}-0_0.ckpt"
        assert_same(part, run.shard(rank))


@pytest.mark.parametrize("seed", range(100, 112))
def test_ranks_of_one_layout_to_those_of_another(ms, tmp_path, seed):
    dice = chance.Random(seed)
    values, brain = values_for(dice)
    # MindSpore refuses rank counts of which one does not divide the other.
    made(tmp_path / "from", dice, values, brain, dice.choice([1, 2]), grid(dice, (2, 4)))
    to = made(tmp_path / "to", dice, values, brain, dice.choice([1, 2]), grid(dice, (2, 4)))
    strategies = (merged(ms, tmp_path / "from"), merged(ms, tmp_path / "to"))
    theirs = transformed(ms, tmp_path / "from", tmp_path / "out", *strategies)
    target = tmp_path / "to" / "strategy"
    write(plan_transform(tmp_path / "from", None, target, with_optimizer=True), tmp_path / "o")
    for rank in range(to.world_size):
        ours = tmp_path / "o" / f"rank_{rank}" / f"checkpoint_rank_{rank}-1_10.ckpt"
        assert_same(ours, theirs / f"rank_{rank}" / f"w_{rank}.ckpt")
        assert_same(ours, to.shard(rank))


def whole_bloom():
    """A Bloom of two blocks with both moments, every value another."""
    sizes = {"vocab_size": 48, "hidden_size": 24, "ffn_size": 96}
    shapes = {}
    for row in BLOOM.weights:
        shape = tuple(sizes[axis] for axis in row.shape)
        blocks = range(2) if row.stage == "block" else (None,)
        shapes |= {row.name if n is None else f"blocks.{n}.{row.name}": shape for n in blocks}
    names = [f"{prefix}{name}" for prefix in ("", "adam_m.", "adam_v.") for name in shapes]
    drawn = np.random.default_rng(7)
    return {name: drawn.standard_normal(shapes[weight_of(name)], np.float32) for name in names}


@pytest.mark.parametrize("optimizer_shard", [True, False])
@pytest.mark.parametrize(
    "degrees", [(2, 2, 1), (2, 1, 1), (1, 2, 1), (4, 2, 1), (2, 4, 1), (2, 2, 2), (3, 2, 1)]
)
def test_moments_in_our_layouts_are_joined_rightly_by_mindspore_too(ms, tmp_path, degrees, optimizer_shard):
    values = whole_bloom()
    cut_of = NetworkCut(BLOOM, *degrees, optimizer_shard=optimizer_shard)
    strategies = cut_of.strategies([Spec(name, value.shape, "Float32") for name, value in values.items()])
    stages = [
        {name: (values[name], layout) for name, layout in strategy.layouts.items()}
        for strategy in strategies.stages
    ]
    save_parts(tmp_path / "run", stages, strategies)
    theirs = transformed(ms, tmp_path / "run", tmp_path / "out", merged(ms, tmp_path / "run"), None)
    write(plan_combine(tmp_path / "run", None, with_optimizer=True), tmp_path / "ours.ckpt")
    assert_same(tmp_path / "ours.ckpt", theirs / "rank_0" / "w_0.ckpt")
    found = read_ckpt(tmp_path / "ours.ckpt")
    for name, value in values.items():
        np.testing.assert_array_equal(found[name].array(), value, err_msg=name)


def save_parts(root, stages, strategies):
    """The ranks' shards with exactly these tensors, and their strategy files."""
    (root / "strategy").mkdir(parents=True)
    for rank, strategy in strategies.by_rank().items():
        write_strategy(root / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt", strategy)
        home = root / "checkpoint" / f"rank_{rank}"
        home.mkdir(parents=True)
        stage, index = divmod(rank, strategies.ranks_per_stage)
        parts = ((name, cut(value, layout, index)) for name, (value, layout) in stages[stage].items())
        write_ckpt(home / f"m_rank_{rank}-1_10.ckpt", parts)


def test_a_merged_json_strategy_is_read_as_mindspore_reads_it(ms, tmp_path):
    run = made(tmp_path / "run", chance.Random(1), *values_for(chance.Random(1)), 2, (2, 2))
    (tmp_path / "json").mkdir()
    for stage in (0, 1):
        as_json(tmp_path / "json" / f"stage_{stage}.json", run.strategies[4 * stage])
    strategy = tmp_path / "merged.json"
    ms.merge_pipeline_strategys(str(tmp_path / "json"), str(strategy))
    theirs = transformed(ms, tmp_path / "run", tmp_path / "out", str(strategy), None)
    write(plan_combine(tmp_path / "run", strategy, with_optimizer=True), tmp_path / "ours.ckpt")
    assert_same(tmp_path / "ours.ckpt", theirs / "rank_0" / "w_0.ckpt")


def test_a_vector_cut_by_two_axes_is_written_as_mindspore_reads_it(ms, tmp_path):
    from mindspore.parallel._parallel_serialization import _extract_layout_map

    write_strategy(tmp_path / "s.ckpt", Strategy(0, {"w": Layout((2, 2), ((1, 0),))}))
    assert _extract_layout_map(str(tmp_path / "s.ckpt"))["w"][:2] == [[2, 2], [[1, 0]]]
