"""Estimates: published sizes, the formulas, layouts that fit."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.cli.cmd_plan import command
from orchestrator.config.inventory import Chip
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.job_network import network_of
from orchestrator.core.errors import ConfigError, OrchestrateError
from orchestrator.families.bloom import BLOOM, BloomConfig
from orchestrator.sizing.estimate import estimate, size_of
from orchestrator.sizing.step_workload import Workload, workload_of
from orchestrator.sizing.suggest import _divisors, suggest

ROOT = Path(__file__).parents[2]
SMALL = BloomConfig(
    hidden_size=64,
    num_layers=4,
    num_heads=4,
    vocab_size=512,
    seq_length=32,
    param_init_type="float32",
    softmax_compute_type="float32",
    compute_dtype="float32",
)
ALONE = Workload(
    NetworkCut(BLOOM), batch_size=8, micro_batch_num=1, recompute=False, trains=True, ranks_per_host=8
)


def work(dp: int = 1, mp: int = 1, pp: int = 1, *, shard: bool = False, parts: int = 1) -> Workload:
    return replace(ALONE, cut=NetworkCut(BLOOM, dp, mp, pp, shard), micro_batch_num=parts)


@pytest.mark.parametrize(
    ("job", "count"), [("finetune_7.1b", 7.069e9), ("finetune_65b", 66.5e9), ("pretrain_176b", 176.2e9)]
)
def test_the_shipped_jobs_have_the_published_numbers_of_parameters(job: str, count: float) -> None:
    network = network_of(load_job(ROOT / f"jobs/{job}.yaml"))
    assert network.parameter_count == pytest.approx(count, rel=1e-3)


def test_one_rank_holds_everything() -> None:
    (stage,) = estimate(SMALL, ALONE).stages
    assert stage.parameters == SMALL.parameter_count
    assert stage.weights == stage.gradients == 4 * SMALL.parameter_count
    assert stage.optimizer == 8 * SMALL.parameter_count
    made = estimate(SMALL, ALONE)
    assert (made.model_traffic, made.data_traffic, made.pipeline_traffic, made.bubble) == (0, 0, 0, 0)


def test_stages_share_the_blocks_and_only_the_embedding_is_held_twice() -> None:
    made = estimate(SMALL, work(pp=4, parts=4))
    assert [stage.blocks for stage in made.stages] == [1, 1, 1, 1]
    held = sum(stage.parameters for stage in made.stages)
    assert held == SMALL.parameter_count + SMALL.vocab_size * SMALL.hidden_size


@pytest.mark.parametrize(
    ("stages", "parts", "bubble"), [(1, 4, 0), (2, 1, 1 / 2), (2, 8, 1 / 9), (4, 4, 3 / 7)]
)
def test_the_bubble_is_that_of_1f1b(stages: int, parts: int, bubble: float) -> None:
    assert work(pp=stages, parts=parts).bubble == pytest.approx(bubble)


# What bench/parallel.py measured, in MiB a rank, each with a batch of 4 a replica.
MEASURED = [
    (NetworkCut(BLOOM, 2), 1, False, 470),
    (NetworkCut(BLOOM, 2, optimizer_shard=True), 1, False, 414),
    (NetworkCut(BLOOM, 2), 1, True, 336),
    (NetworkCut(BLOOM, 2), 4, False, 336),
    (NetworkCut(BLOOM, 2, optimizer_shard=True), 4, False, 280),
    (NetworkCut(BLOOM, 1, 1, 2), 4, False, 169),
]


@pytest.mark.parametrize(("cut", "parts", "recompute", "mib"), MEASURED)
def test_the_memory_of_a_rank_is_what_was_measured(
    cut: NetworkCut, parts: int, recompute: bool, mib: int
) -> None:
    network = replace(SMALL, hidden_size=512, num_heads=8, vocab_size=4096, seq_length=256)
    workload = Workload(cut, 4, parts, recompute, trains=True, ranks_per_host=2)
    assert estimate(network, workload).largest.total == pytest.approx(mib * 2**20, rel=0.15)


def test_gradients_are_in_float32_whatever_the_weights_are() -> None:
    halves = dict.fromkeys(("param_init_type", "embedding_init_type", "layernorm_compute_type"), "float16")
    (stage,) = estimate(replace(SMALL, **halves), ALONE).stages
    assert stage.gradients == 2 * stage.weights == 4 * SMALL.parameter_count


def test_sharding_the_optimizer_divides_its_state_and_nothing_else() -> None:
    whole, shared = (estimate(SMALL, work(dp=2, shard=shard)).largest for shard in (False, True))
    assert shared.optimizer * 2 == pytest.approx(whole.optimizer, rel=0.02)
    assert (shared.weights, shared.activations) == (whole.weights, whole.activations)


def test_recomputing_keeps_less() -> None:
    kept, again = (replace(work(pp=2, parts=4), recompute=value) for value in (False, True))
    assert estimate(SMALL, again).largest.activations < estimate(SMALL, kept).largest.activations


def test_an_answering_job_has_a_cache_and_no_optimizer() -> None:
    (stage,) = estimate(SMALL, replace(ALONE, trains=False)).stages
    assert stage.cache == 2 * 4 * 8 * 32 * 64 * 4
    assert stage.gradients == stage.optimizer == 0


def test_suggestions_fit_and_are_in_order() -> None:
    network = network_of(load_job(ROOT / "jobs/finetune_65b.yaml"))
    workload = workload_of(load_job(ROOT / "jobs/finetune_65b.yaml"))
    found = suggest(network, workload, size_of("64GB"))
    assert found
    assert [item.seconds for item in found] == sorted(item.seconds for item in found)
    for item in found:
        cut = item.workload.cut
        assert cut.world_size == 96 and item.estimate.largest.total <= size_of("64GB")
        assert item.workload.batch_size * cut.data_parallel == 96  # the global batch stays
        assert 8 % cut.model_parallel == 0 and item.reasons
    assert suggest(network, workload, size_of("1GB")) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_parallel": 3}, "num_heads 32 cannot be cut into 3 equal parts"),
        ({"pipeline_stage": 31}, "31 stages are more than the network's 30 layers"),
    ],
)
def test_layouts_that_are_none_are_told_at_their_key(changes: dict[str, int], what: str) -> None:
    overrides = [f"--set=parallel.{key}={value}" for key, value in changes.items()]
    done = CliRunner().invoke(command, [str(ROOT / "jobs/finetune_7.1b.yaml"), *overrides])
    assert isinstance(done.exception, ConfigError)
    assert what in str(done.exception)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("hidden_size=big", "model: hidden_size is 'big'"),
        ("num_heads=3", "model: hidden_size 4096 is no multiple of num_heads 3"),
        ("compute_dtype=int8", "model: compute_dtype 'int8' is not one of float32, float16, bfloat16"),
        ("family=gpt", "model: family is 'gpt', not one of bloom"),
    ],
)
def test_a_network_that_cannot_be_built_is_told_in_a_line(override: str, what: str) -> None:
    job = str(ROOT / "jobs/finetune_7.1b.yaml")
    done = CliRunner().invoke(command, [job, f"--set=model.overrides.{override}"])
    assert isinstance(done.exception, ConfigError) and what in str(done.exception)


def test_a_job_that_cannot_fit_fails_and_says_by_how_much() -> None:
    path = str(ROOT / "jobs/finetune_65b.yaml")
    done = CliRunner().invoke(command, [path, "--memory", "1GB"])
    assert isinstance(done.exception, ConfigError)
    assert "max_device_memory: a rank of stage" in str(done.exception)
    assert "does not fit" in done.output
    done = CliRunner().invoke(
        command, [path, "--memory", "1000GB", "--json", "--suggest"], standalone_mode=False
    )
    assert done.return_value == 0, done.output
    data = json.loads(done.output)
    assert len(data["estimate"]["stages"]) == 12 and data["suggestions"]


def test_sizes_are_read_as_mindspore_reads_them() -> None:
    assert size_of("31GB") == 31 * 2**30 == size_of("31GiB")
    assert size_of("1.5GB") == 3 * 2**29
    with pytest.raises(ValueError, match="31GB"):
        size_of("much")


@pytest.mark.parametrize(
    "text",
    ["9" * 400 + "GB", "9" * 20 + "GB", "1234567GB", "9" * 400, "0GB", "0.0000000001GB", "٣GB", "-1GB"],
)
def test_what_no_device_has_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="such as 31GB") as caught:
        size_of(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["9" * 400 + "GB", "0GB", "٣GB"])
@pytest.mark.parametrize("option", ["--hbm", "--memory"])
def test_such_a_size_is_refused_in_a_line(option: str, text: str) -> None:
    done = CliRunner().invoke(
        command, [str(ROOT / "jobs/finetune_7.1b.yaml"), option, text], standalone_mode=False
    )
    assert isinstance(done.exception, OrchestrateError) and done.exception.exit_code == 2
    assert "31GB" in str(done.exception)


def test_jobs_without_the_model_have_no_plan() -> None:
    with pytest.raises(ConfigError, match="only jobs with a model"):
        network_of(load_job(ROOT / "jobs/command.yaml"))


@pytest.mark.parametrize("name", ["finetune_7.1b", "finetune_65b", "pretrain_176b"])
def test_the_shipped_jobs_fit_the_devices_that_they_name(name: str) -> None:
    job = load_job(ROOT / f"jobs/{name}.yaml")
    assert job.max_device_memory is not None
    assert estimate(network_of(job), workload_of(job)).largest.total < size_of(job.max_device_memory)


def on_ascend(folder: Path, **overrides: object) -> Job:
    text = (
        "name: fa\ntask: pretrain\nhost_count: 1\ndevices_per_host: 8\ndevice_target: Ascend\n"
        "max_device_memory: 55GB\nparallel: {model_parallel: 8}\nmodel: {preset: 7.1b, overrides:\n"
        " {use_flash_attention: true, attention_dropout_rate: 0.0, hidden_dropout_rate: 0.0}}\n"
        "data: {path: /data/train.mindrecord, seq_length: 2048}\ntrain: {epochs: 2, batch_size: 8}\n"
    )
    (folder / "job.yaml").write_text(text)
    return load_job(folder / "job.yaml", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


def activations(job: Job, *chips: Chip) -> int:
    return estimate(network_of(job), workload_of(job, chips)).largest.activations


def test_flash_attention_holds_no_scores(tmp_path: Path) -> None:
    made = estimate(network_of(on_ascend(tmp_path)), workload_of(on_ascend(tmp_path)))
    # MindFormers' own run_bloom_7.1b_910b_fa.yaml, which trains on devices of 64 GB with a pool of 55.
    assert made.largest.total / 2**30 == pytest.approx(41.9, rel=0.01)
    plain = activations(on_ascend(tmp_path, **{"model.overrides.use_flash_attention": False}))
    scores = (
        30 * 8 * 2048 * 2048 * 32 // 8 * 5
    )  # blocks, records, pairs of tokens, heads, 2.5 values of 2 bytes
    assert plain - activations(on_ascend(tmp_path)) == pytest.approx(scores, rel=0.01)
    with_dropout = activations(on_ascend(tmp_path, **{"model.overrides.attention_dropout_rate": 0.1}))
    assert with_dropout - activations(on_ascend(tmp_path)) == scores // 40  # a bit for each pair


@pytest.mark.parametrize(
    "changes",
    [
        {"device_target": "CPU", "networking.mode": "dynamic"},
        {"model.overrides.compute_dtype": "float32"},
        {"model.overrides.num_heads": 512},  # a head size of 8
        {"model.overrides.attention_dropout_rate": 0.1, "data.seq_length": 2047},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_where_there_is_no_kernel_the_scores_are_held(tmp_path: Path, changes: dict[str, object]) -> None:
    asked, plain = (
        activations(on_ascend(tmp_path, **changes, **{"model.overrides.use_flash_attention": value}))
        for value in (True, False)
    )
    assert asked == plain


def test_a_910a_has_no_flash_kernel(tmp_path: Path) -> None:
    job = on_ascend(tmp_path)
    plain = activations(on_ascend(tmp_path, **{"model.overrides.use_flash_attention": False}))
    assert activations(job, "910A") == activations(job, "910B", "910A") == plain > activations(job, "910B")


def test_a_cut_sequence_is_shared_but_for_what_the_cut_layers_gather(tmp_path: Path) -> None:
    cut = on_ascend(tmp_path, **{"parallel.use_seq_parallel": True})
    whole = on_ascend(tmp_path)
    tokens_and_units = 30 * 8 * 2048 * 4096 * 2  # in blocks, records, tokens, hidden units of 2 bytes
    # Of 5 + 12/8 values only 2 + 15/8 are held.
    saved = tokens_and_units * (5 + 12 / 8 - 2 - 15 / 8)
    assert activations(whole) - activations(cut) == pytest.approx(saved, rel=1e-3)
    assert list(workload_of(cut).problems(network_of(cut))) == []
    odd = on_ascend(tmp_path, **{"parallel.use_seq_parallel": True, "data.seq_length": 2044})
    assert [key for key, *_ in workload_of(odd).problems(network_of(odd))] == ["use_seq_parallel"]


def test_on_an_ascend_replicas_that_share_the_optimizer_keep_pieces_of_gradients() -> None:
    whole, pieces = (
        estimate(SMALL, replace(work(dp=2, shard=True), scatters=scatters)).largest
        for scatters in (False, True)
    )
    assert pieces.gradients * 2 == pytest.approx(whole.gradients, rel=0.02)
    accumulated = estimate(SMALL, replace(work(dp=2, shard=True, parts=4), scatters=True)).largest
    assert accumulated.gradients == whole.gradients + pieces.gradients
    alone = estimate(SMALL, replace(work(dp=2), scatters=True)).largest
    assert alone.gradients == whole.gradients  # nothing is shared out


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel.data_parallel=100000000000000",),
        ("parallel.pipeline_stage=10000000", "model.overrides.num_layers=100000000"),
        ("train.batch_size=480000000000000000", "parallel.micro_batch_num=480000000000000000"),
        ("devices_per_host=100000000000000000", "parallel.data_parallel=1"),
    ],
)
def test_numbers_that_no_machine_has_are_answered_at_once(overrides: tuple[str, ...]) -> None:
    started = time.process_time()
    words = [f"--set={override}" for override in overrides]
    done = CliRunner().invoke(command, [str(ROOT / "jobs/finetune_65b.yaml"), "--suggest", *words])
    assert isinstance(done.exception, ConfigError) or done.exit_code == 0
    assert time.process_time() - started < 2


def test_divisors_are_complete_and_in_order() -> None:
    for number in (1, 2, 12, 36, 97, 96 * 48):
        assert _divisors(number) == [value for value in range(1, number + 1) if number % value == 0]
