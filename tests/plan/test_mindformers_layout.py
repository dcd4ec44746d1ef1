"""Degrees that do not fit network, data or each other are refused before a host is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job_again
from orchestrator.plan.next_plan import next_plan
from tests.plan.test_mindformers_run import Path, files, planned, problems, section

__all__ = ["files"]

STAGES = {"model_parallel": 2, "pipeline_stage": 2}


def model(**keys: Any) -> dict[str, Any]:
    return {"model": {"model_config": {"type": "LlamaConfig", **keys}}}


def data(*strategy: Any, **keys: Any) -> dict[str, Any]:
    return {"parallel": {"parallel_mode": 1, "dataset_strategy": list(strategy), **keys}}


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (
            data([4, 1], [4, 1]),
            "run.yaml:13: parallel.dataset_strategy: cuts the first input into 4, and data_parallel is 2, "
            "which job.yaml:2: devices_per_host leaves of the ranks (both must be equal: [[2, 1], …])",
        ),
        (
            {**data([4, 1]), "parallel_config": {"data_parallel": 2, "model_parallel": 2}},
            "run.yaml:13: parallel.dataset_strategy: cuts the first input into 4, and data_parallel is 2, by "
            "run.yaml:17: parallel_config.data_parallel (both must be equal: [[2, 1], …])",
        ),
        (data(["x", 1]), "cuts the first input into 'x', and data_parallel is 2"),
        (
            {"parallel_config": STAGES},
            "parallel_config.micro_batch_num: is left out, which is 1, and the 2 stages of "
            "run.yaml:15: parallel_config.pipeline_stage need at least 2 micro batches (write 2 or more)",
        ),
        (
            {"parallel_config": {**STAGES, "micro_batch_num": 1}},
            "run.yaml:16: parallel_config.micro_batch_num: is 1",
        ),
        ({"parallel_config": {**STAGES, "micro_batch_num": "4"}}, "expected a whole number above 0, got '4'"),
        (
            {
                "parallel": {"parallel_mode": 1, "pipeline_config": {"pipeline_scheduler": "zero_bubble_v"}},
                "parallel_config": {**STAGES, "micro_batch_num": 3},
            },
            "micro_batch_num: is 3, and the 2 stages of run.yaml:17: parallel_config.pipeline_stage need at "
            "least 4 micro batches",
        ),
        (
            model(num_heads=3, hidden_size=12),
            "run.yaml:8: model.model_config.num_heads: 3 cannot be divided by model_parallel 2 of "
            "run.yaml:15: parallel_config.model_parallel (take a model_parallel that divides it)",
        ),
        (model(num_attention_heads=4, n_kv_heads=1), "model.model_config.n_kv_heads: 1 cannot be divided by"),
        (model(num_heads=4, hidden_size=33), "model.model_config.hidden_size: 33 cannot be divided by"),
        (model(intermediate_size=7), "model.model_config.intermediate_size: 7 cannot be divided by"),
        (
            {**model(vocab_size=101), "use_legacy": False},
            "model.model_config.vocab_size: 101 cannot be divided by",
        ),
        (
            {
                **model(num_heads=2),
                "parallel_config": {
                    "model_parallel": 2,
                    "context_parallel": 2,
                    "context_parallel_algo": "ulysses_cp",
                },
            },
            "num_heads: 2 cannot be divided by model_parallel 2 × context_parallel 2 of",
        ),
        (
            {"parallel": {"parallel_mode": 0}},
            "run.yaml:14: parallel_config.model_parallel: is 2, but run.yaml:12: parallel.parallel_mode is 0 "
            "(data parallel), where MindFormers takes it for 1: each rank would hold the whole model "
            "(write 1, or parallel.parallel_mode: 1)",
        ),
    ],
)
def test_what_mindformers_would_refuse_or_pass_over(files: Path, run: dict[str, Any], said: str) -> None:
    [told] = problems(files, run)
    assert said in told


@pytest.mark.parametrize(
    "run",
    [
        data([2, 1], [2, 1]),
        data([4, 1], full_batch=True),
        {"parallel": {"parallel_mode": 1, "dataset_strategy": "full_batch"}},
        {"parallel_config": {**STAGES, "micro_batch_num": 2}},
        {"parallel_config": {**STAGES, "seq_split_num": 2}},
        model(num_heads=4, n_kv_heads=2, hidden_size=32, vocab_size=101, intermediate_size=64),
        {"model": {"model_config": {"type": "ChatGLM2Config", "n_kv_heads": 1}}},
        model(intermediate_size=7, num_experts=8),
        model(num_heads=3, use_3d_tensor_parallel=True),
        {**model(num_heads=3), "parallel_config": {}, "parallel": {"parallel_mode": 2}},
        {**model(num_heads=3), "run_mode": "predict"},
        {**model(num_heads=[3]), "parallel": {"parallel_mode": [1]}},
        {"parallel": {"parallel_mode": 0}, "parallel_config": {"data_parallel": 4}},
    ],
)
def test_what_fits_is_planned(files: Path, run: dict[str, Any]) -> None:
    assert planned(files, run).run_yaml


def test_a_network_beside_the_job_is_looked_at_and_the_run_yaml_goes_before_it(files: Path) -> None:
    (files / "hf").mkdir()
    (files / "hf/config.json").write_text(json.dumps({"num_attention_heads": 3, "hidden_size": 8}))
    run = {"pretrained_model_dir": "./hf/", "model": {"model_config": {}}}
    [told] = problems(files, run)
    assert told.startswith("./hf//config.json: num_attention_heads: 3 cannot be divided by model_parallel 2")
    run["model"] = {"model_config": {"num_attention_heads": 4}}
    assert planned(files, run).run_yaml
    (files / "hf/config.json").write_text("[" * 100_000)
    assert planned(files, run).run_yaml


def test_what_the_job_sets_is_cited_there(files: Path) -> None:
    degrees = {"parallel_config.model_parallel": 1, "parallel_config.data_parallel": 4}
    [told] = problems(files, data([2, 1]), section(set=degrees))
    assert (
        "run.yaml:13: parallel.dataset_strategy: cuts the first input into 2, and data_parallel is 4" in told
    )
    assert "by job.yaml:7: mindformers.set.parallel_config.data_parallel" in told
    [told] = problems(files, (), section(set={"parallel_config.model_parallel": 8}))
    assert (
        "= 4 ranks, but job.yaml:7: mindformers.set.parallel_config.model_parallel and run.yaml:13: "
        "parallel_config: model_parallel 8 × pipeline_stage 1 = 8" in told
    )
    [told] = problems(files, (), section(set={"parallel_config.model_parallel": "two"}))
    assert told.startswith(
        "job.yaml:7: mindformers.set.parallel_config.model_parallel: expected a whole number"
    )


def test_a_line_of_the_file_is_that_of_the_file_as_it_is(files: Path) -> None:
    """What the job sets makes lines of the completed file that the person's has not."""
    keys = {"runner_config.sink_mode": True, "parallel.full_batch": False}
    [told] = problems(files, data([4, 1]), section(set=keys))
    assert told.startswith("run.yaml:13: parallel.dataset_strategy")
    keys = {"model.model_config.offset": 0}
    [told] = problems(files, {"resume_training": True}, section(set=keys))
    assert told.startswith("run.yaml:23: resume_training")


def test_an_attempt_that_goes_on_is_looked_at_without_reading_files(files: Path) -> None:
    (files / "hf").mkdir()
    (files / "hf/config.json").write_text(json.dumps({"num_attention_heads": 4}))
    before = planned(files, {"pretrained_model_dir": "./hf/", "model": {"model_config": {}}})
    (files / "hf/config.json").write_text(json.dumps({"num_attention_heads": 3}))
    job, inventory = load_job_again(before.job, needs_files=False), load_inventory(files / "inventory.yaml")
    assert next_plan(before, job, inventory, by_itself=True).run_yaml
