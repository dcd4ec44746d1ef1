from __future__ import annotations

import pytest

from orchestrator.core.errors import CheckpointError
from orchestrator.families.bloom import BLOOM
from orchestrator.families.family import HfPart, hf_shape, qkv_axes


def test_every_weight_of_a_model_has_one_place_in_the_other_naming():
    names = BLOOM.hf_names(2)
    assert len(names) == len(set(names)) == 5 + 2 * 12
    assert names[0] == "transformer.word_embeddings.weight" and names[-1] == "transformer.ln_f.bias"
    parts = [part for name in names for part in BLOOM.ms_parts(name)]
    assert len({part.ms for part in parts}) == len(parts) == 5 + 2 * 16
    for part in parts:
        assert BLOOM.hf_part(part.ms) == part
        assert part.hf in names


def test_the_prefix_of_published_files_may_be_missing():
    assert BLOOM.ms_parts("h.3.mlp.dense_h_to_4h.weight") == (
        HfPart(
            "blocks.3.output.mapping.weight",
            "transformer.h.3.mlp.dense_h_to_4h.weight",
            transposed=True,
        ),
    )
    assert BLOOM.ms_parts("word_embeddings.weight") == BLOOM.ms_parts("transformer.word_embeddings.weight")


def test_query_key_and_value_are_parts_of_one_tensor():
    parts = BLOOM.ms_parts("transformer.h.0.self_attention.query_key_value.bias")
    assert [(part.ms.split(".")[-2], part.qkv) for part in parts] == [
        ("dense1", 0),
        ("dense2", 1),
        ("dense3", 2),
    ]
    assert hf_shape(parts[0], (6,)) == (18,)
    assert qkv_axes(parts[0], (6, 5), 3) == (3, 3, 2, 5)
    with pytest.raises(CheckpointError, match="6 rows cannot be dealt out over 4 heads"):
        qkv_axes(parts[0], (6, 5), 4)


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "h.x.ln.weight", "transformer.h.0.attn.bias", "h.٣.input_layernorm.bias", ""]
)
def test_foreign_names_have_no_place(name):
    assert BLOOM.ms_parts(name) == ()
    assert BLOOM.hf_part(name) is None


def test_transposed_weights_swap_their_axes():
    part = BLOOM.hf_part("blocks.0.output.mapping.weight")
    assert part is not None and hf_shape(part, (4, 16)) == (16, 4)
