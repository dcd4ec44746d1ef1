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

from model.compatibility.auto_model import AutoConfig, AutoTokenizer
from model.compatibility.editable_config import (
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
from model.parallel.mesh import Strategy, cut
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from tests.model.support import reference
from tests.model.support.cluster import start, tails
from tests.model.support.hf_model import CONFIG, as_mindformers, hf_weights

ONE = replace(CONFIG, num_layers=1, num_heads=2)
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
sizes = dict(json.loads(sys.argv[2]))
config = BloomConfig(
    param_init_type="float32", embedding_init_type=ms.float32, compute_dtype="float32",
    checkpoint_name_or_path=os.path.join(home, "whole.ckpt"), max_decode_length=32, seq_length=32,
    hidden_dropout_rate=0.0, attention_dropout_rate=0.0, batch_size=1, use_past=False, top_k=1, top_p=1,
    do_sample=True, parallel_config=TransformerOpParallelConfig(model_parallel=2), **sizes,
)
tokenizer = AutoTokenizer.from_pretrained(home)
bloom = BloomLMHeadModel(config)
bloom.set_train(False)
ids = tokenizer.encode(sys.argv[3])
prompt = np.array([ids]).astype(np.int32)
rows = bloom.generate(prompt, max_length=len(ids) + 4, do_sample=False, eos_token_id=2)

config.checkpoint_name_or_path = ""
network = AutoModel.from_config(config)
model = Model(network)
model.infer_predict_layout(ms.Tensor(np.ones(shape=(1, config.seq_length)), ms.int32))
path = get_last_checkpoint(os.path.join(home, f"rank_{rank}"))
logger.info("from %s", path)
left = load_param_into_net(model, load_checkpoint(path))
ask = pipeline(task="text_generation", model=network, tokenizer=tokenizer)
texts = ask([sys.argv[3]], max_new_tokens=4, do_sample=False)
given = AutoModel.from_config(config, os.path.join(home, "whole.ckpt")).network.parameters_dict()
same = {name: np.array_equal(value.asnumpy(), given[name].asnumpy()) and list(value.shape)
        for name, value in bloom.network.parameters_dict().items()}
known = {"ranks": ranks, "real": get_real_rank(), "argv": sys.argv[1:2], "name": __name__, "left": left}
known["same"] = same if len(same) == len(given) else {}
config.parallel_config = None
alone = AutoModel.from_config(config).network.parameters_dict()
known["alone"] = list(alone["blocks.0.attention.dense1.weight"].shape)
with open(f"found_{rank}.json", "w") as file:
    json.dump({**known, "ids": ids, "row": rows[0], "texts": texts}, file)
"""


@pytest.fixture
def home(tmp_path):
    """A whole checkpoint with the prefix, of each rank an older and a newer shard, and a tokenizer."""
    weights = as_mindformers(hf_weights(ONE), ONE)
    write_ckpt(tmp_path / "whole.ckpt", [(f"transformer.{name}", value) for name, value in weights.items()])
    strategy = Strategy(model_parallel=2)
    for rank in (0, 1):
        (tmp_path / f"rank_{rank}").mkdir()
        for age, (name, factor) in enumerate((("new.ckpt", 1), ("old.ckpt", 0))):
            path = tmp_path / f"rank_{rank}" / name
            parts = {key: cut(key, value, strategy, strategy.place(rank)) for key, value in weights.items()}
            write_ckpt(path, [(key, value * factor) for key, value in parts.items()])
            os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "tokenizer.json").write_text(train_tokenizer([SKY], CONFIG).to_json(), encoding="utf-8")
    return tmp_path


def greedy(ids, count):
    weights, ids = as_mindformers(hf_weights(ONE), ONE), list(ids)
    for _ in range(count):
        ids.append(int(reference.logits(weights, np.array(ids), ONE)[-1].argmax()))
    return ids


@pytest.mark.mindspore
def test_a_script_for_mindformers_runs_unchanged_on_two_ranks(home, tmp_path):
    (tmp_path / "chat.py").write_text(SCRIPT)
    sizes = {name: getattr(ONE, name) for name in ("hidden_size", "num_layers", "num_heads", "vocab_size")}
    words = [str(tmp_path / "chat.py"), str(home), json.dumps(sizes), SKY]
    codes = start(tmp_path, [sys.executable, "-m", "model", "run", *words], 2)
    said = tails(tmp_path, codes)
    assert set(codes.values()) == {0}, said
    assert "mindformers is not installed: `model` answers for it" in said
    assert "this machine has no NPU: the CPU computes" in said
    assert "each of the 2 ranks has the whole network; parallel_config=" in said
    for rank in (0, 1):
        found = json.loads((tmp_path / f"found_{rank}.json").read_text())
        assert (found["ranks"], found["real"], found["name"]) == (2, rank, "__main__")
        assert found["argv"] == [str(home)] and found["left"] == [[], []]
        assert found["row"] == greedy(found["ids"], 4)
        # A file that is given is read as the configuration's is: of what is cut, this rank's part.
        assert all(found["same"].values())
        assert found["same"]["blocks.0.attention.dense1.weight"] == [ONE.hidden_size // 2, ONE.hidden_size]
        assert found["alone"] == [ONE.hidden_size, ONE.hidden_size]
        (text,) = found["texts"][0]["text_generation_text"]
        assert text == AutoTokenizer.from_pretrained(home).decode(found["row"])


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        ("from mindformers import Trainer", 2, "s.py:2: cannot import name 'Trainer' from 'mindformers' (in"),
        ("import mindformers.dataset", 2, "s.py:2: No module named 'mindformers.dataset' (install mindform"),
        ("open('/no/such/file')", 1, "line 2, in <module>"),
        ("raise SystemExit(3)", 3, "mindformers is not installed: `model` answers for it"),
        ("import mindformers as m; assert m.models.bloom.BloomConfig", 0, ""),
    ],
    ids=["name", "module", "file", "exit", "attribute"],
)
def test_what_a_script_meets_is_told_where_it_is(tmp_path, lines, code, told):
    (tmp_path / "s.py").write_text(f"\n{lines}\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    argv = [sys.executable, "-m", "model", "run", "s.py"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code and told in done.stderr, done.stderr


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
    with pytest.raises(ValueError, match="expected true or false, got 'yes'"):
        str2bool("yes")
    assert get_last_checkpoint(tmp_path) is None
    with pytest.raises(ModelError, match="there is no such folder"):
        get_last_checkpoint(tmp_path / "rank_1")
    monkeypatch.setenv("RANK_ID", "3")
    assert get_real_rank() == 3
    with pytest.raises(ModelError, match="device_target: is 'GPU'"):
        device_here("GPU")
