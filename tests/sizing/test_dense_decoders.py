"""Dense decoders: exact numbers of parameters, what a run YAML says, what is refused, not guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from orchestrator.config.mindformers_network import dense_decoder, model_table
from orchestrator.config.yaml_reader import YamlFile, parse_yaml
from orchestrator.core.errors import ConfigError
from orchestrator.families.dense_decoder import DenseDecoder
from orchestrator.sizing.estimate import Estimate, estimate
from orchestrator.sizing.mindformers_workload import SizedRun, sized_run
from orchestrator.sizing.step_workload import workload_of
from orchestrator.sizing.suggest import suggest
from tests.sizing.published_models import PUBLISHED

ROOT = Path(__file__).parents[2]
GIB = 2**30
TINY = {
    "type": "LlamaConfig",
    "hidden_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "n_kv_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "seq_length": 32,
    "param_init_type": "float32",
    "compute_dtype": "float32",
    "softmax_compute_type": "float32",
    "use_flash_attention": True,
}


def written(data: dict[str, Any]) -> YamlFile:
    return parse_yaml("run.yaml", yaml.safe_dump(data, sort_keys=False).encode())


def run_of(model: dict[str, Any] | None = None, **sections: Any) -> YamlFile:
    """A run YAML; `parallel_config__data_parallel` is a key of a section."""
    data: dict[str, Any] = {"run_mode": "train", "model": {"model_config": {**TINY, **(model or {})}}}
    for name, value in sections.items():
        *outer, last = name.split("__")
        place = data
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return written(data)


def sized(model: dict[str, Any] | None = None, **sections: Any) -> SizedRun:
    return sized_run(run_of(model, **sections))


def made(model: dict[str, Any] | None = None, **sections: Any) -> Estimate:
    found = sized(model, **sections)
    assert not list(found.workload.problems(found.network))
    return estimate(found.network, found.workload)


def described(config: dict[str, Any]) -> DenseDecoder:
    file = parse_yaml("config.json", json.dumps(config).encode())
    return dense_decoder(model_table(None, file))[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_json_has_the_published_number_of_parameters(name: str) -> None:
    config, values = PUBLISHED[name]
    assert described(config).parameter_count == values


# Of LlamaConfig's own keys: `multiple_of` and `ffn_dim_multiplier` give the inner size.
@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ({"hidden_size": 4096, "num_layers": 32, "num_heads": 32}, 6_738_415_616),
        ({"hidden_size": 5120, "num_layers": 40, "num_heads": 40}, 13_015_864_320),
        (
            {
                "hidden_size": 8192,
                "num_layers": 80,
                "num_heads": 64,
                "n_kv_heads": 8,
                "multiple_of": 256,
                "ffn_dim_multiplier": 1.3,
            },
            68_976_648_192,
        ),
    ],
)
def test_a_run_yaml_of_llama_2_has_the_published_number_of_parameters(
    shape: dict[str, Any], values: int
) -> None:
    file = written({"model": {"model_config": {"type": "LlamaConfig", "vocab_size": 32000, **shape}}})
    assert dense_decoder(model_table(file, None))[0].parameter_count == values


def test_the_run_yaml_goes_before_the_config_json_as_in_mindformers() -> None:
    model = parse_yaml("config.json", json.dumps(PUBLISHED["Qwen/Qwen3-8B"][0]).encode())
    run = written({"model": {"model_config": {"num_hidden_layers": 2, "seq_length": 128}}})
    network, notes = dense_decoder(model_table(run, model))
    assert (network.num_layers, network.seq_length, network.hidden_size) == (2, 128, 4096)
    assert notes == ()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "qwen3_moe", "num_experts": 128, "hidden_size": 8},
            "'qwen3_moe' is a mixture of 128 experts",
        ),
        ({"model_type": "deepseek_v3", "hidden_size": 8}, "'deepseek_v3' is a mixture of experts"),
        ({**TINY, "moe_config": {"expert_num": 8}}, "'LlamaConfig' is a mixture of 8 experts"),
        ({"type": "BertConfig", "num_layers": 12}, "'BertConfig' is not estimated"),
        ({**TINY, "pet_config": {"pet_type": "lora"}}, "adapters alone is not estimated"),
        ({**TINY, "quantization_config": {"quant_method": "rtn"}}, "quantised network is not estimated"),
        ({**TINY, "hidden_size": "big"}, "hidden_size: is 'big', not a whole number"),
        ({**TINY, "hidden_size": True}, "not a whole number"),
        (
            {**TINY, "num_hidden_layers": 5},
            "num_hidden_layers: is 5, but num_layers, which means the same, is 4",
        ),
        ({**TINY, "n_kv_heads": 3}, "4 heads cannot share 3 key and value heads evenly"),
        ({**TINY, "compute_dtype": "int8"}, "not one of float32, float16, bfloat16"),
        ({**TINY, "compute_dtype": ["float32"]}, "not one of float32, float16, bfloat16"),
        ({**TINY, "use_flash_attention": "yes"}, "not True or False"),
        ({**TINY, "multiple_of": 0, "intermediate_size": None}, "multiple_of: is 0"),
        ({"hidden_size": 64}, "says no model"),
        (
            {"model_type": "chatglm", "hidden_size": 4096, "inner_hidden_size": 16384},
            "num_layers: is missing",
        ),
        ({**TINY, "post_mlp_layernorm": True}, "one norm without the other"),
    ],
)
def test_what_is_another_network_or_no_value_is_refused_by_name(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sized_run(written({"run_mode": "train", "model": {"model_config": config}}))
    assert len(caught.value.problems) == 1 and words in str(caught.value)
    assert "run.yaml:" in str(caught.value) and "\n" not in str(caught.value)


def test_the_head_is_the_embedding_only_where_the_config_ties_them() -> None:
    config = PUBLISHED["Qwen/Qwen3-0.6B"][0]
    tied, untied = described(config), described({**config, "tie_word_embeddings": False})
    assert untied.parameter_count - tied.parameter_count == 151936 * 1024
    # MindFormers' own key of it is looked at by nobody, which is said.
    over = {"model": {"model_config": {"untie_embeddings_and_output_weights": True}}}
    model = parse_yaml("config.json", json.dumps(config).encode())
    network, notes = dense_decoder(model_table(written(over), model))
    assert network.parameter_count == tied.parameter_count
    assert any("untie_embeddings_and_output_weights" in note for note in notes)


def test_what_a_missing_key_means_is_not_changed_by_another() -> None:
    small = {"hidden_size": 64, "num_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    glm = {"model_type": "glm4", **small, "intermediate_size": 96, "head_dim": 16, "vocab_size": 100}
    biased, plain = described(glm), described({**glm, "attention_bias": False})
    assert biased.parameter_count - plain.parameter_count == 64 + 2 * 32
    assert described({**glm, "add_bias_linear": False}) == biased
    everywhere = described({**glm, "attention_bias": False, "add_bias_linear": True})
    assert everywhere.parameter_count - biased.parameter_count == 64 + 2 * 96 + 64
    assert described({**glm, "num_key_value_heads": None}).num_kv_heads == 4


def test_one_rank_holds_everything() -> None:
    found = sized()
    (stage,) = estimate(found.network, found.workload).stages
    assert stage.parameters == found.network.parameter_count
    assert stage.weights == 4 * stage.parameters and stage.optimizer == 8 * stage.parameters


def test_model_parallel_ranks_share_the_matrices_and_not_the_norms() -> None:
    network = sized().network
    one, four = (
        made(parallel_config__model_parallel=mp, parallel_config__vocab_emb_dp=False).stages[0]
        for mp in (1, 2)
    )
    norms = (2 * network.num_layers + 1) * network.hidden_size
    assert (one.parameters - norms) == 2 * (four.parameters - norms)
    # By MindFormers' default of old networks each rank has the whole embedding and head.
    whole = made(parallel_config__model_parallel=2).stages[0]
    assert whole.parameters - four.parameters == network.vocab_size * network.hidden_size


def test_old_glm_cuts_its_keys_finer_than_by_heads() -> None:
    glm = {"num_attention_heads": 4, "kv_channels": 16, "multi_query_group_num": 2, "ffn_hidden_size": 128}
    model = {**glm, "type": "ChatGLM2Config", "num_layers": 2, "hidden_size": 64, "padded_vocab_size": 512}
    run = {"parallel_config": {"model_parallel": 4}, "model": {"model_config": model}}
    found = sized_run(written(run))
    assert not list(found.workload.problems(found.network))
    llama = sized(parallel_config__model_parallel=4)
    (problem,) = llama.workload.problems(llama.network)
    assert problem[1] == "key and value heads 2 cannot be cut into 4 equal parts"


def test_sharing_the_optimizer_shares_the_weights_too() -> None:
    degrees = {"parallel_config__data_parallel": 4}
    whole, shared = (
        made(**degrees, parallel__enable_parallel_optimizer=on, parallel__parallel_mode=1).stages[0]
        for on in (False, True)
    )
    assert 4 * shared.weights == whole.weights and 4 * shared.optimizer == whole.optimizer
    # Without micro batches to sum, a rank has its pieces of the gradients; the weights are gathered.
    assert 4 * shared.gradients == whole.gradients
    assert shared.activations >= whole.activations + shared.parameters * 4 * 0.9
    plain = sized(**degrees, parallel__enable_parallel_optimizer=True, parallel__parallel_mode=0)
    assert not plain.workload.shares_weights
    assert any("enable_parallel_optimizer" in note for note in plain.notes)


def test_ranks_that_share_a_sequence_share_its_activations() -> None:
    alone = made(parallel_config__data_parallel=2)
    both = made(parallel_config__data_parallel=1, parallel_config__context_parallel=2)
    assert both.stages[0].activations == pytest.approx(alone.stages[0].activations / 2, rel=0.01)
    assert both.stages[0].weights == alone.stages[0].weights
    found = sized(parallel_config__context_parallel=2)
    assert (found.workload.cut.world_size, found.workload.replicas) == (2, 1)
    assert any("context_parallel" in note for note in found.notes)


def test_batches_are_counted_as_mindformers_counts_them() -> None:
    accumulated = {"runner_config__batch_size": 2, "runner_config__gradient_accumulation_steps": 8}
    of_stages = {"parallel_config__pipeline_stage": 2, "parallel_config__micro_batch_num": 4}
    one = sized(**accumulated, parallel_config__micro_batch_num=4).workload
    two = sized(**accumulated, **of_stages, micro_batch_interleave_num=2).workload
    # Without stages micro_batch_num has no effect, with them gradient_accumulation_steps.
    assert (one.batch_size, one.micro_batch_num, one.micro_batch) == (16, 8, 2)
    assert (two.batch_size, two.micro_batch_num, two.micro_batch) == (16, 4, 4)


def test_stages_have_the_layers_that_offset_gives_them() -> None:
    degrees = {"parallel_config__pipeline_stage": 2, "parallel_config__micro_batch_num": 2}
    assert [stage.blocks for stage in made({"offset": [-1, 1]}, **degrees).stages] == [1, 3]
    assert [stage.blocks for stage in made({"num_layers": 5, "offset": [1, 0]}, **degrees).stages] == [3, 2]
    for offset in ([1, 1], [1], "x", [[0, 0], [0, 0]]):
        with pytest.raises(ConfigError, match="offset"):
            sized({"offset": offset}, **degrees)
    with pytest.raises(ConfigError, match="leaves the stages 4 of the network's 5 layers"):
        sized({"num_layers": 5}, **degrees)


def test_recomputing_keeps_less_in_the_stages_that_do_it() -> None:
    degrees = {"parallel_config__pipeline_stage": 2, "parallel_config__micro_batch_num": 4}
    none, all_of_it = (made(**degrees, recompute_config__recompute=on) for on in (False, True))
    some = made(**degrees, recompute_config__recompute=[2, 0])
    chosen = made(**degrees, recompute_config__select_recompute=[0, 2])
    kept = [[stage.activations for stage in each.stages] for each in (none, all_of_it, some, chosen)]
    assert kept[2] == [kept[1][0], kept[0][1]]
    assert kept[3][0] == kept[0][0] and kept[1][1] < kept[3][1] < kept[0][1]
    with pytest.raises(ConfigError, match="recompute"):
        sized(**degrees, recompute_config__recompute=[1, 2, 3])


def test_a_stage_keeps_what_is_under_way_and_chunks_shorten_the_bubble() -> None:
    degrees = {"parallel_config__pipeline_stage": 4, "parallel_config__micro_batch_num": 8}
    network, plain = sized({"num_layers": 8}, **degrees).network, sized({"num_layers": 8}, **degrees).workload
    assert [plain.under_way(stage) for stage in range(4)] == [4, 3, 2, 1]
    cut = sized({"num_layers": 8, "pp_interleave_num": 2}, **degrees).workload
    assert (plain.bubble, cut.bubble) == (3 / 11, 3 / 19)
    assert [cut.under_way(stage) for stage in range(4)] == [5.5, 4.5, 3.5, 2.5]
    first, last = (estimate(network, plain).stages[n].activations for n in (0, 3))
    assert first > last


def test_a_run_that_answers_has_a_cache_and_no_optimizer() -> None:
    (stage,) = made({"num_blocks": 8, "block_size": 16}, run_mode="predict").stages
    assert stage.cache == 2 * 4 * 8 * 16 * 32 * 4 and stage.optimizer == stage.gradients == 0
    with pytest.raises(ConfigError, match="'export' is not estimated"):
        sized(run_mode="export")


def test_the_degrees_are_held_against_the_ranks_of_a_job() -> None:
    with pytest.raises(
        ConfigError, match=r"data 2 × model 1 × pipeline 1 × context 1 are 2 ranks, the job has 8"
    ):
        sized_run(run_of(parallel_config__data_parallel=2), ranks=8)
    found = sized_run(run_of(parallel_config__model_parallel=2), ranks=8)
    assert found.workload.replicas == 4 and any("4 is assumed" in note for note in found.notes)
    assert (
        sized_run(run_of(parallel_config__data_parallel=8, use_parallel=False)).workload.cut.world_size == 1
    )
    with pytest.raises(ConfigError, match="choose how the network is cut"):
        sized(parallel__parallel_mode=2)


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"parallel_config__data_parallel": "all"}, "is 'all', not a whole number above 0"),
        ({"parallel_config__model_parallel": 0.5}, "not a whole number"),
        ({"runner_config__batch_size": -1}, "not a whole number"),
        ({"parallel__enable_parallel_optimizer": "on"}, "not True or False"),
        ({"parallel_config__pipeline_stage": 2}, "1 micro batches are fewer than 2 stages"),
        ({"run_mode": ["train"]}, "is not estimated"),
    ],
)
def test_values_that_are_none_are_told_at_their_key(section: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sized(**section)
    assert what in str(caught.value) and str(caught.value).startswith("run.yaml:")


def test_suggestions_keep_the_global_batch_and_the_parts_of_a_sequence() -> None:
    found = sized(
        parallel_config__data_parallel=2,
        parallel_config__context_parallel=2,
        runner_config__batch_size=4,
        recompute_config__recompute=True,
    )
    some = suggest(found.network, found.workload, GIB)
    assert some and len({str(item.workload) for item in some}) == len(some)
    for item in some:
        assert item.workload.cut.world_size == 4 and item.workload.context_parts == 2
        assert item.workload.batch_size * item.workload.replicas == 8
        assert found.network.num_layers % item.workload.cut.pipeline_stage == 0


# The estimates of the shipped jobs before anything but Bloom was estimated.
BLOOM = {
    "finetune_7.1b": ((17_036_163_072, 23_134_681_088), 144_955_146_240, 0, 2_147_483_648),
    "finetune_65b": ((27_374_432_256, 24_957_685_760), 101_468_602_368, 7_694_196_736, 3_221_225_472),
    "pretrain_176b": ((32_429_788_160, 28_112_354_816), 147_975_045_120, 0, 5_637_144_576),
}


@pytest.mark.parametrize("name", BLOOM)
def test_the_estimates_of_bloom_are_those_of_before(name: str) -> None:
    job = load_job(ROOT / f"jobs/{name}.yaml")
    found = estimate(network_of(job), workload_of(job))
    ends = (found.stages[0].total, found.stages[-1].total)
    assert (ends, found.model_traffic, found.data_traffic, found.pipeline_traffic) == BLOOM[name]


def test_more_of_anything_is_never_less_memory() -> None:
    base = sized().network
    workload = sized().workload
    least = estimate(base, workload).largest.total
    for field in (
        "hidden_size",
        "num_layers",
        "num_kv_heads",
        "ffn_size",
        "vocab_size",
        "seq_length",
        "num_heads",
    ):
        assert estimate(replace(base, **{field: 2 * getattr(base, field)}), workload).largest.total > least
    for field in ("qk_norms", "qkv_bias", "output_bias", "mlp_bias", "post_norms"):
        assert estimate(replace(base, **{field: True}), workload).largest.total > least
