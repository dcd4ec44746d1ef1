"""`orchestrate plan` of a run of MindFormers: from a job, a run YAML, a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from orchestrator.cli.cmd_plan import command
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.sizing.estimate import estimate, size_of
from orchestrator.sizing.mindformers_workload import sized_run
from tests.shipped_run_yamls import shipped
from tests.sizing.published_models import PUBLISHED

ROOT = Path(__file__).parents[2]
DEGREES = {"data_parallel": 2, "model_parallel": 4, "pipeline_stage": 2, "micro_batch_num": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run YAML of Qwen3-8B whose model is described in a folder beside it, and a job that names it."""
    (tmp_path / "Qwen3-8B").mkdir()
    (tmp_path / "Qwen3-8B/config.json").write_text(json.dumps(PUBLISHED["Qwen/Qwen3-8B"][0]))
    run: dict[str, Any] = {
        "run_mode": "finetune",
        "trainer": {"type": "CausalLanguageModelingTrainer"},
        "use_parallel": True,
        "pretrained_model_dir": "Qwen3-8B",
        "context": {"max_device_memory": "58GB"},
        "parallel_config": DEGREES,
        "model": {"model_config": {"seq_length": 4096, "offset": 0}},
    }
    (tmp_path / "finetune.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    job: dict[str, Any] = {
        "name": "tuned",
        "task": "mindformers",
        "host_count": 2,
        "devices_per_host": 8,
        "mindformers": {"config": "finetune.yaml", "set": {"runner_config.batch_size": 2}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    return tmp_path


def plan(path: Path, *words: str) -> Result:
    return CliRunner().invoke(command, [str(path), *words], env={"COLUMNS": "200"})


def data(path: Path, *words: str) -> dict[str, Any]:
    done = plan(path, "--json", *words)
    assert done.exit_code == 0, (done.output, done.exception)
    return dict(json.loads(done.stdout))


def test_a_job_a_run_yaml_and_a_config_json_are_of_one_model(folder: Path) -> None:
    words = [f"--set=parallel_config.{key}={value}" for key, value in DEGREES.items()]
    from_job, from_yaml = data(folder / "job.yaml"), data(folder / "finetune.yaml")
    from_config = data(folder / "Qwen3-8B/config.json", *words, "--set=model.model_config.seq_length=4096")
    assert from_job["parameters"] == from_yaml["parameters"] == from_config["parameters"] == 8_190_735_360
    layout = {key: value for key, value in DEGREES.items() if key != "micro_batch_num"}
    assert from_job["layout"] == {**layout, "context_parallel": 1}
    assert from_yaml["estimate"] == from_config["estimate"] != from_job["estimate"]
    # The job's `set` doubles the batch, as does saying so here.
    assert (
        data(folder / "finetune.yaml", "--set=runner_config.batch_size=2")["estimate"] == from_job["estimate"]
    )


def test_people_are_told_what_is_not_reckoned(folder: Path) -> None:
    done = plan(folder / "Qwen3-8B/config.json")
    assert done.exit_code == 0
    assert "Qwen3-8B: 8.19 billion parameters over 1 ranks, data 1 × model 1 × pipeline 1" in done.stdout
    for words in ("seq_length is not said", "float32", "data_parallel is left out", "HCCL's buffers"):
        assert words in " ".join(done.stdout.split())


def test_what_does_not_fit_ends_with_2_and_layouts_that_do_are_proposed(folder: Path) -> None:
    done = plan(folder / "job.yaml", "--memory", "16GB", "--suggest")
    assert isinstance(done.exception, ConfigError) and "context.max_device_memory" in str(done.exception)
    assert "layouts that fit" in done.stdout and "enable_parallel_optimizer" in done.stdout
    found = data(folder / "job.yaml", "--suggest")["suggestions"]
    assert all(
        item["data_parallel"] * item["model_parallel"] * item["pipeline_stage"] == 16 for item in found
    )
    tight = plan(folder / "job.yaml", "--hbm", "12GB")
    assert isinstance(tight.exception, ConfigError) and "there are 12.0 GiB" in str(tight.exception)


def test_a_model_that_is_on_the_hosts_is_described_by_its_config_json(folder: Path) -> None:
    run = folder / "finetune.yaml"
    whole = data(run)
    run.write_text(run.read_text().replace("dir: Qwen3-8B", "dir: /data/Qwen3-8B"))
    done = plan(run)
    assert isinstance(done.exception, ConfigError)
    assert "finetune.yaml:5: pretrained_model_dir: /data/Qwen3-8B has no config.json" in str(done.exception)
    config = folder / "Qwen3-8B/config.json"
    assert data(run, "--config", str(config)) == whole
    assert data(folder / "job.yaml", "--config", str(config))["parameters"] == whole["parameters"]
    wrong = plan(run, "--config", str(folder / "job.yaml"))
    assert isinstance(wrong.exception, ConfigError) and "no config.json of a model" in str(wrong.exception)
    for other in (ROOT / "jobs/finetune_7.1b.yaml", config):
        assert isinstance(plan(other, "--config", str(config)).exception, UsageError)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("host_count", 3, "3 hosts × 8 devices_per_host = 24 ranks, but"),
        ("mindformers", {"config": "finetune.yaml", "set": {"seed.more": 1}}, None),
        ("mindformers", {"config": "finetune.yaml", "set": {"run_mode.x": 1}}, "run_mode"),
        ("mindformers", {"config": "finetune.yaml", "set": {"use_parallel.x": 1}}, "use_parallel"),
        (
            "mindformers",
            {"config": "finetune.yaml", "set": {"pretrained_model_dir.x": 1}},
            "cannot be set",
        ),
        ("mindformers", {"config": "finetune.yaml", "run_mode": "eval"}, "'eval' is not estimated"),
        ("mindformers", {"config": "elsewhere.yaml"}, "no such file"),
    ],
)
def test_a_job_that_cannot_be_estimated_says_why(
    folder: Path, key: str, value: Any, words: str | None
) -> None:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))
    done = plan(path)
    if words is None:
        assert done.exit_code == 0
    else:
        assert isinstance(done.exception, ConfigError) and words in str(done.exception)


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("hidden_size", "hidden_sise", "model.model_config.hidden_sise: unknown key"),
        ("num_key_value_heads", "num_key_value_head", "model.model_config.num_key_value_head: unknown key"),
        ("num_layers", "num_layer", "model.model_config.num_layer: unknown key"),
        ("model_parallel", "modle_parallel", "parallel_config.modle_parallel: unknown key"),
    ],
)
def test_a_misspelt_key_is_no_other_estimate(tmp_path: Path, right: str, wrong: str, words: str) -> None:
    sizes = {"hidden_size": 512, "num_layers": 2, "num_heads": 8, "num_key_value_heads": 2}
    run: dict[str, Any] = {
        "trainer": {"type": "CausalLanguageModelingTrainer"},
        "run_mode": "train",
        "parallel_config": {"data_parallel": 1, "model_parallel": 2},
        "model": {"model_config": {"type": "LlamaConfig", "vocab_size": 1000, **sizes}},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    assert plan(path).exit_code == 0
    path.write_text(path.read_text().replace(f"{right}:", f"{wrong}:"))
    done = plan(path)
    assert isinstance(done.exception, ConfigError)
    assert words in str(done.exception) and f"did you mean `{right}`?" in str(done.exception)


def test_a_misspelt_key_over_a_config_json_is_told(folder: Path) -> None:
    run = folder / "finetune.yaml"
    run.write_text(run.read_text().replace("seq_length: 4096", "seq_length: 4096\n    hidden_sise: 8"))
    done = plan(run)
    assert isinstance(done.exception, ConfigError) and "did you mean `hidden_size`?" in str(done.exception)


def test_sizes_that_nothing_says_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 2}))
    told = " ".join(plan(path).stdout.split())
    assert "num_heads is not said: 32" in told and "num_layers is not said" not in told


@pytest.mark.parametrize("name", ["finetune.yaml", "Qwen3-8B/config.json"])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("parallel_config.modle_parallel", "did you mean `parallel_config.model_parallel`?"),
        ("foo", "has no such key"),
        ("model.model_config.hidden_sise", "did you mean `hidden_size`?"),
    ],
)
def test_a_set_that_names_no_key_is_refused(folder: Path, name: str, key: str, words: str) -> None:
    done = plan(folder / name, f"--set={key}=2")
    assert isinstance(done.exception, ConfigError)
    assert f"--set {key}" in str(done.exception) and words in str(done.exception)


def test_the_hosts_of_an_inventory_give_ranks_and_devices(folder: Path) -> None:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "host_count": None}))
    inventory = str(folder / "hosts.yaml")
    hosts = [{"name": f"n{number}", "devices": "0-7", "chip": "910A"} for number in range(12)]
    Path(inventory).write_text(yaml.safe_dump({"hosts": hosts}))
    done = plan(path, "-i", inventory)
    assert isinstance(done.exception, ConfigError) and "= 96 ranks, but" in str(done.exception)
    two = plan(path, "-i", inventory, "--set=host_count=2", "--json")
    assert isinstance(two.exception, ConfigError) and "there are 32.0 GiB" in str(two.exception)
    assert json.loads(two.stdout)["hbm"] == 32 * 2**30


def test_trainings_that_mindformers_ships_fit_into_the_memory_that_they_give(tmp_path: Path) -> None:
    """Their authors have run them so, on one device of each rank: an estimate far above is wrong."""
    shares: dict[str, float] = {}
    for version, path in shipped(tmp_path):
        run = read_yaml(path)
        try:
            sized = sized_run(run)
        except ConfigError as error:
            assert "did you mean" not in str(error)
            assert "\n" not in str(error)  # another network, or one that its own folder describes
            continue
        if list(sized.workload.problems(sized.network)) or run.get(("run_mode",)) is None:
            continue
        if sized.workload.trains and sized.workload.cut.world_size > 1 and sized.memory is not None:
            made = estimate(sized.network, sized.workload)
            shares[f"{version} {path.name}"] = made.largest.total / size_of(sized.memory)
    if not shares:
        pytest.skip("no MindFormers here: make test installs it into .venv-mindformers")
    print({name: round(share, 2) for name, share in shares.items()})
    assert all(0.3 < share < 1.05 for share in shares.values())
