from __future__ import annotations

import json

import pytest
import yaml

from model.config.beside_checkpoint import check_beside
from model.config.load_config import config_text, load_config
from model.errors import ModelError

CONFIG = load_config("tiny")
OURS = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 512, "hidden_act": "fast_gelu"}
THEIRS = {"model_type": "bloom", "n_embed": 64, "n_layer": 2, "num_attention_heads": 4, "vocab_size": 512}


def test_what_this_network_wrote_fits_it(tmp_path):
    (tmp_path / "config.yaml").write_text(config_text(CONFIG))
    check_beside(CONFIG, tmp_path / "w.ckpt")
    check_beside(CONFIG, tmp_path)
    answering = load_config("tiny", {"seq_length": 8, "prompt_template": "belle", "batch_size": 3})
    check_beside(answering, tmp_path / "w.ckpt")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_heads": 8}, "num_heads is 4, but 8 in"),
        ({"hidden_act": "gelu"}, "hidden_act is 'fast_gelu', but 'gelu' in"),
        ({"num_layers": 3, "hidden_size": 32}, "hidden_size is 64, but 32 in"),
        ({"vocab_size": 500}, "vocab_size is 512, but 500 in"),
        ({"eos_token_id": 3}, "eos_token_id is 2, but 3 in"),
        ({"expand_ratio": 2}, "expand_ratio is 4, but 2 in"),
        ({"family": "another"}, "family is 'bloom', but 'another' in"),
    ],
)
def test_a_network_that_contradicts_its_weights_is_refused(tmp_path, changed, said):
    for table in ({**OURS, **changed}, {"model": {"model_config": {**OURS, **changed}}}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(table))
        with pytest.raises(ModelError) as caught:
            check_beside(CONFIG, tmp_path / "w.ckpt")
        assert said in str(caught.value) and str(tmp_path / "config.yaml") in str(caught.value)


def test_transformers_config_counts_too(tmp_path):
    path = tmp_path / "config.json"
    gelu = load_config("tiny", {"hidden_act": "gelu"})
    path.write_text(json.dumps(THEIRS))
    check_beside(gelu, tmp_path / "w.ckpt")
    with pytest.raises(ModelError, match=r"hidden_act is 'fast_gelu', but 'gelu' in .*config\.json"):
        check_beside(CONFIG, tmp_path / "w.ckpt")
    path.write_text(json.dumps({**THEIRS, "num_attention_heads": 2}))
    with pytest.raises(ModelError, match=r"num_heads is 4, but 2 in .*config\.json"):
        check_beside(gelu, tmp_path / "w.ckpt")


@pytest.mark.parametrize("content", ["", "[]", "{", "num_heads: 9", "[" * 5000, '{"model_type": "gpt2"}'])
def test_another_file_of_that_name_says_nothing(tmp_path, content):
    for name in ("config.yaml", "config.json"):
        (tmp_path / name).write_text(content)
    check_beside(CONFIG, tmp_path / "w.ckpt")


def test_a_run_has_it_beside_its_shards(tmp_path):
    (tmp_path / "run/checkpoint/rank_0").mkdir(parents=True)
    (tmp_path / "run/model").mkdir()
    (tmp_path / "run/model/config.yaml").write_text(yaml.safe_dump({**OURS, "num_heads": 2}))
    (tmp_path / "all").mkdir()
    (tmp_path / "all/rank_0").symlink_to(tmp_path / "run/checkpoint/rank_0")
    for load in (tmp_path / "run/checkpoint", tmp_path / "all"):
        with pytest.raises(ModelError, match="num_heads is 4, but 2 in"):
            check_beside(CONFIG, load)
