"""Outputs of another type, and Hugging Face's names, cuts and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from orchestrator.checkpoint import hf_layout
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.files.tensor_types import converted
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.core.errors import CheckpointError
from orchestrator.families.bloom import BLOOM
from tests.checkpoint.support import bloom, save_run
from tests.transfer.test_collect import collected

HIDDEN, HEADS, LAYERS, WORDS = 8, 4, 2, 12


def as_bytes(values):
    return memoryview(np.ascontiguousarray(values).view(np.uint8).reshape(-1))


def bfloat16(values):
    bits = np.frombuffer(converted(as_bytes(values), "Float32", "BFloat16", "w"), np.uint16)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_bfloat16_is_the_nearest_ties_to_even():
    cases = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 3.4e38, np.inf, -0.0, 1e-45], np.float32)
    expected = [1.0, 1.0, 1.015625, -1.0, np.inf, np.inf, -0.0, 0.0]
    np.testing.assert_array_equal(bfloat16(cases), np.array(expected, np.float32))
    nans = np.array([0x7FFFFFFF, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(bfloat16(nans)).all()
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert (np.abs(bfloat16(values) - values) <= np.abs(values) * 2**-8).all()


@pytest.mark.parametrize(("dtype", "kind"), [("Float16", np.float16), ("Float32", np.float32)])
def test_floats_are_written_as_asked_and_all_else_stays(tmp_path, dtype, kind):
    stage = bloom(1, 2) | {"count": (np.arange(8), Layout((1, 2), (0,)))}
    run = save_run(tmp_path, [stage])
    collected(run, tmp_path / "a.ckpt", dtype=dtype, segment_bytes=20)
    tensors = read_ckpt(tmp_path / "a.ckpt")
    for name, value in run.full.items():
        wanted = value.astype(kind) if value.dtype.kind == "f" else value
        np.testing.assert_array_equal(tensors[name].array(), wanted)
        assert tensors[name].array().dtype == wanted.dtype


def test_a_value_that_float16_cannot_hold_is_refused_by_name():
    values = np.array([1.0, np.inf, 70000.0], np.float32)
    with pytest.raises(CheckpointError, match=r"w holds 70000, which Float16 cannot hold .*bfloat16"):
        converted(as_bytes(values), "Float32", "Float16", "w")
    assert np.isinf(np.frombuffer(converted(as_bytes(values[:2]), "Float32", "Float16", "w"), np.float16)[1])


def weights():
    """Every parameter of a Bloom, each value telling its name and place."""
    h, f = HIDDEN, 4 * HIDDEN
    block = {"attention.projection.weight": (h, h), "attention.projection.bias": (h,)}
    block |= {f"attention.dense{n}.weight": (h, h) for n in (1, 2, 3)}
    block |= {f"attention.dense{n}.bias": (h,) for n in (1, 2, 3)}
    block |= {"output.mapping.weight": (h, f), "output.mapping.bias": (f,)}
    block |= {"output.projection.weight": (f, h), "output.projection.bias": (h,)}
    block |= {f"layernorm{n}.{part}": (h,) for n in (1, 2) for part in ("gamma", "beta")}
    shapes = {"embedding.word_embedding.embedding_table": (WORDS, h)}
    shapes |= {f"{norm}.{part}": (h,) for norm in ("embedding.norm", "ln_f") for part in ("gamma", "beta")}
    shapes |= {f"blocks.{n}.{name}": shape for n in range(LAYERS) for name, shape in block.items()}
    random = np.random.default_rng(3)
    return {name: random.standard_normal(s, np.float32) for name, s in shapes.items()}


def as_hugging_face(values):
    """The same weights by MindFormers' documented conversion, read backwards."""
    found = {}
    outside = "embedding."
    found["transformer.word_embeddings.weight"] = values[outside + "word_embedding.embedding_table"]
    norms = {outside + "norm": "word_embeddings_layernorm", "ln_f": "ln_f"}
    for n in range(LAYERS):
        ours, theirs = f"blocks.{n}.", f"h.{n}."
        norms |= {ours + "layernorm1": theirs + "input_layernorm"}
        norms |= {ours + "layernorm2": theirs + "post_attention_layernorm"}
        for kind, rest in (("weight", (HIDDEN,)), ("bias", ())):
            parts = [values[f"{ours}attention.dense{i}.{kind}"] for i in (1, 2, 3)]
            split = [part.reshape(HEADS, 1, HIDDEN // HEADS, *rest) for part in parts]
            fused = np.concatenate(split, axis=1).reshape(3 * HIDDEN, *rest)
            found[f"transformer.{theirs}self_attention.query_key_value.{kind}"] = fused
        for mine, its in (
            ("attention.projection", "self_attention.dense"),
            ("output.mapping", "mlp.dense_h_to_4h"),
            ("output.projection", "mlp.dense_4h_to_h"),
        ):
            found[f"transformer.{theirs}{its}.weight"] = values[f"{ours}{mine}.weight"].T
            found[f"transformer.{theirs}{its}.bias"] = values[f"{ours}{mine}.bias"]
    for mine, its in norms.items():
        found[f"transformer.{its}.weight"] = values[f"{mine}.gamma"]
        found[f"transformer.{its}.bias"] = values[f"{mine}.beta"]
    return found


MODEL = HfModel({"num_layers": LAYERS, "num_heads": HEADS, "eos_token_id": 2}, {"tokenizer.json": b"{}"})


def saved(tmp_path, parts):
    cut = NetworkCut(BLOOM, model_parallel=parts)
    return save_run(tmp_path, [{name: (v, cut.layout(name, v.shape)) for name, v in weights().items()}])


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("segment", [40, 1 << 20])
def test_a_hugging_face_folder_has_its_names_cuts_and_files(tmp_path, parts, segment):
    run = saved(tmp_path, parts)
    output = tmp_path / "out"
    collected(run, output, format="huggingface", model=MODEL, segment_bytes=segment)
    expected = as_hugging_face(run.full)
    found = load_file(output / "model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    config = json.loads((output / "config.json").read_text())
    assert (config["n_head"], config["hidden_size"], config["vocab_size"]) == (HEADS, HIDDEN, WORDS)
    assert (config["eos_token_id"], config["torch_dtype"]) == (2, "float32")
    assert (output / "tokenizer.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("form", "stem", "suffix"), [("safetensors", "model", ".safetensors"), ("bin", "pytorch_model", ".bin")]
)
def test_large_models_are_several_files_with_an_index(form, stem, suffix):
    specs = [hf_layout.Spec(name, value.shape, "Float32") for name, value in weights().items()]
    layout = hf_layout.lay_out_huggingface(specs, MODEL, "BFloat16", form=form, largest_file=1000)
    names = [name for name, _ in layout.files]
    assert len(names) > 3 and names[0] == f"{stem}-00001-of-{len(names):05d}{suffix}"
    index = json.loads(dict(layout.texts)[f"{stem}{suffix}.index.json"])
    assert set(index["weight_map"].values()) == set(names)
    assert index["metadata"]["total_size"] == 2 * sum(value.size for value in weights().values())


def test_what_is_no_bloom_is_refused_by_name(tmp_path):
    run = save_run(tmp_path, [bloom(1, 2)])
    with pytest.raises(CheckpointError, match=r"embedding_table has no counterpart in Hugging Face"):
        collected(run, tmp_path / "out", format="huggingface", model=MODEL)
    with pytest.raises(CheckpointError, match=r"no model/config.yaml"):
        collected(run, tmp_path / "out", format="huggingface")
    run = saved(tmp_path / "b", 1)
    deeper = HfModel({**MODEL.config, "num_layers": 3}, {})
    with pytest.raises(CheckpointError, match=r"blocks.2.layernorm1.gamma is missing"):
        collected(run, tmp_path / "out", format="huggingface", model=deeper)


def test_a_folder_that_is_there_is_not_written_into(tmp_path):
    run = saved(tmp_path, 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        collected(run, tmp_path / "out", format="huggingface", model=MODEL)
