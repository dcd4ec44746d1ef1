from __future__ import annotations

import pytest

from model.config.load_config import config_text, load_config
from model.errors import ModelError
from orchestrator.families.bloom import BloomConfig
from orchestrator.families.registry import preset_names


@pytest.mark.parametrize(
    ("preset", "hidden", "layers", "heads", "billions"),
    [
        ("560m", 1024, 24, 16, 0.559),
        ("7.1b", 4096, 30, 32, 7.069),
        ("65b", 8192, 80, 64, 66.5),
        ("176b", 14336, 70, 112, 176.2),
    ],
)
def test_presets_have_the_published_values(preset, hidden, layers, heads, billions):
    config = load_config(preset)
    assert (config.hidden_size, config.num_layers, config.num_heads) == (hidden, layers, heads)
    assert (config.vocab_size, config.seq_length, config.expand_ratio) == (250880, 2048, 4)
    assert config.parameter_count / 1e9 == pytest.approx(billions, rel=2e-3)
    assert (config.hidden_act == "fast_gelu") == (preset in ("65b", "176b"))


def test_a_written_config_reads_back_the_same(tmp_path):
    config = load_config("tiny", {"hidden_size": 96, "prompt_template": "none"})
    path = tmp_path / "config.yaml"
    path.write_text(config_text(config))
    assert load_config(path) == config
    assert set(preset_names()) == {"tiny", "560m", "7.1b", "65b", "176b"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hiden_size": 3}, "hiden_size: unknown key (did you mean `hidden_size`?)"),
        ({"hidden_size": 65}, "hidden_size 65 is no multiple of num_heads 4"),
        ({"hidden_size": "big"}, "hidden_size: expected a whole number, got 'big'"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        (
            {"hidden_act": "relu", "compute_dtype": "int8"},
            "hidden_act 'relu' is not one of gelu, fast_gelu; compute",
        ),
        ({"vocab_size": 3}, "pad_token_id 3 is outside a vocabulary of 3"),
        ({"hidden_dropout_rate": 1}, "hidden_dropout_rate must be at least 0 and below 1"),
    ],
)
def test_every_problem_is_named(overrides, message):
    with pytest.raises(ModelError) as caught:
        load_config("tiny", overrides)
    assert message in str(caught.value)


def test_unknown_and_damaged_presets(tmp_path):
    with pytest.raises(ModelError, match=r"no preset is called 'huge' \(there are 176b"):
        load_config("huge")
    with pytest.raises(ModelError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ModelError, match=r"bad\.yaml:2: is not valid YAML"):
        load_config(tmp_path / "bad.yaml")


def test_heads_must_divide_over_the_model_group():
    config = BloomConfig(hidden_size=64, num_layers=1, num_heads=4)
    assert list(config.cut_problems(4, 1)) == []
    first, second = config.cut_problems(3, 1)
    what, remedy = "num_heads 4 cannot be cut into 3 equal parts", "choose a divisor of 4"
    assert first == ("model_parallel", what, remedy)
    assert second[:2] == ("model_parallel", "hidden_size * expand_ratio 256 cannot be cut into 3 equal parts")


def test_a_sequence_must_be_cut_evenly():
    config = load_config("tiny", {"seq_length": 30})
    assert list(config.cut_problems(1, 1, 3)) == []
    (problem,) = config.cut_problems(1, 1, 4)
    assert problem[:2] == ("use_seq_parallel", "seq_length 30 cannot be cut into 4 equal parts")
