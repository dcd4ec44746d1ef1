from __future__ import annotations

import numpy as np
import pytest

from model.errors import ModelError
from model.parallel import Place, Strategy, cut, cut_axis, full_shape, layout_of
from orchestrator.checkpoint.layout import region

STRATEGY = Strategy(data_parallel=2, model_parallel=4)


def test_rank_order_and_groups():
    places = [STRATEGY.place(rank) for rank in range(8)]
    assert places[6] == Place(rank=6, dp=1, mp=2, pp=0)
    assert STRATEGY.model_ranks(places[6]) == [4, 5, 6, 7]
    assert STRATEGY.data_ranks(places[6]) == [2, 6]


def test_the_product_must_be_the_world_and_one_stage():
    with pytest.raises(ModelError, match=r"= 2 \* 4 \* 1 = 8, but RANK_SIZE is 4"):
        STRATEGY.check(4)
    with pytest.raises(ModelError, match="pipeline_stage 2 is not supported yet"):
        Strategy(pipeline_stage=2).check(2)
    with pytest.raises(ModelError, match="must be at least 1, not 0"):
        Strategy(data_parallel=0).check(0)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("transformer.blocks.3.attention.dense2.weight", 0),
        ("adam_v.transformer.blocks.3.attention.dense2.bias", 0),
        ("transformer.blocks.3.attention.projection.weight", 0),
        ("transformer.blocks.3.attention.projection.bias", None),
        ("transformer.blocks.3.output.mapping.weight", 1),
        ("adam_m.transformer.blocks.13.output.projection.weight", 0),
        ("transformer.blocks.3.layernorm1.gamma", None),
        ("transformer.embedding.word_embedding.embedding_table", None),
    ],
)
def test_what_is_cut_is_what_the_strategy_file_says(name, axis):
    assert cut_axis(name) == axis
    full = np.arange(8 * 12).reshape(8, 12)
    layout = layout_of(name, (8, 12), STRATEGY)
    for rank in range(8):
        part = cut(name, full, STRATEGY, STRATEGY.place(rank))
        from_file = full[tuple(slice(*span) for span in region(layout, full.shape, rank))]
        np.testing.assert_array_equal(part, from_file)
        assert full_shape(name, part.shape, STRATEGY) == full.shape
