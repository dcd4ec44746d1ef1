from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

import model
from model import AutoConfig, AutoModel, AutoTokenizer, TextGenerationPipeline, pipeline
from model.config.load_config import config_text
from model.data.tokenizer import train_tokenizer
from model.errors import ModelError
from model.weights.convert import convert
from tests.model.support import reference
from tests.model.support.hf_model import CONFIG, as_mindformers, hf_weights, write_hf

ONE = replace(CONFIG, num_layers=1)
EXAMPLES = Path(__file__).parents[3] / "examples"
SKY, LOVE = "what color is the sky?", "Translate to English: Je t’aime."


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model as it was downloaded, and the cache of this module's conversions."""
    home = tmp_path_factory.mktemp("auto")
    write_hf(home / "hf", ONE, seq_length=64)
    tokenizer = train_tokenizer([SKY, LOVE], CONFIG)
    (home / "hf/tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    convert(home / "hf", home / "ms")
    # One graph to compile and not two: the cache of keys and values has tests of its own.
    config = AutoConfig.from_pretrained(home / "ms", use_past=False)
    (home / "ms/config.yaml").write_text(config_text(config))
    return home


@pytest.fixture(scope="module")
def bloom(home):
    return AutoModel.from_pretrained(home / "ms")


@pytest.fixture(scope="module")
def tokenizer(home):
    return AutoTokenizer.from_pretrained(home / "ms")


def greedy(ids, count):
    """The likeliest tokens by the NumPy reference, which has no graph, no cache and no batch."""
    weights, ids = as_mindformers(hf_weights(ONE), ONE), list(ids)
    for _ in range(count):
        token = int(reference.logits(weights, np.array(ids), ONE)[-1].argmax())
        if token == CONFIG.eos_token_id:
            break
        ids.append(token)
    return ids


def test_the_answer_is_that_of_the_published_weights(bloom, tokenizer):
    inputs = tokenizer(SKY)
    assert inputs["attention_mask"] == [1] * len(inputs["input_ids"])
    length = len(inputs["input_ids"]) + 5
    outputs = bloom.generate(inputs["input_ids"], max_length=length)
    assert outputs == [greedy(inputs["input_ids"], 5)]
    text = tokenizer.decode(outputs, skip_special_tokens=True)
    assert len(text) == 1 and text[0].startswith(SKY)


def test_rows_of_a_batch_get_their_own_answers(bloom, tokenizer):
    rows = tokenizer([SKY, LOVE])["input_ids"]
    assert len(rows[0]) != len(rows[1])
    length = max(map(len, rows)) + 3
    assert bloom.generate(rows, max_length=length) == [greedy(row, length - len(row)) for row in rows]
    one = np.array([rows[0]], np.int32)
    for ids in (one, ms.Tensor(one), rows[0]):
        assert bloom.generate(ids, max_new_tokens=2) == [greedy(rows[0], 2)]


def test_options_are_those_of_generation(bloom, tokenizer):
    ids = tokenizer(SKY)["input_ids"]
    drawn = {"do_sample": True, "temperature": 1.5, "top_k": 40, "max_new_tokens": 4}
    assert bloom.generate(ids, seed=1, **drawn) == bloom.generate(ids, seed=1, **drawn)
    assert bloom.generate(ids, max_new_tokens=3, max_length=None, eos_token_id=2) == [greedy(ids, 3)]
    beams = bloom.generate(ids, max_new_tokens=3, num_beams=2)
    assert beams[0][: len(ids)] == ids and len(beams) == 1


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([5, 6, 7], {"max_length": 3}, "a prompt of 3 tokens leaves no room in max_length 3"),
        ([], {}, "the prompt is empty"),
        ([[1], []], {}, "is empty"),
        ([10**6], {}, "ids 1000000 are outside a vocabulary of 300"),
        ([5], {"seed": -1}, "seed: must be at least 0, got -1"),
        ([5], {"temprature": 1.0}, "knows no temprature; there are do_sample, "),
        ([5], {"eos_token_id": 7}, "eos_token_id is the config's: 2"),
    ],
)
def test_what_cannot_be_generated_is_one_line(bloom, ids, options, message):
    with pytest.raises(ModelError) as caught:
        bloom.generate(ids, **options)
    assert message in str(caught.value)


def test_the_pipeline_of_mindformers(home, bloom, tokenizer):
    ask = TextGenerationPipeline(bloom, tokenizer, max_length=64, batch_size=2)
    results = ask([SKY, LOVE, SKY], max_new_tokens=3)
    assert [list(result) for result in results] == [["text_generation_text"]] * 3
    assert results[0] == results[2] and results[0]["text_generation_text"][0].startswith(SKY)
    assert ask(SKY, max_new_tokens=3) == results[:1]
    by_name = pipeline("text_generation", model=bloom, tokenizer=home / "ms", max_length=64, batch_size=2)
    assert by_name([SKY, LOVE], max_new_tokens=3) == results[:2]
    with pytest.raises(ModelError, match="there is no task 'translation'"):
        pipeline("translation", bloom, tokenizer)
    with pytest.raises(ModelError, match="needs a tokenizer"):
        pipeline("text_generation", bloom)
    with pytest.raises(ModelError, match="device: is 'cpu', but the model is loaded already"):
        pipeline("text_generation", bloom, tokenizer, device="cpu")
    with pytest.raises(ModelError, match="device: cannot be Ascend:1: MindSpore is set to CPU"):
        pipeline("text_generation", home / "ms", device="Ascend:1")
    with pytest.raises(ModelError, match="device: expected cpu or Ascend:N, got 'tpu'"):
        AutoModel.from_pretrained(home / "ms", device="tpu")


def test_configs_come_from_every_form(home):
    own, theirs = AutoConfig.from_pretrained(home / "ms"), AutoConfig.from_pretrained(home / "hf")
    assert theirs == AutoConfig.from_pretrained(home / "hf/config.json")
    assert own == replace(theirs, use_past=False)
    assert (own.num_heads, own.seq_length, own.do_sample, own.prompt_template) == (3, 64, False, "none")
    assert AutoConfig.from_pretrained(home / "ms/config.yaml", seq_length=32).seq_length == 32
    named = AutoConfig.from_pretrained("bloom_7.1b")
    assert (named.hidden_size, named.num_layers) == (4096, 30)
    with pytest.raises(ModelError, match="seq_len: unknown key"):
        AutoConfig.from_pretrained("bloom_560m", seq_len=3)
    with pytest.raises(ModelError, match=r"there is no config\.json in the folder"):
        AutoConfig.from_pretrained(EXAMPLES)


def test_models_from_a_config_or_other_weights(home):
    config = AutoConfig.from_pretrained(home / "ms")
    drawn = AutoModel.from_config(config).network.transformer.ln_f.gamma.asnumpy()
    np.testing.assert_array_equal(drawn, np.ones_like(drawn))
    loaded = AutoModel.from_config(config, home / "ms/model.ckpt").set_train(False)
    expected = hf_weights(ONE)["transformer.ln_f.weight"]
    np.testing.assert_array_equal(loaded.network.transformer.ln_f.gamma.asnumpy(), expected)
    with pytest.raises(ModelError, match="holds 0 checkpoint files"):
        AutoModel.from_pretrained(_folder_without_weights(home))


def _folder_without_weights(home):
    folder = home / "empty"
    folder.mkdir()
    (folder / "config.yaml").write_text((home / "ms/config.yaml").read_text())
    return folder


def test_the_package_stays_light_until_a_class_is_asked_for():
    script = "import sys, model, model.__main__; print('mindspore' in sys.modules, model.__all__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False ['AutoConfig', 'AutoModel'")
    with pytest.raises(AttributeError, match="no attribute 'AutoProcessor'"):
        _ = model.AutoProcessor


def test_no_module_takes_the_name_of_something_public():
    """An imported module becomes an attribute of the package, in place of what was to be found there."""
    modules = {path.stem for path in Path(model.__file__).parent.glob("*.py")}
    assert not modules & set(model.__all__)


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_generate(home, capsys):
    example("generate").main([str(home / "ms"), "--max-length", "30"])
    assert capsys.readouterr().out.startswith(SKY)


def test_example_pipeline(home, capsys):
    example("text_pipeline").main([str(home / "ms"), "--max-length", "40"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("{'text_generation_text': [") for line in lines)


def test_example_chat(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("and the sea?\n\n"))
    config = AutoConfig.from_pretrained(home / "ms", seq_length=320)
    (tmp_path / "config.yaml").write_text(config_text(config))  # with room for Alpaca's template
    shutil.copy(home / "ms/tokenizer.json", tmp_path)
    weights = ["--checkpoint", str(home / "ms/model.ckpt")]
    example("chat").main([str(tmp_path), *weights, "--max-new-tokens", "2"])
    out = capsys.readouterr().out
    assert "why the sky is blue?\n" in out and "and the sea?\n" in out


def test_example_predict_in_batches(home, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"{SKY}\n\n{LOVE}\n{SKY}\n", encoding="utf-8")
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]
    example("predict_batch").main([str(home / "ms"), *files, "--batch-size", "2", "--max-length", "40"])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == [SKY, LOVE, SKY]
    assert rows[0] == rows[2] and rows[1]["answer"].startswith("Translate")
    assert capsys.readouterr().out.endswith("out.jsonl: 3 answers\n")


def test_every_example_is_run_by_a_test():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"generate", "text_pipeline", "chat", "predict_batch"}
