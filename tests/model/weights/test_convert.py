from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.__main__ import main
from model.config.load_config import load_config
from model.convert_weight import main as seeds_main
from model.errors import ModelError
from model.weights.convert import convert
from orchestrator.checkpoint.copy_options import SEGMENT
from orchestrator.checkpoint.files.tensor_files import (
    read_ckpt,
    read_safetensors,
    write_ckpt,
    write_safetensors,
)
from orchestrator.core.errors import CheckpointError
from tests.model.support.hf_model import CONFIG, as_mindformers, hf_weights, write_hf
from tests.model.support.torch_bin import write_torch

ROOT = Path(__file__).parents[3]


def arrays(path):
    read = read_ckpt if path.suffix == ".ckpt" else read_safetensors
    return {name: tensor.array() for name, tensor in read(path).items()}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        assert found[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(("shards", "prefix"), [(1, True), (3, False)])
def test_both_ways_every_bit_is_kept(tmp_path, suffix, shards, prefix):
    weights = write_hf(tmp_path / "hf", shards=shards, prefix=prefix)
    (tmp_path / "hf/tokenizer.json").write_text("{}")
    path = tmp_path / f"out/bloom.{suffix}"
    converted = convert(tmp_path / "hf", path)
    assert (converted.path, converted.tensors) == (path, 5 + 2 * 16)
    assert_same(arrays(path), as_mindformers(weights))
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"
    config = load_config(tmp_path / "out/config.yaml")
    assert (config.num_heads, config.vocab_size, config.prompt_template) == (3, 300, "none")
    back = convert(path, tmp_path / "back")
    assert back.huggingface and back.tensors == len(weights)
    assert_same(arrays(tmp_path / "back/model.safetensors"), weights)
    assert (tmp_path / "back/tokenizer.json").read_text() == "{}"
    again = convert(tmp_path / "back", tmp_path / "again")
    assert again.path == tmp_path / "again/model.ckpt"
    assert_same(arrays(again.path), as_mindformers(weights))


def test_a_bin_of_pytorch_becomes_the_same(tmp_path):
    weights = hf_weights()
    write_hf(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").unlink()
    head = weights["transformer.word_embeddings.weight"]
    write_torch(tmp_path / "hf/pytorch_model.bin", {**weights, "lm_head.weight": head})
    assert_same(arrays(convert(tmp_path / "hf", tmp_path / "x.ckpt").path), as_mindformers(weights))
    index = {name: f"pytorch_model-{n % 2}.bin" for n, name in enumerate(weights)}
    for file in set(index.values()):
        write_torch(tmp_path / f"hf/{file}", {name: weights[name] for name in weights if index[name] == file})
    (tmp_path / "hf/pytorch_model.bin").unlink()
    (tmp_path / "hf/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(arrays(convert(tmp_path / "hf", tmp_path / "y.ckpt").path), as_mindformers(weights))


def test_the_way_back_can_end_in_files_of_pytorch(tmp_path):
    weights = write_hf(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "x.ckpt")
    folder = convert(tmp_path / "x.ckpt", tmp_path / "bin", form="bin").path
    assert {path.name for path in folder.iterdir()} == {"pytorch_model.bin", "config.json"}
    with zipfile.ZipFile(folder / "pytorch_model.bin") as archive:
        assert archive.testzip() is None
    again = convert(folder, tmp_path / "again.ckpt").path
    assert_same(arrays(again), as_mindformers(weights))
    half = convert(tmp_path / "x.ckpt", tmp_path / "half", form="bin", dtype="float16").path
    expected = {name: value.astype(np.float16) for name, value in as_mindformers(weights).items()}
    assert_same(arrays(convert(half, tmp_path / "out" / "half.ckpt").path), expected)
    with pytest.raises(ModelError, match="--format: bin is a form of Hugging Face's weights"):
        convert(tmp_path / "hf", tmp_path / "y.ckpt", form="bin")


def test_types_are_changed_on_the_way(tmp_path):
    weights = write_hf(tmp_path / "hf")
    half = convert(tmp_path / "hf", tmp_path / "half.ckpt", dtype="float16")
    expected = {name: value.astype(np.float16) for name, value in as_mindformers(weights).items()}
    assert_same(arrays(half.path), expected)
    assert load_config(tmp_path / "config.yaml").param_init_type == "float16"
    brain = convert(tmp_path / "hf", tmp_path / "brain" / "brain.safetensors", dtype="bfloat16")
    stored = read_safetensors(brain.path)["ln_f.gamma"]
    assert stored.dtype == "BFloat16"
    exact = weights["transformer.ln_f.weight"]
    np.testing.assert_allclose((stored.array().astype(np.uint32) << 16).view(np.float32), exact, rtol=2**-8)
    wide = convert(brain.path, tmp_path / "wide", dtype="float32")
    assert arrays(tmp_path / "wide/model.safetensors")["transformer.ln_f.weight"].dtype == np.float32
    assert json.loads((wide.path / "config.json").read_text())["torch_dtype"] == "float32"


def test_what_float16_cannot_hold_is_refused(tmp_path):
    weights = hf_weights()
    weights["transformer.h.1.mlp.dense_h_to_4h.weight"][3, 3] = 7e4
    write_hf(tmp_path / "hf", weights=weights)
    with pytest.raises(
        CheckpointError, match=r"output.mapping.weight holds 70000, which Float16 cannot hold"
    ):
        convert(tmp_path / "hf", tmp_path / "x.ckpt", dtype="float16")
    assert not [path for path in tmp_path.iterdir() if path.name != "hf"]


def test_large_tensors_go_through_in_parts(tmp_path):
    config = replace(CONFIG, hidden_size=600, num_heads=15, num_layers=1, vocab_size=1000)
    weights = write_hf(tmp_path / "hf", config, weights=hf_weights(config), shards=2)
    assert weights["transformer.h.0.mlp.dense_h_to_4h.weight"].nbytes > SEGMENT
    progress = []
    done = convert(tmp_path / "hf", tmp_path / "x.ckpt", progress=lambda *now: progress.append(now))
    assert_same(arrays(done.path), as_mindformers(weights, config))
    total = sum(value.nbytes for value in weights.values())
    assert progress[-1] == (total, total) and sorted(progress) == progress
    convert(done.path, tmp_path / "back")
    assert_same(arrays(tmp_path / "back/model.safetensors"), weights)


def test_a_parameter_in_several_pieces(tmp_path):
    weights = write_hf(tmp_path / "hf")
    config = tmp_path / "hf/config.json"
    write_ckpt(tmp_path / "pieces.ckpt", as_mindformers(weights).items(), piece_limit=3000)
    convert(tmp_path / "pieces.ckpt", tmp_path / "back", config=config)
    assert_same(arrays(tmp_path / "back/model.safetensors"), weights)


def refused(source, target, **options):
    with pytest.raises((ModelError, CheckpointError)) as caught:
        convert(source, target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_name_that_does_not_fit_is_listed(tmp_path):
    weights = hf_weights()
    for layer in range(2):
        del weights[f"transformer.h.{layer}.input_layernorm.bias"]
    weights["transformer.h.2.input_layernorm.bias"] = np.zeros(24, np.float32)
    weights["transformer.ln_f.bias"] = np.zeros(23, np.float32)
    write_hf(tmp_path / "hf", weights=weights)
    text = refused(tmp_path / "hf", tmp_path / "x.ckpt")
    assert "2 missing: transformer.h.[0-1].input_layernorm.bias" in text
    assert "1 extra: transformer.h.2.input_layernorm.bias" in text
    assert "1 of another shape: transformer.ln_f.bias [23] for [24]" in text
    assert "the config says 2 layers, hidden size 24" in text
    assert not (tmp_path / "x.ckpt").exists()
    write_ckpt(tmp_path / "y.ckpt", list(as_mindformers(hf_weights()).items())[3:])
    text = refused(tmp_path / "y.ckpt", tmp_path / "back", config=tmp_path / "hf/config.json")
    assert "3 missing: embedding.word_embedding.embedding_table" in text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 32, "n_head": 4}, "of another shape: transformer.word_embeddings.weight [300, 24]"),
        ({"n_layer": 3}, "12 missing: transformer.h.2.input_layernorm.weight"),
        ({"n_layer": 10**9}, "holds 29 tensors and cannot have 1000000000 layers"),
        ({"n_head": 5}, "hidden_size 24 is no multiple of num_heads 5"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', not 'bloom'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, but this network's is 1e-05"),
        ({"apply_residual_connection_post_layernorm": True}, "which this network cannot be"),
        ({"n_inner": 24}, "n_inner is 24, not 4 times hidden_size"),
        ({"vocab_size": "many"}, "vocab_size: expected a whole number, got 'many'"),
    ],
)
def test_configs_that_do_not_fit(tmp_path, config, message):
    write_hf(tmp_path / "hf", **config)
    assert message in refused(tmp_path / "hf", tmp_path / "x.ckpt")


def test_sources_and_targets_that_cannot_be(tmp_path):
    write_hf(tmp_path / "hf", shards=2)
    assert "must be" not in refused(tmp_path / "none", tmp_path / "x.ckpt")
    assert "become a .ckpt or .safetensors file, not .bin" in refused(tmp_path / "hf", tmp_path / "x.bin")
    (tmp_path / "folder.ckpt").mkdir()
    convert(tmp_path / "hf", tmp_path / "x.ckpt")
    assert "exists already (name a new folder)" in refused(tmp_path / "x.ckpt", tmp_path / "hf")
    write_safetensors(tmp_path / "foreign.safetensors", [("model.layers.0.weight", np.zeros(2))])
    assert "holds no Bloom" in refused(tmp_path / "foreign.safetensors", tmp_path / "y.ckpt")
    (tmp_path / "hf/config.json").unlink()
    assert "no config.json beside the weights (name it with --config)" in refused(
        tmp_path / "hf", tmp_path / "y.ckpt"
    )
    shard = tmp_path / "hf/model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    assert "it ends inside" in refused(tmp_path / "hf", tmp_path / "y.ckpt")
    shard.unlink()
    assert "of which 1 are missing: model-00002" in refused(tmp_path / "hf", tmp_path / "y.ckpt")


def test_a_head_of_its_own_is_refused(tmp_path):
    weights = hf_weights()
    table = weights["transformer.word_embeddings.weight"]
    write_hf(tmp_path / "same", weights={**weights, "lm_head.weight": table})
    assert convert(tmp_path / "same", tmp_path / "x.ckpt").tensors == 37
    write_hf(tmp_path / "other", weights={**weights, "lm_head.weight": table + 1})
    assert "lm_head.weight is not the embedding again" in refused(tmp_path / "other", tmp_path / "y.ckpt")


def test_a_training_checkpoint_gives_its_weights(tmp_path):
    weights = hf_weights()
    more = {"adam_m.ln_f.gamma": np.zeros(24, np.float32), "global_step": np.array(3, np.int32)}
    write_ckpt(tmp_path / "x.ckpt", {**as_mindformers(weights), **more}.items())
    convert(tmp_path / "x.ckpt", tmp_path / "hf", config=write_config(tmp_path))
    assert_same(arrays(tmp_path / "hf/model.safetensors"), weights)


def write_config(folder):
    write_hf(folder / "config")
    return folder / "config/config.json"


def run(*arguments, **options):
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, **options)


def test_the_command_line_needs_no_mindspore_and_no_torch(tmp_path):
    write_hf(tmp_path / "hf", shards=2)
    script = (
        "import sys; from model.__main__ import main; code = main(sys.argv[1:]); "
        "assert not {'mindspore', 'torch', 'rich', 'huggingface_hub'} & set(sys.modules); sys.exit(code)"
    )
    done = run("-c", script, "convert", tmp_path / "hf", tmp_path / "x.ckpt", "--dtype", "bfloat16", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'x.ckpt'}: 37 tensors under MindSpore's names\n"


def test_what_was_converted_is_told_as_data(tmp_path, capsys):
    write_hf(tmp_path / "hf", shards=2)
    # Hugging Face's form has query, key and value of a block as one tensor.
    for source, target, names, tensors in (
        ("hf", "x.ckpt", "mindspore", 37),
        ("x.ckpt", "back", "huggingface", 29),
    ):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["path"], told["names"], told["tensors"]) == (str(tmp_path / target), names, tensors)
        made = tmp_path / target
        files = list(made.iterdir()) if made.is_dir() else [made]
        assert told["bytes"] == sum(file.stat().st_size for file in files)


def test_bad_conversions_are_one_line(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none"), str(tmp_path / "x.ckpt")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {tmp_path / 'none'}: there is no such file or folder\n"


def test_the_command_line_of_mindformers(tmp_path):
    weights = write_hf(tmp_path / "hf", weights=hf_weights(dtype="<f2"))
    (tmp_path / "hf/config.json").unlink()
    flags = (
        "--n_head=3",
        "--hidden_size=24",
        f"--torch_path={tmp_path / 'hf'}",
        f"--mindspore_path={tmp_path / 'x.ckpt'}",
    )
    done = run(ROOT / "model/convert_weight.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {name: value.astype(np.float32) for name, value in as_mindformers(weights).items()}
    assert_same(arrays(tmp_path / "x.ckpt"), expected)


@pytest.mark.parametrize(
    ("heads", "hidden", "message"),
    [
        (3, 32, "hidden_size 32 is no multiple of num_heads 3"),
        (4, 32, "of another shape: transformer.word_embeddings.weight [300, 24] for [300, 32]"),
        (4, 24, "--n_head: is 4, but "),
        (0, 24, "num_heads must be at least 1"),
    ],
)
def test_wrong_heads_and_hidden_sizes(tmp_path, capsys, heads, hidden, message):
    write_hf(tmp_path / "hf")
    if message.startswith("of another"):
        (tmp_path / "hf/config.json").unlink()
    paths = ["--torch_path", str(tmp_path / "hf"), "--mindspore_path", str(tmp_path / "x.ckpt")]
    assert seeds_main(["--n_head", str(heads), "--hidden_size", str(hidden), *paths]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "x.ckpt").exists()


def test_a_config_of_this_package_is_kept_whole(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", as_mindformers(hf_weights()).items())
    write_hf(tmp_path / "hf")
    done = convert(tmp_path / "x.ckpt", tmp_path / "out", config=write_config(tmp_path))
    table = json.loads((done.path / "config.json").read_text())
    assert (table["n_head"], table["n_layer"], table["hidden_size"]) == (3, 2, 24)
    assert table["model_type"] == "bloom" and CONFIG.head_size == 8


def test_another_models_configuration_in_the_folder_is_not_replaced(tmp_path):
    write_hf(tmp_path / "hf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("another: model\n")
    with pytest.raises(CheckpointError, match=r"config\.yaml in .* would be replaced"):
        convert(tmp_path / "hf", tmp_path / "out" / "x.ckpt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.yaml"]
    assert (tmp_path / "out" / "config.yaml").read_text() == "another: model\n"
