from __future__ import annotations

import numpy as np
import pytest

from model.errors import ModelError
from model.network.bloom import Vocabulary
from model.parallel.mesh import Place, Strategy, cut, full_shape, layout_of, stored_shape
from orchestrator.checkpoint.cut.slices import Layout, region

STRATEGY = Strategy(data_parallel=2, model_parallel=4)


def test_rank_order_and_groups():
    places = [STRATEGY.place(rank) for rank in range(8)]
    assert places[6] == Place(rank=6, dp=1, mp=2, pp=0)
    assert STRATEGY.model_ranks(places[6]) == [4, 5, 6, 7]
    assert STRATEGY.data_ranks(places[6]) == [2, 6]


def test_stages_follow_each_other_in_the_ranks():
    strategy = Strategy(data_parallel=2, model_parallel=2, pipeline_stage=3)
    places = [strategy.place(rank) for rank in range(12)]
    assert places[10] == Place(rank=10, dp=1, mp=0, pp=2)
    assert strategy.data_ranks(places[10]) == [8, 10]
    assert strategy.tied_ranks(places[10]) == strategy.tied_ranks(places[2]) == [2, 10]
    assert strategy.tied_ranks(places[6]) == []
    assert STRATEGY.tied_ranks(STRATEGY.place(3)) == []
    assert strategy.names([8, 5]) == "rank 8, 5 (stage 1, 2)" and STRATEGY.names([1]) == "rank 1"


def test_the_product_must_be_the_world():
    with pytest.raises(ModelError, match=r"= 2 \* 4 \* 1 = 8, but RANK_SIZE is 4"):
        STRATEGY.check(4)
    with pytest.raises(ModelError, match="must be at least 1, not 0"):
        Strategy(data_parallel=0).check(0)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("blocks.3.attention.dense2.weight", 0),
        ("adam_v.blocks.3.attention.dense2.bias", 0),
        ("blocks.3.attention.projection.weight", 0),
        ("blocks.3.attention.projection.bias", None),
        ("blocks.3.output.mapping.weight", 1),
        ("adam_m.blocks.13.output.projection.weight", 0),
        ("blocks.3.layernorm1.gamma", None),
        ("embedding.word_embedding.embedding_table", 0),
    ],
)
def test_what_is_cut_is_what_the_strategy_file_says(name, axis):
    assert STRATEGY.network_cut.axis(name) == axis
    full = np.arange(8 * 12).reshape(8, 12)
    layout = layout_of(name, (8, 12), STRATEGY)
    for rank in range(8):
        part = cut(name, full, STRATEGY, STRATEGY.place(rank))
        from_file = full[tuple(slice(*span) for span in region(layout, full.shape, rank))]
        np.testing.assert_array_equal(part, from_file)
        assert full_shape(name, part.shape, STRATEGY) == full.shape


def test_a_vocabulary_that_does_not_divide_is_padded_in_memory_and_whole_in_the_shard():
    name, full = "embedding.word_embedding.embedding_table", np.arange(1, 21).reshape(10, 2)
    strategy = Strategy(model_parallel=4, vocab_size=10)
    parts = [cut(name, full, strategy, strategy.place(rank)) for rank in range(4)]
    assert {part.shape for part in parts} == {(3, 2)}
    joined = np.concatenate(parts)
    np.testing.assert_array_equal(joined[:10], full)
    assert not joined[10:].any()
    for held in (name, f"adam_v.{name}"):
        assert full_shape(held, (3, 2), strategy) == stored_shape(held, (3, 2), strategy) == (10, 2)
        assert layout_of(held, (10, 2), strategy) == Layout((1, 4), (-1, -1))
    even = Strategy(model_parallel=2, vocab_size=10)
    assert stored_shape(name, (5, 2), even) == (5, 2) and full_shape(name, (5, 2), even) == (10, 2)
    with pytest.raises(ModelError, match="the strategy's vocabulary is 0, the network's 10"):
        Strategy(model_parallel=4).check_vocabulary(10)


def test_the_rows_of_the_vocabulary():
    own = [Vocabulary(10, 4, index, None) for index in range(4)]
    assert [(part.first, part.rows) for part in own] == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert [int((part.padding() < 0).sum()) for part in own] == [0, 0, 0, 2]
    np.testing.assert_array_equal(np.concatenate([part.own_row() for part in own], 1), np.eye(4))
