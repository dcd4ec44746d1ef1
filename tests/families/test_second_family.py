"""A second family is a table: jobs, estimates, cutting, joining and conversion read it. No MindSpore here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from model.config.hf_config import load_hf_config
from model.config.load_config import config_from, config_text, load_config
from model.errors import ModelError
from model.weights.convert import convert
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.files.strategy_files import write_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array
from orchestrator.cli.cmd_plan import command as plan_command
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from orchestrator.config.mindformers_yaml import import_run_yaml
from orchestrator.core.errors import CheckpointError, ConfigError
from orchestrator.families.registry import FamilyError, family_of_weights, hub_names, preset_names, register
from orchestrator.plan.placement import place
from orchestrator.sizing.device_memory import communicators
from orchestrator.sizing.estimate import estimate
from orchestrator.sizing.step_workload import workload_of
from orchestrator.transfer.convert import plan_combine, write
from orchestrator.transfer.distribute import cut_for
from tests.checkpoint.support import random
from tests.families.toy import TOY, ToyConfig

JOB = """
name: toy
task: {task}
devices_per_host: 8
device_target: CPU
parallel: {{data_parallel: 2, model_parallel: 2, pipeline_stage: 2, {more}}}
model: {{preset: {preset}}}
data: {{path: /data.json, seq_length: 32}}
{section}
"""
TRAIN = "train: {steps: 1, batch_size: 4}"
INVENTORY = "transport: local\ndefaults: {devices: 0-7, workdir: /nowhere}\nhosts: [{name: here}]\n"


def job_of(
    folder: Path, preset: str = "toy_tiny", more: str = "micro_batch_num: 2", section: str = TRAIN
) -> Path:
    task = "finetune" if section == TRAIN else "predict"
    (folder / "job.yaml").write_text(JOB.format(preset=preset, more=more, section=section, task=task))
    return folder / "job.yaml"


def config() -> ToyConfig:
    made = load_config("toy_tiny")
    assert isinstance(made, ToyConfig)
    return made


def weights() -> dict[str, Array]:
    shapes = config().shapes()
    return {name: random(shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}


def test_its_presets_are_known_to_jobs_and_workers(tmp_path: Path) -> None:
    assert "toy_tiny" in preset_names() and hub_names()["toy_1b"] == "nobody/toy-1b"
    job = load_job(job_of(tmp_path))
    assert network_of(job) == config() == config_from({**TOY.presets["toy_tiny"], "family": "toy"}, "here")
    with pytest.raises(
        ConfigError, match=r"expected one of tiny, .*, toy_tiny; got 'toy_tyni' \(did you mean"
    ):
        load_job(job_of(tmp_path, preset="toy_tyni"))


def test_a_configuration_says_its_family_and_is_checked_by_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_text(config()))
    assert path.read_text().startswith("family: toy\nhidden_size: 32\n")
    assert load_config(path) == config()
    assert network_of(load_job(job_of(tmp_path, preset="config.yaml"))) == config()
    for change, message in (
        ({"num_kv_heads": 0}, "num_kv_heads must be at least 1"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not one of relu"),
        ({"expand_ratio": 4}, "expand_ratio: unknown key"),
        ({"family": "mine"}, "family is 'mine', not one of bloom, toy"),
        ({"family": 3}, "family is 3, not one of bloom, toy"),
    ):
        with pytest.raises(ModelError, match=message):
            load_config(path, change)
    path.write_text(path.read_text().replace("family: toy", "family: mine"))
    with pytest.raises(ConfigError, match="model: family is 'mine', not one of bloom, toy"):
        network_of(load_job(job_of(tmp_path, preset="config.yaml")))


def test_two_families_cannot_have_one_name() -> None:
    with pytest.raises(FamilyError, match="toy: toy is the name of another"):
        register(ToyConfig)


# Values of a whole block and of what is outside, by hand: h 32, kv 16, f 48, V 384.
BLOCK = 2 * 32 + 32 * 32 + 2 * 16 * 32 + 32 * 32 + 2 * 48 * 32
OUTSIDE = 2 * 384 * 32 + 32


def test_its_size_is_that_of_its_table(tmp_path: Path) -> None:
    assert config().parameter_count == 3 * BLOCK + OUTSIDE
    job = load_job(job_of(tmp_path))
    first, last = estimate(network_of(job), workload_of(job)).stages
    norms = 2 * 32
    halved = norms + (BLOCK - norms) // 2  # two model-parallel ranks; norms are whole
    assert first.parameters == 2 * halved + 384 * 32 // 2  # its own table, and no head
    assert last.parameters == halved + 384 * 32 // 2 + 32
    assert first.weights == 4 * first.parameters
    # Nothing is tied: no group of the two ends.
    assert communicators(workload_of(job).cut, 0) == ("world", "data", "model")
    done = CliRunner().invoke(plan_command, [str(tmp_path / "job.yaml"), "--json"], standalone_mode=False)
    assert json.loads(done.output)["parameters"] == 3 * BLOCK + OUTSIDE


def test_a_cache_holds_the_keys_and_values_of_few_heads(tmp_path: Path) -> None:
    section = "checkpoint: {load: /x}\npredict: {prompts: [hi], batch_size: 1}"
    job = load_job(job_of(tmp_path, more="micro_batch_num: 1", section=section))
    first, _ = estimate(network_of(job), workload_of(job)).stages
    assert first.cache == 2 * 2 * 32 * (16 // 2) * 4  # keys and values, two blocks, 32 positions


def test_layouts_that_its_heads_do_not_allow_are_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(plan_command, [str(job_of(tmp_path)), "--set=parallel.model_parallel=4"])
    assert isinstance(done.exception, ConfigError)
    assert "num_kv_heads 2 cannot be cut into 4 equal parts (choose a divisor of 2)" in str(done.exception)


def test_a_checkpoint_is_cut_for_its_ranks_and_joined_again_to_the_same_bytes(tmp_path: Path) -> None:
    whole = weights()
    write_ckpt(tmp_path / "whole.ckpt", whole.items())
    section = f"{TRAIN}\ncheckpoint: {{load: whole.ckpt, distribute: true}}"
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    path = job_of(tmp_path)
    path.write_text(path.read_text() + section.removeprefix(TRAIN))
    job = load_job(path)
    shards = cut_for(job, place(job, load_inventory(tmp_path / "inventory.yaml")), tmp_path / "whole.ckpt")
    cut = NetworkCut(TOY, 2, 2, 2)
    specs = [tensor.spec for tensor in _indexed(tmp_path / "whole.ckpt")]
    (tmp_path / "strategy").mkdir()
    for rank, strategy in cut.strategies(specs).by_rank().items():
        write_strategy(tmp_path / f"strategy/ckpt_strategy_rank_{rank}.ckpt", strategy)
        home = tmp_path / f"checkpoint/rank_{rank}"
        home.mkdir(parents=True)
        (home / f"toy_rank_{rank}-1_1.ckpt").write_bytes(b"".join(map(bytes, shards.files[rank])))
    held = read_ckpt(tmp_path / "checkpoint/rank_3/toy_rank_3-1_1.ckpt")  # dp 1, mp 1, stage 0
    np.testing.assert_array_equal(
        held["model.layers.1.attention.wk.weight"].array(), whole["model.layers.1.attention.wk.weight"][8:]
    )
    assert "lm_head.weight" not in held and "model.layers.2.norm1.weight" not in held
    last = read_ckpt(tmp_path / "checkpoint/rank_6/toy_rank_6-1_1.ckpt")  # dp 1, mp 0, stage 1
    np.testing.assert_array_equal(last["lm_head.weight"].array(), whole["lm_head.weight"][:192])
    write(plan_combine(tmp_path / "checkpoint", None), tmp_path / "again.ckpt")
    again = read_ckpt(tmp_path / "again.ckpt")
    assert set(again) == set(whole)
    for name, value in whole.items():
        assert again[name].array().tobytes() == value.tobytes(), name


def _indexed(path: Path) -> Any:
    from orchestrator.checkpoint.open_checkpoint import open_checkpoint

    return open_checkpoint(path).tensors.values()


def test_another_family_s_weights_are_refused_before_any_host_is_asked(tmp_path: Path) -> None:
    write_ckpt(tmp_path / "whole.ckpt", weights().items())
    job = load_job(job_of(tmp_path, preset="tiny"))
    with pytest.raises(CheckpointError, match="is no parameter of a Bloom of"):
        cut_for(job, (), tmp_path / "whole.ckpt")


def test_a_job_whose_preset_lies_on_the_hosts_is_cut_by_the_names_of_the_weights(tmp_path: Path) -> None:
    write_ckpt(tmp_path / "whole.ckpt", weights().items())
    job = load_job(job_of(tmp_path, preset="/on/the/hosts.yaml"))
    assert len(cut_for(job, (), tmp_path / "whole.ckpt").files) == 8
    write_ckpt(tmp_path / "whole.ckpt", [("strange", np.ones(3, np.float32))])
    with pytest.raises(CheckpointError, match="holds no weights of a bundled model"):
        cut_for(job, (), tmp_path / "whole.ckpt")


def hf_weights(own: dict[str, Array]) -> dict[str, Array]:
    """The same under Hugging Face's names, written down apart from the table."""
    inside = {
        "norm1": "input_layernorm",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.projection": "self_attn.o_proj",
        "norm2": "post_norm",
        "output.up": "mlp.up_proj",
        "output.projection": "mlp.down_proj",
    }
    found = {
        "model.embed_tokens.weight": own["model.embedding.word_embedding.embedding_table"],
        "model.norm.weight": own["model.ln_f.weight"],
        "lm_head.weight": own["lm_head.weight"],
    }
    for block in range(3):
        for ours, theirs in inside.items():
            value = own[f"model.layers.{block}.{ours}.weight"]
            turned = ours.endswith("projection")
            found[f"model.layers.{block}.{theirs}.weight"] = value.T if turned else value
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def test_weights_go_to_hugging_face_s_names_and_back(tmp_path: Path) -> None:
    own = weights()
    write_ckpt(tmp_path / "toy.ckpt", own.items())
    (tmp_path / "config.yaml").write_text(config_text(config()))
    convert(tmp_path / "toy.ckpt", tmp_path / "hf")
    found, expected = load_file(tmp_path / "hf/model.safetensors"), hf_weights(own)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    table = json.loads((tmp_path / "hf/config.json").read_text())
    assert table["architectures"] == ["ToyForCausalLM"] and table["model_type"] == "toy"
    assert (table["num_key_value_heads"], table["intermediate_size"], table["vocab_size"]) == (2, 48, 384)
    assert table["tie_word_embeddings"] is False

    converted = convert(tmp_path / "hf", tmp_path / "back/model.ckpt")
    assert not converted.huggingface
    back = read_ckpt(tmp_path / "back/model.ckpt")
    assert list(back) == list(config().shapes())
    for name, value in own.items():
        assert back[name].array().tobytes() == value.tobytes(), name
    again = load_config(tmp_path / "back/config.yaml")
    assert isinstance(again, ToyConfig) and again.num_kv_heads == 2 and again.seq_length == 32


def test_files_of_a_bare_model_have_no_prefixes(tmp_path: Path) -> None:
    bare = {name.removeprefix("model."): value for name, value in hf_weights(weights()).items()}
    (tmp_path / "hf").mkdir()
    save_file(bare, tmp_path / "hf/model.safetensors")
    hf = {"model_type": "toy", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    hf |= {"num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 384}
    (tmp_path / "hf/config.json").write_text(json.dumps(hf))
    convert(tmp_path / "hf", tmp_path / "model.ckpt")
    assert set(read_ckpt(tmp_path / "model.ckpt")) == set(weights())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', not 'bloom' or 'toy'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, which this network cannot be"),
        ({"hidden_act": "silu"}, "hidden_act is silu, but this network's is relu"),
        ({"num_attention_heads": None}, "num_attention_heads is missing"),
    ],
)
def test_a_config_json_that_the_toy_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    table = {**TOY.hf.config({**TOY.presets["toy_tiny"]}, "float32"), **change}
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ModelError, match=message):
        load_hf_config(tmp_path / "config.json")


def test_weights_and_config_of_two_families_are_told_apart(tmp_path: Path) -> None:
    assert family_of_weights(weights()) == (TOY, False)
    assert family_of_weights(hf_weights(weights())) == (TOY, True)
    assert family_of_weights(["nothing", "known"]) is None
    write_ckpt(tmp_path / "toy.ckpt", weights().items())
    (tmp_path / "config.yaml").write_text(config_text(load_config("tiny")))
    with pytest.raises(ModelError, match="holds the weights of a Toy, but the config is of a Bloom"):
        convert(tmp_path / "toy.ckpt", tmp_path / "hf")


def test_its_run_yaml_of_mindformers_is_imported(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "config/run_bloom_7.1b.yaml"
    data = yaml.safe_load(source.read_text())
    data["model"]["model_config"] = {
        "type": "ToyConfig",
        "hidden_size": 32,
        "num_layers": 3,
        "num_kv_heads": 4,
    }
    data["trainer"]["model_name"] = "toy_tiny"
    (tmp_path / "run_toy.yaml").write_text(yaml.safe_dump(data))
    imported = import_run_yaml(tmp_path / "run_toy.yaml")
    assert imported.job["model"] == {"preset": "toy_tiny", "overrides": {"num_kv_heads": 4}}
    data["model"]["model_config"]["type"] = "GptConfig"
    (tmp_path / "run_toy.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="is GptConfig; bundled is only BloomConfig, ToyConfig"):
        import_run_yaml(tmp_path / "run_toy.yaml")
