"""A run YAML of MindFormers becomes a job that can be planned, and nothing of it is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_yaml import Imported, import_run_yaml, job_text
from orchestrator.core.errors import ConfigError
from orchestrator.families.bloom import BLOOM, BloomConfig
from orchestrator.plan.placement import place

ROOT = Path(__file__).parents[2]
BLOOM_7B = Path(__file__).parent / "run_bloom_7.1b.yaml"


def changed(folder: Path, **sections: Any) -> Path:
    """The run YAML of 7.1b with some keys changed; `section__key` is a key of a section, None removes it."""
    data = yaml.safe_load(BLOOM_7B.read_text())
    for name, value in sections.items():
        *outer, last = name.split("__")
        place = data
        for part in outer:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path = folder / "run_bloom.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def reasons(imported: Imported) -> dict[str, str]:
    return {item.key: item.reason for item in imported.left_out}


def test_the_job_says_what_the_run_yaml_says() -> None:
    job = import_run_yaml(BLOOM_7B).job
    assert job["parallel"] == {
        "data_parallel": 1,
        "model_parallel": 4,
        "pipeline_stage": 2,
        "micro_batch_num": 16,
        "optimizer_shard": False,  # over one replica there is nothing to share
        "use_seq_parallel": False,
    }
    assert (job["host_count"], job["devices_per_host"]) == (1, 8)
    assert job["model"] == {"preset": "7.1b"}
    # 4 a micro batch, 16 micro batches a step.
    assert (job["train"]["batch_size"], job["train"]["epochs"]) == (64, 10)
    assert job["train"]["loss_scale"] == "dynamic" and job["train"]["loss_scale_start"] == 4294967296
    assert job["checkpoint"]["save_steps"] == 1000 and job["checkpoint"]["prefix"] == "mindformers"


def test_the_text_of_the_job_is_planned_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(job_text(import_run_yaml(BLOOM_7B, ["data.path=/data/x.json"]), "run.yaml"))
    job = load_job(path)
    assert job.data is not None and job.data.path == "/data/x.json"
    placements = place(job, load_inventory(ROOT / "inventory/ascend_12x8.yaml"))
    assert [placement.pp for placement in placements] == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("name", "hidden", "layers", "heads"), [("1b1", 1536, 24, 16), ("3b", 2560, 30, 32)])
def test_a_shape_that_is_no_presets_goes_on_top_of_one(
    tmp_path: Path, name: str, hidden: int, layers: int, heads: int
) -> None:
    shape = {"hidden_size": hidden, "num_layers": layers, "num_heads": heads}
    where = "model__model_config__"
    said = changed(tmp_path, **{where + key: value for key, value in shape.items()})
    differs = {key: value for key, value in shape.items() if BLOOM.presets["560m"][key] != value}
    assert differs and import_run_yaml(said).job["model"] == {"preset": "560m", "overrides": differs}
    named = changed(tmp_path, **{**dict.fromkeys(where + key for key in shape), "trainer__model_name": name})
    assert import_run_yaml(named).job["model"] == {"preset": "560m", "overrides": differs}


@pytest.mark.parametrize(
    ("changes", "load", "told"),
    [
        ({"run_mode": "predict"}, "/m/b.ckpt", None),
        ({"run_mode": "finetune"}, "/m/b.ckpt", None),
        ({"auto_trans_ckpt": True}, "/m/b.ckpt", None),
        ({"resume_training": True}, "/m/b.ckpt", None),
        ({}, None, "run_mode train loads it only with"),
        ({"run_mode": "predict", "load_checkpoint": "/m/a"}, "/m/a", "load_checkpoint goes before it"),
        ({"run_mode": "finetune", "name": "bloom_560m"}, None, "is no path of a file"),
        ({"run_mode": "finetune", "name": "bigscience/bloom"}, None, "is no path of a file"),
        ({"run_mode": "finetune", "name": "./download/bloom/b.ckpt"}, "./download/bloom/b.ckpt", None),
    ],
)
def test_the_checkpoint_that_the_models_config_names_is_loaded_or_told(
    tmp_path: Path, changes: dict[str, Any], load: str | None, told: str | None
) -> None:
    name = changes.pop("name", "/m/b.ckpt")
    path = changed(tmp_path, model__model_config__checkpoint_name_or_path=name, **changes)
    imported = import_run_yaml(path)
    assert imported.job["checkpoint"]["load"] == load
    assert (told or "None") in str(reasons(imported).get("model.model_config.checkpoint_name_or_path"))
    assert ("checkpoint.load: names nothing" in str(imported.to_do)) == (
        load is None and changes.get("run_mode") == "finetune"
    )


@pytest.mark.parametrize(
    ("said", "schedule"),
    [("constant_with_warmup", "constant"), ("LinearWithWarmUpLR", "linear"), ("cosine", "cosine")],
)
def test_schedules_are_those_of_a_job(tmp_path: Path, said: str, schedule: str) -> None:
    job = import_run_yaml(changed(tmp_path, lr_schedule__type=said)).job
    assert job["train"]["lr_schedule"] == schedule


def test_the_first_release_shares_the_optimizer_by_a_key_beside_the_degrees(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        parallel=None,
        parallel_config__optimizer_shard=True,
        parallel_config__data_parallel=2,
    )
    imported = import_run_yaml(path)
    assert imported.job["parallel"]["optimizer_shard"] is True
    assert "parallel_config.optimizer_shard" not in reasons(imported)


def test_a_run_yaml_that_is_launched_is_told_of_the_import() -> None:
    with pytest.raises(ConfigError, match="is a run YAML of MindFormers and no job") as caught:
        load_job(BLOOM_7B)
    assert f"orchestrate import-mindformers {BLOOM_7B}" in caught.value.lines()[0]


def test_what_is_missing_is_a_to_do_in_the_file_and_what_has_no_counterpart_is_told() -> None:
    imported = import_run_yaml(BLOOM_7B)
    assert imported.to_do == ("data.path: a made-up path was put in; name your data",)
    assert "# TO DO  data.path" in job_text(imported, "run.yaml")
    told = reasons(imported)
    assert told["moe_config"] == "Bloom has no experts"
    assert told["lr_schedule.total_steps"] == "the schedule spans the run's own steps"
    assert "train_dataset_task" in told and "parallel.full_batch" in told
    # Every leaf of the file is either in the job or in the list, or a part of a section in the list.
    assert not {"seed", "runner_config.epochs", "lr_schedule.learning_rate"} & set(told)


def test_an_unknown_key_is_told_with_its_line(tmp_path: Path) -> None:
    path = changed(tmp_path, surprise=3)
    found = next(item for item in import_run_yaml(path).left_out if item.key == "surprise")
    line = 1 + path.read_text().splitlines().index("surprise: 3")
    assert found.where == f"{path}:{line}: surprise" and found.reason == "a job has no such key"


@pytest.mark.parametrize(
    ("changes", "level", "deterministic", "told"),
    [
        ({"context__jit_config": {"jit_level": "O0"}}, "O0", None, set()),
        ({"context__jit_config": {"jit_level": "O2"}}, None, None, {"context.jit_config.jit_level"}),
        (
            {"context__jit_config": {"jit_level": "O1"}, "context__device_target": "CPU"},
            None,
            None,
            {"context.jit_config.jit_level"},
        ),
        ({"context__deterministic": "ON"}, None, True, set()),
        ({"context__deterministic": "OFF"}, None, None, set()),
        ({"train_precision_sync": True}, None, True, set()),
        (
            {"train_precision_sync": True, "context__deterministic": "ON", "run_mode": "predict"},
            None,
            None,
            {"train_precision_sync", "context.deterministic"},
        ),
    ],
)
def test_levels_and_determinism_are_those_of_the_context(
    tmp_path: Path, changes: dict[str, Any], level: str | None, deterministic: bool | None, told: set[str]
) -> None:
    imported = import_run_yaml(changed(tmp_path, **changes))
    assert imported.job.get("jit_level") == level
    assert imported.job.get("train", {}).get("deterministic") == deterministic
    keys = {"context.jit_config.jit_level", "context.deterministic", "train_precision_sync"}
    assert keys & set(reasons(imported)) == told
    assert "a job has no such key" not in {reasons(imported)[key] for key in told}


def test_sizes_of_the_first_release_are_recognised_by_their_old_names(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        model__model_config__hidden_size=None,
        model__model_config__embedding_size=8192,
        model__model_config__num_layers=80,
        model__model_config__num_heads=64,
        model__model_config__hidden_act="fast_gelu",
        parallel_config__data_parallel=2,
        parallel_config__pipeline_stage=12,
    )
    job = import_run_yaml(path).job
    assert job["model"] == {"preset": "65b"}
    assert (job["host_count"], job["devices_per_host"]) == (12, 8)
    assert job["parallel"]["optimizer_shard"] is True


def test_what_differs_from_the_preset_is_an_override(tmp_path: Path) -> None:
    path = changed(tmp_path, model__model_config__compute_dtype="bfloat16")
    assert import_run_yaml(path).job["model"]["overrides"] == {"compute_dtype": "bfloat16"}


def test_fields_of_answering_stay_with_a_model_that_is_trained(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        model__model_config__use_flash_attention=True,
        model__model_config__use_past=False,
        model__model_config__max_decode_length=512,
        model__model_config__top_k=3,
        model__model_config__top_p=0.9,
        model__model_config__repetition_penalty=1,  # as usual
        model__model_config__eos_token_id=7,
    )
    imported = import_run_yaml(path)
    assert imported.job["model"]["overrides"] == {
        "use_flash_attention": True,
        "use_past": False,
        "max_decode_length": 512,
        "top_k": 3,
        "top_p": 0.9,
        "eos_token_id": 7,
    }
    assert not [key for key in reasons(imported) if key.startswith("model.model_config.t")]


def test_every_field_of_the_config_is_carried_over_and_what_is_usual_is_not_said(tmp_path: Path) -> None:
    defaults = {key: value for key, value in BloomConfig.defaults().items() if value is not None}
    said = {
        f"model__model_config__{key}": value for key, value in defaults.items() if key != "prompt_template"
    }
    imported = import_run_yaml(changed(tmp_path, **said))
    assert "overrides" not in imported.job["model"]
    assert not [key for key in reasons(imported) if key.removeprefix("model.model_config.") in defaults]


@pytest.mark.parametrize("place", ["model__model_config", "parallel_config"])
def test_sequences_are_cut_where_the_run_yaml_cuts_them(tmp_path: Path, place: str) -> None:
    path = changed(tmp_path, **{f"{place}__use_seq_parallel": True})
    assert import_run_yaml(path).job["parallel"]["use_seq_parallel"] is True
    for change in ({"parallel_config__model_parallel": 1}, {"run_mode": "predict"}):
        imported = import_run_yaml(changed(tmp_path, **{f"{place}__use_seq_parallel": True}, **change))
        assert not imported.job["parallel"].get("use_seq_parallel")
        assert "cuts no sequences" in reasons(imported)[f"{place.replace('__', '.')}.use_seq_parallel"]


def test_a_job_that_answers_draws_as_mindformers_draws(tmp_path: Path) -> None:
    said = {"top_p": 0.9, "repetition_penalty": 1.1, "batch_size": 4, "num_beams": 2}
    more = {f"model__model_config__{key}": value for key, value in said.items()}
    imported = import_run_yaml(changed(tmp_path, run_mode="predict", **more))
    predict = {key: value for key, value in imported.job["predict"].items() if key != "prompts"}
    assert predict == {
        "max_new_tokens": 64,
        "temperature": 1.0,
        "top_k": 5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "batch_size": 4,
        "seed": 0,
    }
    assert imported.job["data"]["template"] == "none"
    told = reasons(imported)
    assert "predict.max_new_tokens" in told["model.model_config.max_decode_length"]
    assert told["model.model_config.num_beams"] == "a job that answers has no beam search"
    assert told["optimizer.beta1"] == "a job that answers does not train"
    greedy = changed(tmp_path, run_mode="predict", model__model_config__do_sample=False)
    predict = import_run_yaml(greedy).job["predict"]
    assert (predict["temperature"], predict["top_k"], predict["top_p"]) == (0.0, 0, 1.0)


def test_one_device_without_parallelism(tmp_path: Path) -> None:
    path = changed(tmp_path, use_parallel=False, run_mode="predict")
    job = import_run_yaml(path).job
    assert job["parallel"]["model_parallel"] == 1 and job["devices_per_host"] == 1
    assert job["predict"]["prompts"] and "train" not in job


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"run_mode": "eval"}, "run_mode: 'eval' has no counterpart here"),
        (
            {"run_mode": "export"},
            "run_mode: 'export' has no counterpart here (`python -m model export` does that",
        ),
        (
            {"model__model_config__num_heads": None, "model__model_config__num_layers": 31},
            "num_layers 31: no",
        ),
        ({"model__model_config__type": "LlamaConfig"}, "model.model_config.type: is LlamaConfig"),
        (
            {"model__model_config__model_type": "qwen3"},
            "model.model_config.model_type: is 'qwen3'; bundled is",
        ),
        ({"model__model_config__architectures": ["GPT"], "run_mode": "eval"}, "architectures: is 'GPT'"),
        ({"model__arch": {"type": "BloomRewardModel"}}, "model.arch.type: is 'BloomRewardModel'; bundled is"),
        (
            {"parallel_config__model_parallel": "four"},
            "parallel_config.model_parallel: is not a whole",
        ),
        ({"model__model_config__top_k": -1, "run_mode": "predict"}, "predict.top_k: must be at least 0"),
        ({"lr_schedule__type": "polynomial"}, "train.lr_schedule: expected one of cosine, linear, constant"),
    ],
)
def test_what_cannot_be_imported_is_one_line_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    path = changed(tmp_path, **change)
    with pytest.raises(ConfigError) as caught:
        import_run_yaml(path)
    (line,) = caught.value.lines()
    assert line.startswith(f"{path}:") and what in line


def test_a_file_that_is_no_run_yaml(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError, match="no published Bloom"):
        import_run_yaml(path)
