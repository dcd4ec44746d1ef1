"""Numbers of parameters against networks of the real MindFormers, usual values against transformers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.mindformers_network import dense_decoder, model_table
from orchestrator.config.yaml_reader import parse_yaml
from tests.real_mindformers import PYTHON, why_no_mindformers

SMALL = {"hidden_size": 64, "num_layers": 3, "seq_length": 32}
LLAMA = {"type": "LlamaConfig", **SMALL, "num_heads": 4, "vocab_size": 100}
GLM = {
    "type": "ChatGLM2Config",
    **SMALL,
    "num_attention_heads": 4,
    "kv_channels": 32,
    "ffn_hidden_size": 96,
    "padded_vocab_size": 104,
}
MODELS: list[dict[str, Any]] = [
    LLAMA,
    {**LLAMA, "n_kv_heads": 2, "multiple_of": 16, "ffn_dim_multiplier": 1.3},
    {**LLAMA, "intermediate_size": 96, "qkv_has_bias": True, "tie_word_embeddings": True},
    {**LLAMA, "intermediate_size": 96, "attn_proj_has_bias": True, "qkv_concat": True},
    GLM,
    {**GLM, "multi_query_group_num": 4, "add_qkv_bias": False, "mlp_concat": False},
    {**GLM, "post_self_attn_layernorm": True, "post_mlp_layernorm": True},
]


@pytest.mark.mindspore
@pytest.mark.skipif(bool(why_no_mindformers()), reason=why_no_mindformers())
def test_the_networks_of_mindformers_hold_as_many_values(tmp_path: Path) -> None:
    script = Path(__file__).parent / "real_parameter_counts.py"
    argv = [str(PYTHON), str(script), json.dumps(MODELS)]
    # It writes a folder `output` where it is.
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path)
    counts = [line for line in done.stdout.splitlines() if line.startswith("COUNTS")]
    assert counts, done.stderr[-2000:]
    files = (yaml.safe_dump({"model": {"model_config": model}}).encode() for model in MODELS)
    tables = (model_table(parse_yaml("run.yaml", file), None) for file in files)
    assert json.loads(counts[0][7:]) == [dense_decoder(table)[0].parameter_count for table in tables]


_DEFAULTS = """
import json, sys
from transformers import CONFIG_MAPPING
print("DEFAULTS", json.dumps({kind: CONFIG_MAPPING[kind]().to_dict() for kind in json.loads(sys.argv[1])}))
"""


@pytest.mark.skipif(bool(why_no_mindformers()), reason=why_no_mindformers())
def test_a_key_that_is_left_out_means_what_transformers_takes_it_for() -> None:
    kinds = ["llama", "qwen2", "qwen3", "glm", "glm4"]
    argv = [str(PYTHON), "-c", _DEFAULTS, json.dumps(kinds)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("DEFAULTS")]
    assert found, done.stderr[-2000:]
    for kind, whole in json.loads(found[0][9:]).items():
        whole = {key: value for key, value in whole.items() if value is not None}
        pair = [json.dumps(config).encode() for config in ({"model_type": kind}, whole)]
        short, full = (dense_decoder(model_table(None, parse_yaml("config.json", file)))[0] for file in pair)
        assert short == full, kind
