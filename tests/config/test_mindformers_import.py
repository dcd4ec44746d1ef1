"""Any run YAML of MindFormers becomes a job, or says in a line why it does not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.cmd_import_mindformers import command
from orchestrator.cli.cmd_launch import command as launch
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_import import import_any
from orchestrator.config.mindformers_yaml import job_text
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.plan.mindformers_run import complete
from tests.shipped_run_yamls import shipped

BLOOM_7B = Path(__file__).parent / "run_bloom_7.1b.yaml"
LLAMA: dict[str, Any] = {
    "run_mode": "finetune",
    "trainer": {"type": "CausalLanguageModelingTrainer"},
    "load_checkpoint": "/data/llama",
    "use_parallel": True,
    "context": {"device_target": "Ascend"},
    "parallel_config": {"data_parallel": 8, "model_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 2},
    "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": "/data/train.mindrecord"}},
    "model": {"model_config": {"type": "LlamaConfig"}, "arch": {"type": "LlamaForCausalLM"}},
}


def run_yaml(folder: Path, name: str = "finetune_llama.yaml", **changes: Any) -> Path:
    """The run YAML of Llama with some keys changed; None removes one."""
    data = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    path = folder / name
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_a_run_yaml_of_another_model_stays_as_it_is_and_the_job_names_it(tmp_path: Path) -> None:
    path = run_yaml(tmp_path)
    imported = import_any(path, beside=tmp_path)
    assert imported.job == {
        "name": "finetune_llama",
        "task": "mindformers",
        "hosts": "all",
        "host_count": 4,
        "devices_per_host": 8,
        "device_target": "Ascend",
        "mindformers": {"config": "finetune_llama.yaml"},
        "networking": {"mode": "rank_table"},
    }
    assert imported.to_do == imported.left_out == ()


def test_the_job_file_finds_the_run_yaml_from_where_it_is(tmp_path: Path) -> None:
    path = run_yaml(tmp_path)
    job = tmp_path / "jobs/deep/job.yaml"
    done = CliRunner().invoke(command, [str(path), "-o", str(job), "--set", "mindformers.set.seed=7"])
    assert done.exit_code == 0, done.output
    loaded = load_job(job)
    assert loaded.mindformers is not None and loaded.mindformers.config == "../../finetune_llama.yaml"
    assert loaded.mindformers.set == {"seed": 7}
    assert path.read_text() == yaml.safe_dump(LLAMA, sort_keys=False)


def test_a_bloom_is_bundled_and_kept_if_that_is_asked_for() -> None:
    assert import_any(BLOOM_7B).job["task"] == "pretrain"
    kept = import_any(BLOOM_7B, keep=True, beside=BLOOM_7B.parent).job
    assert kept["task"] == "mindformers" and kept["mindformers"] == {"config": BLOOM_7B.name}
    assert (kept["host_count"], kept["devices_per_host"]) == (1, 8)
    done = CliRunner().invoke(command, [str(BLOOM_7B), "--keep", "--json"])
    assert json.loads(done.stdout)["job"]["task"] == "mindformers"


@pytest.mark.parametrize(
    ("degrees", "hosts"),
    [
        ({"data_parallel": 1}, (1, 1)),
        ({"data_parallel": 12}, (2, 6)),
        ({"model_parallel": 4, "pipeline_stage": 4, "context_parallel": 2}, (4, 8)),
        ({"data_parallel": 7, "model_parallel": 11}, (11, 7)),
    ],
)
def test_hosts_follow_from_the_degrees(
    tmp_path: Path, degrees: dict[str, int], hosts: tuple[int, int]
) -> None:
    job = import_any(run_yaml(tmp_path, parallel_config=degrees)).job
    assert (job["host_count"], job["devices_per_host"]) == hosts
    alone = import_any(run_yaml(tmp_path, parallel_config=degrees, use_parallel=False)).job
    assert (alone["host_count"], alone["devices_per_host"]) == (1, 1)


def test_what_was_not_made_for_these_hosts_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "run_mode: finetune\n"
        "trainer: {type: CausalLanguageModelingTrainer}\n"
        "model: {model_config: {type: LlamaConfig}}\n"
        "use_parallel: True\n"
        "pretrained_model_dir: '/path/to/Qwen3'\n"
        "train_dataset: &data\n"
        "  data_loader: {type: MindDataset, dataset_dir: ''}\n"
        "train_dataset_task:\n"
        "  dataset_config: *data\n"
        "processor: &tokenizer\n"
        "  vocab_file: path/to/tokenizer.model\n"
        "eval_processor: *tokenizer\n"
    )
    assert import_any(path).to_do == (
        "train_dataset.data_loader.dataset_dir: names no data",
        "pretrained_model_dir: '/path/to/Qwen3' was not made for your hosts",
        "processor.vocab_file: 'path/to/tokenizer.model' was not made for your hosts",
        "host_count: 1 is a guess, for parallel_config.data_parallel is left out",
    )
    weightless = import_any(run_yaml(tmp_path, load_checkpoint=None)).to_do
    assert weightless == ("load_checkpoint: names nothing, so that training would start from random weights",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"run_mode": "export"}, "run_mode: 'export' is no job"),
        ({"run_mode": None, "train_dataset": None}, "neither run_mode nor train_dataset"),
        ({"training": {"steps": 10}, "parallelism": {}}, "PyNative trainer"),
        ({"runner_confg": {"epochs": 1}}, "did you mean `runner_config`?"),
        ({"trainer": None}, "has no section trainer"),
        ({"parallel_config": {"data_parallel": "all"}}, "data_parallel: is 'all', not a whole number"),
        ({"parallel_config": {"data_parallel": 2**40}}, "asks for 1,099,511,627,776 ranks"),
        ({"context": {"device_target": "GPU"}}, "device_target"),
    ],
)
def test_what_is_no_job_says_so_in_a_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_any(run_yaml(tmp_path, **changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_name_that_no_run_can_have_is_made_one(tmp_path: Path) -> None:
    assert import_any(run_yaml(tmp_path, "run_vit@336 ä.yaml")).job["name"] == "run_vit_336__"


def test_files_that_are_not_beside_the_job_are_told_before_a_launch_refuses_them(tmp_path: Path) -> None:
    context = {"device_target": "Ascend", "ascend_config": {"parallel_speed_up_json_path": "./speed.json"}}
    path, job = run_yaml(tmp_path, context=context), tmp_path / "jobs/job.yaml"
    done = CliRunner().invoke(command, [str(path), "-o", str(job)])
    told = "context.ascend_config.parallel_speed_up_json_path: './speed.json' is not beside the job"
    assert done.exit_code == 0 and told in done.stderr and told in job.read_text()
    assert told.partition(": ")[0] in dry_run(job, 4)
    (tmp_path / "jobs/speed.json").write_text("{}")
    assert told not in CliRunner().invoke(command, [str(path), "-o", str(job)]).stderr
    assert dry_run(job, 4) == ""


def test_what_set_has_answered_is_not_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = run_yaml(
        tmp_path,
        load_checkpoint=None,
        pretrained_model_dir="/path/to/model",
        auto_trans_ckpt=True,
        parallel_config={"model_parallel": 2},
        train_dataset={"data_loader": {"type": "MindDataset", "dataset_dir": ""}},
    )
    keys = ("load_checkpoint", "pretrained_model_dir", "train_dataset.data_loader.dataset_dir")
    asked = import_any(path, ["host_count=2"]).to_do
    assert [line.partition(": ")[0] for line in asked] == [*reversed(keys[1:]), "auto_trans_ckpt"]
    given = [f"mindformers.set.{key}=/data/x" for key in keys]
    given += ["host_count=2", "mindformers.set.auto_trans_ckpt=False"]
    assert import_any(path, given).to_do == ()
    words = [word for each in given for word in ("--set", each)]
    done = CliRunner().invoke(command, [str(path), "-o", str(tmp_path / "job.yaml"), *words])
    assert done.exit_code == 0 and "to do" not in done.stderr
    given[0] = "mindformers.set.load_checkpoint=./gone"
    words = [word for each in given for word in ("--set", each)]
    done = CliRunner().invoke(command, [str(path), *words])
    assert "to do: load_checkpoint: './gone' is not beside the job" in done.stderr
    assert "finetune" in path.read_text()
    assert import_any(path, [*given[1:], "mindformers.run_mode=predict"]).to_do == ()


def test_a_transformation_on_several_hosts_is_told_before_a_launch_refuses_it(tmp_path: Path) -> None:
    path, job = run_yaml(tmp_path, auto_trans_ckpt=True, load_checkpoint="/w"), tmp_path / "job.yaml"
    done = CliRunner().invoke(command, [str(path), "-o", str(job)])
    told = "auto_trans_ckpt: True needs an output folder that hosts share, and each has its own"
    assert done.exit_code == 0 and told in done.stderr and told in job.read_text()
    assert TRANSFORMS in dry_run(job, 4)
    path.write_text(path.read_text().replace("auto_trans_ckpt: true", "auto_trans_ckpt: false"))
    assert dry_run(job, 4) == ""


def test_the_job_replaces_a_job_and_no_other_file_least_of_all_the_run_yaml(tmp_path: Path) -> None:
    path = run_yaml(tmp_path)
    there = {
        "itself": path,
        "link": tmp_path / "link.yaml",
        "hard link": tmp_path / "same.yaml",
        "another run YAML": run_yaml(tmp_path, "other.yaml"),
        "inventory": tmp_path / "hosts.yaml",
        "text": tmp_path / "notes.txt",
        "nowhere": tmp_path / "nowhere.yaml",
    }
    there["link"].symlink_to(path)
    there["hard link"].hardlink_to(path)
    there["inventory"].write_text("transport: local\nhosts: [{name: a}]\n")
    there["text"].write_text("mine: [\n")
    there["nowhere"].symlink_to(tmp_path / "nothing")
    before = {name: one.read_bytes() for name, one in there.items() if one.exists()}
    for name, output in there.items():
        done = CliRunner().invoke(command, [str(path), "-o", str(output)])
        said = "is the run YAML itself" if name in ("itself", "link", "hard link") else "and is no job"
        assert isinstance(done.exception, UsageError) and said in str(done.exception), name
        assert done.exception.exit_code == 2 and str(output) in str(done.exception)
    assert {name: one.read_bytes() for name, one in there.items() if one.exists()} == before
    assert there["link"].is_symlink() and there["nowhere"].is_symlink()
    job = tmp_path / "job.yaml"
    for override in ("name=first", "name=second"):
        done = CliRunner().invoke(command, [str(path), "-o", str(job), "--set", override])
        assert done.exit_code == 0, done.output
    assert load_job(job).name == "second"


def dry_run(job: Path, host_count: int) -> str:
    """What `orchestrate launch --dry-run` has against a job on so many servers; "" where nothing."""
    inventory = job.parent / "servers.yaml"
    hosts = {"name": f"npu[001-{host_count:03}]", "devices": "0-7", "device_ips": "10.1.[1-250].[1-8]"}
    hosts["device_ips"] = f"10.1.[1-{host_count}].[1-8]"
    inventory.write_text(yaml.safe_dump({"defaults": {"workdir": "/data/run"}, "hosts": [hosts]}))
    done = CliRunner().invoke(launch, [str(job), "--dry-run", "-i", str(inventory)])
    assert isinstance(done.exception, ConfigError | SystemExit | None), done.exception
    return "" if done.exit_code == 0 else str(done.exception)


# What is no run of the trainer, by the beginning of its name.
BESIDE = "is not beside the job file (put it there, or write an absolute path, of the hosts)"
TRANSFORMS = "auto_trans_ckpt: needs an output folder that all"
NO_RUNS = ("run_convert", "run_reversed_convert", "export_")


def test_what_mindformers_ships_imports_or_says_why_not(tmp_path: Path) -> None:
    found = list(shipped(tmp_path / "wheels"))
    if not found:
        pytest.skip("no MindFormers here: make test installs it into .venv-mindformers")
    outcomes: Counter[tuple[str, str]] = Counter()
    job = tmp_path / "job.yaml"
    for version, path in found:
        try:
            imported = import_any(path, beside=tmp_path)
            job.write_text(job_text(imported, path.name))
            loaded = load_job(job)
            if loaded.mindformers is not None:
                hosts = imported.job["host_count"]
                assert complete(loaded, ranks=hosts * loaded.devices_per_host, device=0).text
                if version == "installed":
                    refused = dry_run(job, hosts)
                    of_person = refused.endswith(BESIDE) or TRANSFORMS in refused
                    assert not refused or of_person, f"{path}: {refused}"
                    outcomes[version, "names files" if refused else "dry-run passed"] += 1
                    continue
            outcomes[version, str(loaded.task)] += 1
        except ConfigError as error:
            assert "\n" not in str(error), path
            is_pynative = "PyNative trainer" in str(error)
            assert path.name.startswith(NO_RUNS) or is_pynative, f"{path}: {error}"
            outcomes[version, "PyNative" if is_pynative else "no run"] += 1
    print(dict(outcomes))
    for version in {version for version, _ in outcomes}:
        taken = outcomes[version, "mindformers"] + outcomes[version, "dry-run passed"]
        assert taken > outcomes[version, "no run"] + outcomes[version, "PyNative"]
    assert sum(outcomes.values()) == len(found)
