"""A run YAML of MindFormers, completed for an attempt: keys, contradictions, files, argv, the next one."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.core.errors import ConfigError
from orchestrator.plan.complete_plan import on_free_devices
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan, saved_layout

INVENTORY = {
    "transport": "local",
    "defaults": {"workdir": "/w/{name}", "devices": "4-5"},
    "hosts": [{"name": "host[1-3]"}],
}
JOB: dict[str, Any] = {
    "name": "demo",
    "task": "mindformers",
    "host_count": 2,
    "devices_per_host": 2,
    "device_target": "CPU",
    "mindformers": {"config": "run.yaml"},
}
RUN: dict[str, Any] = {
    "seed": 0,
    "output_dir": "./output",
    "trainer": {"type": "CausalLanguageModelingTrainer"},
    "model": {"model_config": {"type": "LlamaConfig", "num_layers": 2}},
    "runner_config": {"epochs": 2},
    "parallel": {"parallel_mode": 1},
    "parallel_config": {"model_parallel": 2, "pipeline_stage": 1},
    "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": "/data/a.mindrecord"}},
    "callbacks": [{"type": "CheckpointMonitor", "prefix": "llama"}],
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(INVENTORY))
    return tmp_path


def planned(files: Path, run: Any = (), job: Any = (), *overrides: str) -> LaunchPlan:
    (files / "run.yaml").write_text(yaml.safe_dump({**RUN, **dict(run)}, sort_keys=False))
    (files / "job.yaml").write_text(yaml.safe_dump({**JOB, **dict(job)}))
    inventory = load_inventory(files / "inventory.yaml")
    return make_plan(load_job(files / "job.yaml", overrides), inventory, now=1.0)


def section(**keys: Any) -> dict[str, Any]:
    return {"mindformers": {"config": "run.yaml", **keys}}


def problems(files: Path, *args: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(files, *args)
    return [str(one).replace(f"{files}/", "") for one in caught.value.problems]


def argv(plan: LaunchPlan) -> tuple[str, ...]:
    return plan.manifests["host1"].workers[0].argv


def test_it_is_completed_for_the_first_attempt(files: Path) -> None:
    plan = planned(files)
    run = yaml.safe_load(plan.run_yaml)
    changed = {key: value for key, value in run.items() if value != RUN.get(key)}
    assert changed == {
        "output_dir": "./attempts/1",
        "run_mode": "train",
        "use_parallel": True,
        "context": {"device_target": "CPU"},
        "parallel_config": {"data_parallel": 2, "model_parallel": 2, "pipeline_stage": 1},
    }
    assert plan.run_source == (files / "run.yaml").read_text()
    assert [(one.dp, one.mp, one.pp) for one in plan.placements] == [
        (0, 0, 0),
        (0, 1, 0),
        (1, 0, 0),
        (1, 1, 0),
    ]
    assert plan.packages == ("mindspore", "mindformers") and plan.host_paths == ("/data/a.mindrecord",)
    assert plan.manifests["host1"].launch["prefix"] == "llama"


def test_a_rank_alone_gets_its_device_and_no_parallel_mode(files: Path) -> None:
    degrees = {"parallel_config": {"model_parallel": 1}, "use_parallel": True, "context": {"device_id": 0}}
    plan = planned(files, degrees, {"host_count": 1, "devices_per_host": 1})
    run = yaml.safe_load(plan.run_yaml)
    assert (run["use_parallel"], run["context"]) == (False, {"device_target": "CPU", "device_id": 4})
    assert run["parallel_config"] == {"model_parallel": 1}


@pytest.mark.parametrize(
    ("container", "target", "device"),
    [
        ({}, "Ascend", 0),
        ({"options": ["--privileged"]}, "Ascend", 4),
        ({"options": ["--privileged=true"]}, "Ascend", 4),
        ({"enabled": False}, "Ascend", 4),
        ({}, "CPU", 4),
    ],
)
def test_a_rank_alone_in_a_container_has_its_device_by_the_number_there(
    files: Path, container: dict[str, Any], target: str, device: int
) -> None:
    run = {"parallel_config": {"model_parallel": 1}}
    mounts = ["/data:/data:ro"]
    job = {"host_count": 1, "devices_per_host": 1, "container": {"image": "x", "mounts": mounts, **container}}
    plan = planned(files, run, {**job, "device_target": target})
    context = {"device_target": target, "device_id": device}
    assert yaml.safe_load(plan.run_yaml)["context"] == context
    assert plan.manifests["host1"].workers[0].device_id == 4


@pytest.mark.parametrize(("container", "device"), [("off", 5), ({"image": "x"}, 0)])
def test_a_rank_alone_that_moves_off_a_busy_device_says_so(files: Path, container: Any, device: int) -> None:
    if container != "off":
        container = {**container, "mounts": ["/data:/data:ro"]}
    job = {"host_count": 1, "devices_per_host": 1, "device_target": "Ascend", "container": container}
    moved = on_free_devices(planned(files, {"parallel_config": {}}, job), {"host1": (4,)})
    assert yaml.safe_load(moved.run_yaml)["context"]["device_id"] == device
    assert moved.manifests["host1"].workers[0].device_id == 5


def test_the_program_is_ours_a_script_or_a_module(files: Path) -> None:
    words = ("--config", "{run_dir}/attempts/1/mindformers.yaml", "--run_mode", "train")
    plan = planned(files)
    assert argv(plan) == ("{python}", "-u", "{run_dir}/code/mindformers_start.py", *words)
    [sent] = plan.manifests["host1"].inputs
    assert sent.path == "code/mindformers_start.py" and "Trainer" in plan.sources[sent.sha256].read_text()
    assert plan.manifests["host1"].scheduler.argv == argv(plan)
    (files / "tools").mkdir()
    (files / "tools/start.py").write_text("")
    plan = planned(files, (), section(script="./tools/start.py", args=["--x", "1"]))
    assert argv(plan) == ("{python}", "-u", "tools/start.py", *words, "--x", "1")
    assert [item.path for item in plan.manifests["host1"].inputs] == ["tools/start.py"]
    plan = planned(files, (), section(script="my.start"))
    assert argv(plan)[:4] == ("{python}", "-u", "-m", "my.start") and not plan.sources
    plan = planned(files, (), section(script="/opt/mindformers/run_mindformer.py"))
    assert argv(plan)[2] == "/opt/mindformers/run_mindformer.py"
    assert "/opt/mindformers/run_mindformer.py" in plan.host_paths
    assert plan.packages == ("mindspore",)  # of a source tree no package is known


def test_its_environment_is_msruns_and_its_log_is_the_attempts(files: Path) -> None:
    env = planned(files, (), {"env": {"A": "{run_dir}"}}).manifests["host2"].workers[1].env
    expected = {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "3", "RANK_ID": "3", "DEVICE_ID": "5", "A": "{run_dir}"}
    expected["LOG_MF_PATH"] = "{run_dir}/attempts/1/log"
    expected["DEVICE_NUM_PER_NODE"] = "2"
    assert expected.items() <= env.items()


OTHER_DEVICE = {"context": {"device_target": "Ascend"}}


@pytest.mark.parametrize(
    ("run", "job", "said"),
    [
        (
            {"parallel_config": {"model_parallel": 3}},
            {},
            "job.yaml:2: devices_per_host: 2 hosts × 2 devices_per_host = 4 ranks, but run.yaml:13: "
            "parallel_config: model_parallel 3 = 3 (both sides must be equal)",
        ),
        (
            {"parallel_config": {"data_parallel": 2, "context_parallel": 2, "pipeline_stage": 2}},
            {},
            "data_parallel 2 × context_parallel 2 × pipeline_stage 2 = 8",
        ),
        (
            {"parallel_config": {"model_parallel": "2"}},
            {},
            "run.yaml:14: parallel_config.model_parallel: expected a whole number above 0, got '2'",
        ),
        (
            {"parallel_config": {"model_parallel": 2, "expert_parallel": 8}},
            {},
            "run.yaml:15: parallel_config.expert_parallel: 8 does not divide the 4 ranks of a stage",
        ),
        (
            {"parallel": {"parallel_mode": 2}, "parallel_config": {"pipeline_stage": 3}},
            {},
            "run.yaml:14: parallel_config.pipeline_stage: pipeline_stage 3 does not divide 4 ranks",
        ),
        (
            OTHER_DEVICE,
            {},
            "job.yaml:1: device_target: is CPU, but run.yaml:24: context.device_target is 'Ascend' "
            "(write device_target: Ascend)",
        ),
        (
            {"context": {"device_target": "CPU"}},
            {"device_target": None, "networking": {"mode": "dynamic"}},
            "is Ascend, which it is where nothing is said, but run.yaml:24: context.device_target is 'CPU'",
        ),
        ({"resume_training": True}, {}, "run.yaml:23: resume_training: has nothing to go on from"),
        (
            {"callbacks": [{"type": "CheckpointMonitor", "directory": "/x"}]},
            {},
            "directory: is where checkpoints would go, and they are taken from the attempt's folder",
        ),
        ({"run_mode": "export"}, {}, "run.yaml:23: run_mode: is 'export', and a job runs train,"),
        (
            {"load_chekpoint": "x"},
            {},
            "run.yaml:23: load_chekpoint: unknown key (did you mean `load_checkpoint`?)",
        ),
        (
            {},
            section(set={"runner_config.epoch": 3}),
            "job.yaml:7: mindformers.set.runner_config.epoch: run.yaml has no such key "
            "(did you mean `runner_config.epochs`?)",
        ),
        ({}, section(set={"seed.x": 3}), "mindformers.set.seed.x: run.yaml:1: seed: holds one value"),
        (
            {"train_dataset": {"data_loader": {"dataset_dir": "data/a.mindrecord"}}},
            {},
            "train_dataset.data_loader.dataset_dir: 'data/a.mindrecord' is not beside the job file",
        ),
        ({"load_checkpoint": "../x.ckpt"}, {}, "'../x.ckpt' leads out of the folder of the job file"),
        ({"load_checkpoint": "./logs/x.ckpt"}, {}, "begins with logs, a name that the run directory uses"),
    ],
)
def test_what_contradicts_the_job_is_said_with_both_places(
    files: Path, run: Any, job: Any, said: str
) -> None:
    told = problems(files, run, job)
    assert len(told) == 1 and said in told[0], told


def test_settings_are_written_and_the_file_stays(files: Path) -> None:
    text = textwrap.dedent("""\
        # mine
        trainer: {type: x}
        model: {model_config: {type: y}}
        parallel_config: {data_parallel: &dp 2, model_parallel: 2}   # degrees
        parallel: {dataset_strategy: [[*dp, 1]]}
        """)
    planned(files, (), section(set={"parallel_config.data_parallel": 4, "parallel_config.model_parallel": 1}))
    (files / "run.yaml").write_text(text)
    plan = make_plan(load_job(files / "job.yaml"), load_inventory(files / "inventory.yaml"))
    assert (files / "run.yaml").read_text() == text
    assert "parallel_config: {data_parallel: &dp 4, model_parallel: 1}   # degrees\n" in plan.run_yaml
    assert yaml.safe_load(plan.run_yaml)["parallel"] == {"dataset_strategy": [[4, 1]]}
    assert plan.run_yaml.startswith("# mine\n")
    assert (
        "mindformers.set.parallel_config.data_parallel has an anchor there: also for "
        "parallel.dataset_strategy[0][0]"
    ) in [note.replace(".0.0", "[0][0]") for note in plan.notes]


def test_files_beside_the_job_are_sent_and_those_of_hosts_are_checked(files: Path) -> None:
    (files / "data").mkdir()
    for name in ("data/a.mindrecord", "data/a.mindrecord.db", "data/text.bin", "data/text.idx", "w.ckpt"):
        (files / name).write_text(name)
    run = {
        "load_checkpoint": "./w.ckpt",
        "pretrained_model_dir": "Qwen/Qwen3",  # a name of a hub
        "train_dataset": {
            "data_loader": {
                "dataset_dir": "data/a.mindrecord",
                "config": {"data_path": ["1", "./data/text", "1", "/d/x"]},
            }
        },
        "eval_dataset": {"data_loader": {"dataset_dir": "/not/used"}},
        "processor": {"tokenizer": {"vocab_file": "/not/used"}},
    }
    plan = planned(files, run)
    assert sorted(item.path for item in plan.manifests["host2"].inputs) == [
        "code/mindformers_start.py",
        "data/a.mindrecord",
        "data/a.mindrecord.db",
        "data/text.bin",
        "data/text.idx",
        "w.ckpt",
    ]
    assert plan.host_paths == ("/d/x.bin", "/d/x.idx")
    plan = planned(files, run, section(run_mode="predict"))
    assert plan.host_paths == ("/not/used",)
    sync = planned(files, run, {"sync": ["data"]})
    assert len(sync.manifests["host1"].inputs) == 6


def test_an_attempt_that_goes_on_loads_its_own_folder(files: Path) -> None:
    run = {
        "load_checkpoint": "/w.safetensors",
        "load_ckpt_format": "safetensors",
        "auto_trans_ckpt": True,
        "src_strategy_path_or_dir": "/s",
    }
    run["load_checkpoint"], run["parallel_config"] = "/w/", {"model_parallel": 2}
    before = planned(files, run, {"host_count": 1})
    assert sorted(before.host_paths) == ["/data/a.mindrecord", "/s", "/w/"]
    write_plan(files / "plan.json", before)
    before = read_plan(files / "plan.json")
    job, inventory = load_job_again(before.job), load_inventory(files / "inventory.yaml")
    plan = next_plan(before, job, inventory)
    now = yaml.safe_load(plan.run_yaml)
    assert (now["output_dir"], now["load_checkpoint"]) == ("./attempts/2", "./attempts/2/load")
    assert (now["resume_training"], now["auto_trans_ckpt"], now["load_ckpt_format"]) == (True, False, "ckpt")
    assert now["src_strategy_path_or_dir"] == "" and plan.host_paths == ("/data/a.mindrecord",)
    assert "{run_dir}/attempts/2/mindformers.yaml" in argv(plan) and plan.origin is None
    assert saved_layout(plan) == saved_layout(before)
    fresh = next_plan(before, job, inventory, fresh=True)
    again = yaml.safe_load(fresh.run_yaml)
    assert (again["output_dir"], again["load_checkpoint"]) == ("./attempts/2", "/w/")
    assert "resume_training" not in again and fresh.origin == (0, 0)
    third = yaml.safe_load(next_plan(plan, job, inventory, fresh=True).run_yaml)
    assert third["load_checkpoint"] == "/w/"


def test_networks_without_the_legacy_save_safetensors_whatever_is_said(files: Path) -> None:
    before = planned(files, {"use_legacy": False})
    plan = next_plan(before, load_job_again(before.job), load_inventory(files / "inventory.yaml"))
    assert yaml.safe_load(plan.run_yaml)["load_ckpt_format"] == "safetensors"


def test_a_section_of_checkpoint_2_is_completed_too(files: Path) -> None:
    run = {
        "checkpoint": {
            "save_path": "./output/checkpoint",
            "load_path": "/w",
            "no_load_optim": True,
            "prefix": "a",
        },
        "resume_training": True,
    }
    before = planned(files, run)
    said = yaml.safe_load(before.run_yaml)["checkpoint"]
    assert (said["save_path"], said["load_path"]) == ("./attempts/1/checkpoint", "/w")
    assert "/w" in before.host_paths and before.manifests["host1"].launch["prefix"] == "a"
    inventory = load_inventory(files / "inventory.yaml")
    plan = next_plan(before, load_job_again(before.job), inventory)
    said = yaml.safe_load(plan.run_yaml)["checkpoint"]
    assert (said["save_path"], said["load_path"]) == ("./attempts/2/checkpoint", "./attempts/2/load")
    assert said["no_load_optim"] is False and "/w" not in plan.host_paths
    [told] = problems(files, {"checkpoint": {"save_path": "/shared"}})
    assert "checkpoint.save_path: is where checkpoints would go" in told


def test_who_goes_on_by_himself_reads_no_file(files: Path) -> None:
    before = planned(files, {"seed": 5})
    job, inventory = load_job_again(before.job), load_inventory(files / "inventory.yaml")
    (files / "run.yaml").unlink()
    plan = next_plan(before, load_job_again(before.job, needs_files=False), inventory, by_itself=True)
    assert yaml.safe_load(plan.run_yaml)["seed"] == 5
    assert [item.path for item in plan.manifests["host1"].inputs] == ["code/mindformers_start.py"]
    with pytest.raises(ConfigError, match="no such file"):
        next_plan(before, job, inventory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": {"model_config": {"type": "LlamaConfig", "num_layers": 3}}},
            "run.yaml:8: model.model_config.num_layers: is 3, but the run has trained with 2",
        ),
        (
            {"parallel_config": {"model_parallel": 1, "pipeline_stage": 2, "micro_batch_num": 2}},
            "parallel_config.model_parallel: is 1, but the run's shards are cut with 2",
        ),
    ],
)
def test_another_network_or_layout_is_refused_and_the_rest_may_change(
    files: Path, change: Any, said: str
) -> None:
    before = planned(files)
    inventory = load_inventory(files / "inventory.yaml")
    planned(files, change)
    with pytest.raises(ConfigError) as caught:
        next_plan(before, load_job(files / "job.yaml"), inventory)
    assert said in str(caught.value.problems[0]).replace(f"{files}/", "")
    planned(files, {"runner_config": {"epochs": 4}})
    plan = next_plan(before, load_job(files / "job.yaml"), inventory)
    assert yaml.safe_load(plan.run_yaml)["runner_config"] == {"epochs": 4}


def test_a_plan_of_before_has_no_run_yaml(files: Path) -> None:
    write_plan(files / "plan.json", planned(files))
    data = json.loads((files / "plan.json").read_text())
    del data["run_yaml"], data["run_source"]
    (files / "plan.json").write_text(json.dumps(data))
    assert (read_plan(files / "plan.json").run_yaml, read_plan(files / "plan.json").run_source) == ("", "")
