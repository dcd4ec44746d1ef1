import pytest

from orchestrator.checkpoint.cut.network_cut import NetworkCut, stage_blocks
from orchestrator.checkpoint.cut.slices import Layout, region
from orchestrator.core.errors import CheckpointError
from orchestrator.families.bloom import BLOOM

TABLE = "embedding.word_embedding.embedding_table"


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("blocks.3.attention.dense2.weight", 0),
        ("blocks.3.output.mapping.weight", 1),
        ("adam_v.blocks.13.output.projection.weight", 0),
        ("blocks.3.output.projection.bias", None),
        ("blocks.3.layernorm1.gamma", None),
        ("ln_f.gamma", None),
        ("adam_m." + TABLE, 0),
    ],
)
def test_the_axis_of_a_parameter_and_of_its_moments(name, axis):
    assert NetworkCut(BLOOM).axis(name) == axis


@pytest.mark.parametrize(("layers", "stages"), [(30, 1), (70, 12), (5, 4), (2, 2)])
def test_blocks_are_spread_over_the_stages_in_order_and_evenly(layers, stages):
    parts = [stage_blocks(layers, stages, stage) for stage in range(stages)]
    assert [block for part in parts for block in part] == list(range(layers))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_the_stages_of_every_kind_of_parameter():
    cut = NetworkCut(BLOOM, pipeline_stage=3)
    names = [f"blocks.{n}.layernorm1.beta" for n in range(5)]
    assert [cut.stages(name, 5) for name in names] == [(0,), (0,), (1,), (1,), (2,)]
    assert cut.stages(TABLE, 5) == (0, 2)
    assert cut.stages("adam_m." + TABLE, 5) == (0, 2)
    assert cut.stages("embedding.norm.gamma", 5) == (0,)
    assert cut.stages("ln_f.beta", 5) == (2,)
    assert NetworkCut(BLOOM).stages(TABLE, 5) == (0,)
    others = "blocks.5.layernorm1.beta", "head.weight", "blocks.0.attention.lora"
    for name in others:
        with pytest.raises(CheckpointError, match=f"{name} is no parameter of a Bloom of 5 blocks"):
            cut.stages(name, 5)


def test_the_layout_is_a_matrix_of_data_and_model():
    cut = NetworkCut(BLOOM, data_parallel=2, model_parallel=4, optimizer_shard=True)
    assert cut.layout("blocks.0.output.mapping.weight", (8, 12)) == Layout((2, 4), (-1, 0))
    assert cut.layout("ln_f.gamma", (8,)) == Layout((2, 4), (-1,))


def test_a_sharded_optimizer_cuts_moments_once_more_where_it_can():
    cut = NetworkCut(BLOOM, data_parallel=2, model_parallel=2, optimizer_shard=True)
    layout = cut.layout("adam_m.blocks.0.attention.dense1.weight", (8, 3))
    assert [region(layout, (8, 3), rank)[0] for rank in range(4)] == [(0, 2), (4, 6), (2, 4), (6, 8)]
    assert cut.layout("adam_m.blocks.0.attention.dense1.weight", (6, 3)) == Layout((2, 2), (0, -1))
    assert cut.layout("adam_v.ln_f.gamma", (6,)) == Layout((2, 2), (1,))
    assert cut.layout("adam_v.blocks.0.output.mapping.weight", (6, 8)) == Layout((2, 2), (1, 0))
    shared = ("adam_m.ln_f.gamma", "adam_m.blocks.0.output.mapping.bias", "adam_v.blocks.0.layernorm1.beta")
    assert [cut.shares_moments(name, (6,)) for name in shared] == [True, False, True]
    assert not cut.shares_moments("ln_f.gamma", (6,))


def test_a_vocabulary_is_cut_where_it_divides_and_whole_elsewhere():
    cut = NetworkCut(BLOOM, data_parallel=2, model_parallel=4, optimizer_shard=True)
    assert cut.layout(TABLE, (12, 3)) == Layout((2, 4), (0, -1))
    assert cut.layout("adam_m." + TABLE, (16, 3)) == Layout((2, 4), (0, -1), 4, 2)
    assert cut.layout(TABLE, (10, 3)) == cut.layout("adam_m." + TABLE, (10, 3)) == Layout((2, 4), (-1, -1))


def test_a_tensor_with_fewer_axes_than_its_cut_is_refused():
    with pytest.raises(CheckpointError, match=r"mapping\.weight has 1 axes and cannot be cut along axis 1"):
        NetworkCut(BLOOM, model_parallel=2).layout("blocks.0.output.mapping.weight", (8,))
