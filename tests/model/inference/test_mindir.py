"""Exported graphs give the tokens that `generate` gives; they share weights and cache."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from model.__main__ import main
from model.devices.device_name import CPU, DeviceName
from model.errors import ModelError
from model.inference.load_model import open_model
from model.inference.mindir import LiteGraphs, MindIrReader, export, open_graphs, read_infer_yaml
from model.inference.sampling import Sampling
from tests.model.support.tiny_checkpoint import TEXTS, write_tiny_checkpoint

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mindir")
    write_tiny_checkpoint(folder)
    export(folder / "tiny.ckpt", folder=folder / "graphs")
    return folder


@pytest.fixture(scope="module")
def answers(home):
    return open_graphs(*graphs_of(home))


def graphs_of(home: Path) -> tuple[Path, Path]:
    return tuple(home / f"graphs/{name}_seq48_bs1_graph.mindir" for name in ("prefill", "decode"))


def test_the_graphs_give_the_tokens_of_generate(home, answers):
    alone = open_model(home / "tiny.ckpt")
    for text in TEXTS:
        ids = alone.tokenizer.encode(text)
        expected = alone.generator.generate([ids], Sampling(12))[0]
        assert len(set(expected)) > 3, "the weights are too dull to tell one token from another"
        times = []
        assert answers.tokens(ids, 12, times.append) == expected
        assert len(times) == len(expected) + (len(expected) < 12) and min(times) > 0


def test_the_command_line_of_the_page(home, capsys):
    prefill, decode = graphs_of(home)
    words = [
        "--prefill_model_path",
        str(prefill),
        "--increment_model_path",
        str(decode),
        "--seq_length",
        "48",
    ]
    more = [
        "--seq_length",
        "48",
        "--device_id",
        "7",
        "--model_name",
        "bloom",
        "--is_sample_acceleration",
        "False",
    ]
    asked = ["--prompt", TEXTS[0], "--max-new-tokens", "3"]
    assert main(["infer-mindir", *words, *more, *asked]) == 0
    *times, answer = capsys.readouterr().out.splitlines()
    assert len(times) == 3 and all(re.fullmatch(r"one token takes \d+\.\d+ s", line) for line in times)
    assert answer.startswith(f"['{TEXTS[0]}")


def test_what_does_not_go_into_the_graphs(home, answers):
    with pytest.raises(ModelError, match="a prompt of 48 tokens does not go into graphs of 48"):
        answers.tokens([5] * 48, 3)
    with pytest.raises(ModelError, match="a prompt of 0 tokens"):
        answers.tokens([], 3)
    assert len(answers.tokens([5] * 46, 9)) == 2, "an answer ends where the cache does"
    with pytest.raises(ModelError, match="is 64, but the graphs hold 48"):
        open_graphs(*graphs_of(home), seq_length=64)
    with pytest.raises(ModelError, match="there is no such graph"):
        open_graphs(graphs_of(home)[0], home / "graphs/none.mindir")
    broken = home / "graphs/broken.mindir"
    broken.write_bytes(b"no graph")
    with pytest.raises(ModelError, match="is no MindIR graph"):
        open_graphs(graphs_of(home)[0], broken)
    with pytest.raises(ModelError, match="leave it False"):
        open_graphs(*graphs_of(home), sample_acceleration=True)


PAGE = """
model:
  model_config:
    type: BloomConfig
    batch_size: 1
    seq_length: 1024
    hidden_size: 4096
    num_layers: 30
    num_heads: 32
    hidden_act: gelu
    compute_dtype: float16
    checkpoint_name_or_path: bloom_7.1b
infer:
  prefill_model_path: ./mindirs/prefill_seq512_bs1
  increment_model_path: ./mindirs/decode_seq512_bs1
  infer_seq_length: 512
  model_type: mindir
"""


def test_the_infer_block_of_the_page():
    table = yaml.safe_load(PAGE)
    config, paths = read_infer_yaml(table, "infer.yaml")
    assert (config.hidden_size, config.num_layers, config.seq_length) == (4096, 30, 512)
    assert paths.prefill == Path("mindirs/prefill_seq512_bs1")
    with pytest.raises(ModelError, match=r"infer.yaml: infer.increment_model_path: is missing"):
        read_infer_yaml({**table, "infer": {"prefill_model_path": "x"}}, "infer.yaml")
    with pytest.raises(ModelError, match=r"infer.yaml: infer: is missing"):
        read_infer_yaml({"model": table["model"]}, "infer.yaml")


class FakeLite:
    """As much of `mindspore_lite` as is used: records what it is told, and counts up."""

    class Context:
        def __init__(self):
            self.target, self.ascend = [], SimpleNamespace(device_id=-1)

    class Model:
        def build_from_file(self, path, kind, context, *config):
            self.built = (Path(path).name, kind, context.target, context.ascend.device_id, config)

        def predict(self, inputs):
            logits = np.zeros((1, 8), np.float32)
            logits[0, (int(inputs[1].value[0]) + 1) % 8] = 1
            return [SimpleNamespace(get_data_to_numpy=lambda: logits)]

    class ModelGroup:
        models: list = []  # noqa: RUF012 - what the last group was given

        def __init__(self, flag):
            assert flag == "share"

        def add_model(self, models):
            FakeLite.ModelGroup.models = models

    ModelGroupFlag = SimpleNamespace(SHARE_WEIGHT="share")
    ModelType = SimpleNamespace(MINDIR="mindir")
    Tensor = SimpleNamespace

    @staticmethod
    def tensor(value):
        return SimpleNamespace(value=value)


def test_the_graphs_in_mindspore_lite(home):
    lite = FakeLite()
    lite.Tensor = FakeLite.tensor
    config, npu = Path("context.cfg"), DeviceName("Ascend", 7)
    graphs = LiteGraphs(lite, *graphs_of(home), (1, 8), device=npu, config_path=config)
    first, second = FakeLite.ModelGroup.models
    assert first.built == ("prefill_seq48_bs1_graph.mindir", "mindir", ["ascend"], 7, ("context.cfg",))
    assert second.built[0] == "decode_seq48_bs1_graph.mindir"
    reader = MindIrReader(graphs, 3)
    assert reader.start([[5, 6]]).argmax() == 1 and reader.read([4]).argmax() == 3
    LiteGraphs(lite, *graphs_of(home), (1, 8), device=CPU)
    assert FakeLite.ModelGroup.models[0].built[2:4] == (["cpu"], -1)
