"""What scripts for MindFormers' Bloom import and call, with `mindformers` and with `model` in its place."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from model.compatibility.auto_model import AutoConfig
from model.compatibility.page_config import (
    BloomConfig,
    TransformerOpParallelConfig,
    checkpoint_of_config,
    editable,
    parallel_of,
    plain,
)
from model.compatibility.script_context import device_here, get_last_checkpoint, get_real_rank, str2bool
from model.config.load_config import load_config
from model.data.tokenizer import train_tokenizer
from model.errors import ModelError
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from tests.model.support import reference
from tests.model.support.hf_model import CONFIG, as_mindformers, hf_weights

ROOT = Path(__file__).parents[3]
ONE = replace(CONFIG, num_layers=1)
SKY = "what color is the sky?"
# The calls of the page's scripts, one after the other; none of their words.
SCRIPT = """
import json, os, sys
import numpy as np
import mindspore as ms
from mindspore import load_checkpoint, load_param_into_net
from mindspore.parallel import set_algo_parameters
from mindspore.train import Model

ms.set_context(mode=ms.GRAPH_MODE, device_target="Ascend", device_id=0)

from mindformers import AutoConfig, AutoModel, AutoTokenizer, BloomConfig, pipeline
from mindformers import ContextConfig, ParallelContextConfig, init_context
from mindformers.models.bloom import BloomLMHeadModel
from mindformers.modules import TransformerOpParallelConfig
from mindformers.tools import logger
from mindformers.tools.utils import get_real_rank, str2bool
from mindformers.trainer.utils import get_last_checkpoint

home = sys.argv[1]
rank, ranks = init_context(
    use_parallel=str2bool("True"),
    context_config=ContextConfig(mode=0, device_target="Ascend", device_id=0),
    parallel_config=ParallelContextConfig(parallel_mode="SEMI_AUTO_PARALLEL", full_batch=True),
)
set_algo_parameters(elementwise_op_strategy_follow=True, fully_use_devices=True)
path = get_last_checkpoint(os.path.join(home, f"rank_{rank}"))
logger.info("from %s", path)
sizes = dict(json.loads(sys.argv[2]))
config = BloomConfig(
    param_init_type="float32", embedding_init_type=ms.float32, compute_dtype="float32",
    checkpoint_name_or_path=path,
    max_decode_length=32, seq_length=32, hidden_dropout_rate=0.0, attention_dropout_rate=0.0, batch_size=1,
    top_k=1, top_p=1, do_sample=True, parallel_config=TransformerOpParallelConfig(model_parallel=8), **sizes,
)
tokenizer = AutoTokenizer.from_pretrained(home)
bloom = BloomLMHeadModel(config)
bloom.set_train(False)
ids = tokenizer.encode(sys.argv[3])
rows = bloom.generate(np.array([ids]).astype(np.int32), max_length=None, do_sample=False, eos_token_id=2)

config.checkpoint_name_or_path = ""
config.use_past = False
network = AutoModel.from_config(config)
model = Model(network)
model.infer_predict_layout(ms.Tensor(np.ones(shape=(1, config.seq_length)), ms.int32))
left = load_param_into_net(model, load_checkpoint(path))
ask = pipeline(task="text_generation", model=network, tokenizer=tokenizer)
texts = ask([sys.argv[3]], max_new_tokens=4, do_sample=False)
known = {"rank": rank, "ranks": ranks, "real": get_real_rank(), "argv": sys.argv[1:2], "name": __name__}
print(json.dumps({**known, "ids": ids, "row": rows[0], "left": left, "texts": texts}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A rank's folder with an older checkpoint and one whose names have the prefix, and a tokenizer."""
    home = tmp_path_factory.mktemp("page")
    (home / "rank_0").mkdir()
    weights = as_mindformers(hf_weights(ONE), ONE)
    for age, (name, factor) in enumerate((("new.ckpt", 1), ("old.ckpt", 0))):
        path = home / "rank_0" / name
        write_ckpt(path, [(f"transformer.{key}", value * factor) for key, value in weights.items()])
        os.utime(path, (1e9 - age, 1e9 - age))
    (home / "tokenizer.json").write_text(train_tokenizer([SKY], CONFIG).to_json(), encoding="utf-8")
    return home


def greedy(ids, count):
    weights, ids = as_mindformers(hf_weights(ONE), ONE), list(ids)
    for _ in range(count):
        ids.append(int(reference.logits(weights, np.array(ids), ONE)[-1].argmax()))
    return ids


def test_a_script_for_mindformers_runs_unchanged(home, tmp_path):
    script = tmp_path / "chat.py"
    script.write_text(SCRIPT)
    sizes = {name: getattr(ONE, name) for name in ("hidden_size", "num_layers", "num_heads", "vocab_size")}
    words = [str(script), str(home), json.dumps(sizes), SKY]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "model", "run", *words]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rank"], found["ranks"], found["real"], found["name"]) == (0, 1, 0, "__main__")
    assert found["argv"] == [str(home)] and found["left"] == [[], []]
    assert "mindformers is not installed: `model` answers for it" in done.stderr
    assert done.stderr.count("this machine has no NPU: the CPU computes") == 1
    ids, row = found["ids"], found["row"]
    # Until the length of the network is full: nothing is likelier than what the reference says.
    assert row == greedy(ids, len(row) - len(ids)) and len(row) > len(ids) + 4
    (text,) = found["texts"][0]["text_generation_text"]
    assert text.startswith(SKY)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("models.bloom", ("BloomConfig", "BloomLMHeadModel")),
        ("modules", ("TransformerOpParallelConfig",)),
        ("trainer.utils", ("get_last_checkpoint",)),
        ("tools.utils", ("str2bool", "get_real_rank")),
        ("tools", ("logger",)),
        ("core.context", ("init_context",)),
        ("auto_class", ("AutoModel",)),
    ],
)
def test_the_modules_of_the_page_are_below_model(module, names):
    found = importlib.import_module(f"model.{module}")
    assert all(getattr(found, name) is not None for name in names)
    with pytest.raises(ImportError):
        importlib.import_module("model.models.llama")
    with pytest.raises(AttributeError, match="has no attribute 'LlamaConfig'"):
        _ = found.LlamaConfig


def test_a_configuration_has_the_fields_of_the_page_and_takes_new_values():
    config = BloomConfig(
        hidden_size=64, num_heads=4, embedding_init_type=ms.float16, top_p=1, repetition_penalty=1
    )
    assert (config.num_layers, config.seq_length, config.softmax_compute_type) == (2, 1024, "float32")
    assert (config.embedding_init_type, config.top_p, config.checkpoint_name_or_path) == ("float16", 1.0, "")
    config.use_past, config.checkpoint_name_or_path = True, "bloom.ckpt"
    config.parallel_config = {"model_parallel": 2, "recompute": True}
    assert checkpoint_of_config(config) == "bloom.ckpt" and parallel_of(config).model_parallel == 2
    assert plain(config) == config and plain(config).use_past and not hasattr(plain(config), "moe_config")
    assert "use_past=True" in repr(config) and "checkpoint_name_or_path='bloom.ckpt'" in repr(config)
    for name, value, message in (
        ("num_heads", 3, "hidden_size 64 is no multiple of num_heads 3"),
        ("hiden_size", 64, r"hiden_size: unknown key \(did you mean `hidden_size`"),
        ("embedding_dropout_prob", 0.1, "embedding_dropout_prob is 0.1, but this network has none"),
    ):
        with pytest.raises(ModelError, match=message):
            setattr(config, name, value)
    assert config.num_heads == 4
    with pytest.raises(ModelError, match="unknown key"):
        BloomConfig(hidden=3)


def test_a_named_configuration_knows_its_weights_and_is_the_preset():
    named = AutoConfig.from_pretrained("bloom_7.1b")
    assert named == load_config("7.1b") == named and checkpoint_of_config(named) == "bloom_7.1b"
    named.use_past = False
    assert named == replace(load_config("7.1b"), use_past=False) != load_config("7.1b")
    assert parallel_of(named) == TransformerOpParallelConfig()
    assert hash(editable(load_config("tiny"))) == hash(load_config("tiny"))


def test_small_functions(tmp_path, monkeypatch):
    assert [str2bool(text) for text in ("True", "false", "1", True)] == [True, False, True, True]
    with pytest.raises(ModelError, match="expected true or false, got 'yes'"):
        str2bool("yes")
    assert get_last_checkpoint(tmp_path) is None
    with pytest.raises(ModelError, match="there is no such folder"):
        get_last_checkpoint(tmp_path / "rank_1")
    monkeypatch.setenv("RANK_ID", "3")
    assert get_real_rank() == 3
    with pytest.raises(ModelError, match="device_target: is 'GPU'"):
        device_here("GPU")
