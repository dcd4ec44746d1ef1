"""A launch as data: what goes to each host and what is started there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from pathlib import Path

import pytest
import yaml

from orchestrator.config.run_terms import Health
from orchestrator.core.errors import ConfigError
from orchestrator.plan.complete_plan import complete_plan
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job, lines_of

HOSTS = """\
defaults: {devices: 0-1, env_script: /opt/env.sh, lock_dir: /run/lock/x}
hosts:
  - {name: "npu[1-2]", address: "10.0.0.[1-2]", device_ips: "29.1.[1-2].[1-2]"}
"""
RECORD = '[{"instruction": "a", "output": "b"}]'
COMMAND = """\
name: cmd
task: command
devices_per_host: 2
command: [run, "{rank}"]
"""
TRAIN = """\
name: demo
task: finetune
devices_per_host: 2
parallel: {data_parallel: 2, model_parallel: 2}
model: {preset: tiny}
data: {path: data.json}
train: {steps: 4, batch_size: 2}
env: {OMP_NUM_THREADS: 1}
"""


def plan(folder: Path, text: str = COMMAND, hosts: str = HOSTS) -> LaunchPlan:
    (folder / "data.json").write_text(RECORD)
    return make_plan(job(folder, text), inventory(folder, hosts), now=0.0)


def test_the_environment_of_a_dynamic_worker(tmp_path: Path) -> None:
    worker = plan(tmp_path).manifests["npu2"].workers[1]
    assert (worker.label, worker.rank, worker.local_rank, worker.device_id) == ("rank_3", 3, 1, 1)
    assert worker.argv == ("run", "{rank}")
    assert dict(worker.env) == {
        "ORCHESTRATE_ATTEMPT": "1",
        "RANK_ID": "3",
        "RANK_SIZE": "4",
        "DEVICE_ID": "1",
        "MS_ROLE": "MS_WORKER",
        "MS_SCHED_HOST": "10.0.0.1",
        "MS_SCHED_PORT": "{port}",
        "MS_WORKER_NUM": "4",
        "MS_NODE_ID": "3",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "{port}",
    }


def test_the_scheduler_is_the_same_program_on_the_first_host(tmp_path: Path) -> None:
    made = plan(tmp_path)
    scheduler = made.manifests["npu1"].scheduler
    assert scheduler is not None and scheduler.argv == ("run", "{rank}")
    assert scheduler.env["MS_ROLE"] == "MS_SCHED"
    assert made.manifests["npu2"].scheduler is None
    assert made.master.name == "npu1" and made.chooses_port


@pytest.mark.parametrize("address", ["203.0.113.7", "fd00::7", "npu-a", "127.0.0.9"])
def test_the_workers_of_one_host_meet_on_its_loopback(tmp_path: Path, address: str) -> None:
    # An address of a router that translates, or of a cloud, is none at which the host can listen.
    hosts = f"hosts:\n  - {{name: a, address: '{address}', devices: 0-1}}\n"
    manifest = plan(tmp_path, COMMAND, hosts).manifests["a"]
    assert manifest.scheduler is not None
    told = {spec.env["MS_SCHED_HOST"] for spec in (*manifest.workers, manifest.scheduler)}
    assert told == {"127.0.0.1"}


def test_the_bundled_model_gets_none_of_the_common_names(tmp_path: Path) -> None:
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(
        plan(tmp_path, TRAIN).manifests["npu1"].workers[0].env
    )


@pytest.mark.parametrize("mode", ["none", "dynamic", "rank_table"])
def test_the_master_is_the_first_host_and_a_job_may_name_another(tmp_path: Path, mode: str) -> None:
    networking = f"networking: {{mode: {mode}}}\n"
    hosts = HOSTS.replace("10.0.0.[1-2]", "npu-[1-2].lab")
    made = plan(tmp_path, COMMAND + networking, hosts)
    completed = complete_plan(dataclasses.replace(made, uses_rank_table=False), {}, scheduler_host="10.9.9.9")
    env = completed.manifests["npu2"].workers[0].env
    assert env["MASTER_ADDR"] == ("npu-1.lab" if mode == "none" else env["MS_SCHED_HOST"])
    own = plan(tmp_path, COMMAND + networking + "env: {MASTER_ADDR: elsewhere, MASTER_PORT: 29500}\n")
    env = own.manifests["npu2"].workers[0].env
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("elsewhere", "29500")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_what_differs_from_rank_to_rank_is_none_of_the_jobs(tmp_path: Path, name: str) -> None:
    assert lines_of(tmp_path, lambda: plan(tmp_path, COMMAND + f"env: {{{name}: 1}}\n")) == [
        f"job.yaml:5: env.{name}: is set by the orchestrator for every rank (remove it)"
    ]
    assert plan(tmp_path, TRAIN.replace("env: {", f"env: {{{name}: 1, ")).world_size == 4


def test_a_given_port_is_kept(tmp_path: Path) -> None:
    made = plan(tmp_path, COMMAND + "networking: {mode: dynamic, port: 8118}\n")
    assert not made.chooses_port
    assert made.manifests["npu1"].port == 8118


def test_one_rank_needs_no_scheduler(tmp_path: Path) -> None:
    text = COMMAND.replace("devices_per_host: 2", "devices_per_host: 1") + "host_count: 1\n"
    made = plan(tmp_path, text)
    assert made.manifests["npu1"].scheduler is None
    assert "MS_ROLE" not in made.manifests["npu1"].workers[0].env


@pytest.mark.parametrize("mode", ["dynamic", "rank_table", "legacy_rank_table"])
@pytest.mark.parametrize("target", ["CPU", "Ascend"])
def test_one_rank_gets_no_table_and_no_port_whatever_the_mode(tmp_path: Path, mode: str, target: str) -> None:
    port = "" if mode.startswith("legacy") else ", port: 8118"
    text = COMMAND.replace("devices_per_host: 2", "devices_per_host: 1")
    networking = f"networking: {{mode: {mode}{port}}}\ndevice_target: {target}\nhost_count: 1\n"
    made = plan(tmp_path, text + networking)
    assert (made.rank_table, made.uses_rank_table, made.chooses_port) == (None, False, False)
    manifest = made.manifests["npu1"]
    assert (manifest.scheduler, manifest.port) == (None, None)
    (note,) = made.notes
    assert note.startswith(f"one rank meets nobody: networking.mode {mode} starts no scheduler")
    assert ("networking.port 8118 is not used" in note) == bool(port)
    write_plan(tmp_path / "plan.json", made)
    assert read_plan(tmp_path / "plan.json").notes == made.notes


def test_who_asks_for_no_networking_is_told_nothing_of_it(tmp_path: Path) -> None:
    text = COMMAND.replace("devices_per_host: 2", "devices_per_host: 1")
    assert plan(tmp_path, text + "networking: {mode: none}\nhost_count: 1\n").notes == ()
    assert plan(tmp_path, TRAIN).notes == ()


def test_a_command_that_is_started_as_scheduler_too_is_told_so_unless_it_asks_for_it(tmp_path: Path) -> None:
    (note,) = plan(tmp_path).notes
    assert note.startswith("networking.mode is left out, and device_target, which is CPU then: dynamic runs")
    assert note.endswith("needs networking: {mode: none}")
    (note,) = plan(tmp_path, COMMAND + "device_target: Ascend\n").notes
    assert note.startswith("networking.mode is left out: rank_table runs the command once more")
    for mode in ("dynamic", "rank_table", "legacy_rank_table", "none"):
        assert plan(tmp_path, COMMAND + f"networking: {{mode: {mode}}}\n").notes == ()


def test_keys_of_the_records_that_nobody_reads_are_told(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"instruction": "a", "output": "b", "id": 1, "rating": 5}]')
    made = make_plan(job(tmp_path, TRAIN), inventory(tmp_path, HOSTS))
    assert made.notes == (f"{tmp_path}/data.json: not read: 'id' of 1 records, 'rating' of 1 records",)


def test_rank_table_networking(tmp_path: Path) -> None:
    made = plan(tmp_path, COMMAND + "networking: {mode: rank_table}\n")
    assert made.rank_table is not None and json.loads(made.rank_table)["server_count"] == "2"
    assert made.manifests["npu2"].workers[0].env["RANK_TABLE_FILE"] == "{run_dir}/rank_table.json"
    assert made.manifests["npu1"].scheduler is not None and made.chooses_port
    assert made.uses_rank_table and made.ascend and made.warnings == ()


def test_a_rank_table_alone_is_warned_of(tmp_path: Path) -> None:
    made = plan(tmp_path, COMMAND + "networking: {mode: legacy_rank_table}\n")
    assert made.rank_table is not None and made.uses_rank_table
    assert made.manifests["npu1"].scheduler is None and not made.chooses_port
    (warning,) = made.warnings
    assert "MindSpore 2.x makes no groups" in warning and "use mode rank_table" in warning


def test_a_rank_table_on_cpus_has_the_addresses_of_the_inventory(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN + "networking: {mode: rank_table}\ndevice_target: CPU\n")
    assert made.uses_rank_table and not made.ascend
    assert complete_plan(made, {}, port=8118).rank_table == made.rank_table
    table = json.loads(made.rank_table or "")
    assert table["server_list"][1]["device"][0]["device_ip"] == "29.1.2.1"


def test_a_rank_table_on_cpus_without_addresses(tmp_path: Path) -> None:
    text = TRAIN + "networking: {mode: rank_table}\ndevice_target: CPU\n"
    hosts = HOSTS.replace(', device_ips: "29.1.[1-2].[1-2]"', "")
    assert lines_of(tmp_path, lambda: plan(tmp_path, text, hosts)) == [
        "job.yaml:9: networking.mode: rank_table needs the devices' addresses, which hosts without NPUs"
        " cannot tell (give `device_ips:` in hosts.yaml, or use mode dynamic)"
    ]


def test_hosts_that_are_this_machine_are_no_ascend_servers(tmp_path: Path) -> None:
    hosts = "transport: local\ndefaults: {devices: 0-1}\nhosts: [{name: a}, {name: b}]\n"
    for text in ("networking: {mode: rank_table}\n", "device_target: Ascend\n"):
        (line,) = lines_of(tmp_path, lambda text=text: plan(tmp_path, COMMAND + text, hosts))  # type: ignore[misc]
        assert line.endswith(
            "networking.mode: rank_table is for Ascend servers, and 2 hosts of hosts.yaml are this machine"
            " (to try the job here: --set device_target=CPU, or --set networking.mode=none)"
        )
    one = COMMAND + "networking: {mode: rank_table}\nhost_count: 1\n"
    assert plan(tmp_path, one, hosts).uses_rank_table  # an Ascend server may be this machine


def test_addresses_of_one_machine_may_stand_in_a_table_that_no_hccl_reads(tmp_path: Path) -> None:
    text = TRAIN + "networking: {mode: rank_table}\ndevice_target: CPU\n"
    hosts = HOSTS.replace("10.0.0.", "127.0.0.")
    assert plan(tmp_path, text, hosts).rank_table is not None
    assert lines_of(tmp_path, lambda: plan(tmp_path, text.replace("CPU", "Ascend"), hosts)) == [
        f"hosts.yaml: npu{n}: 127.0.0.{n} is a loopback address, which every server has"
        " (give its real `address:`)"
        for n in (1, 2)
    ]


def test_a_manifest_says_what_its_host_does(tmp_path: Path) -> None:
    made = plan(tmp_path, COMMAND + "timeouts: {grace: 3}\n")
    manifest = made.manifests["npu2"]
    assert (manifest.host, manifest.address, manifest.devices) == ("npu2", "10.0.0.2", (0, 1))
    assert (manifest.env_script, manifest.lock_dir, manifest.grace) == ("/opt/env.sh", "/run/lock/x", 3)
    assert (manifest.world_size, manifest.hosts) == (4, ("npu1", "npu2"))
    assert {item.run_id for item in made.manifests.values()} == {made.run_id}


def test_the_rules_of_health_are_in_the_plan_and_where_they_are_not_the_usual_in_the_manifest(
    tmp_path: Path,
) -> None:
    made = plan(tmp_path, COMMAND + "health: {floor: 30}\n")
    assert made.health.floor == 30.0 and made.manifests["npu1"].launch["health"]["floor"] == 30.0
    usual = plan(tmp_path, COMMAND)
    assert usual.health == Health() and "health" not in usual.manifests["npu1"].launch


def test_bundled_workers_get_code_data_and_configuration(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN)
    shipped = {item.path: item.sha256 for item in made.manifests["npu1"].inputs}
    assert shipped["inputs/data/data.json"] == hashlib.sha256(RECORD.encode()).hexdigest()
    assert {"code/orchestrator/core/errors.py", "code/orchestrator/checkpoint/files/tensor_files.py"} <= set(
        shipped
    )
    assert not [path for path in shipped if path.startswith(("code/orchestrator/cli", "code/tests"))]
    assert set(shipped.values()) == set(made.sources)
    config = yaml.safe_load(made.worker_config)
    assert config["run_id"] == made.run_id and config["task"] == "finetune"
    assert config["data"]["path"] == "inputs/data/data.json"
    assert config["train"]["steps"] == 4 and config["device_target"] == "CPU"
    worker = made.manifests["npu1"].workers[0]
    assert worker.argv == ("{python}", "-m", "model", "train", "--config", "worker.yaml")
    assert worker.env["PYTHONPATH"] == "{run_dir}/code"
    assert worker.env["OMP_NUM_THREADS"] == "1"
    assert made.packages == ("mindspore", "tokenizers")


def test_mindrecord_goes_with_its_index_and_tokenizer(tmp_path: Path) -> None:
    for name in ("a.mindrecord", "a.mindrecord.db", "a.mindrecord.summary.json", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    made = plan(tmp_path, TRAIN.replace("data.json", "a.mindrecord"))
    shipped = [item.path for item in made.manifests["npu1"].inputs if item.path.startswith("inputs/")]
    assert sorted(shipped) == [
        "inputs/data/a.mindrecord",
        "inputs/data/a.mindrecord.db",
        "inputs/data/a.mindrecord.summary.json",
        "inputs/data/tokenizer.json",
    ]
    on_hosts = plan(tmp_path, TRAIN.replace("data.json", "/data/a.mindrecord"))
    assert on_hosts.host_paths == ("/data/a.mindrecord", "/data/a.mindrecord.db")
    (tmp_path / "a.mindrecord.db").unlink()
    with pytest.raises(ConfigError, match=r"data\.path: .*a\.mindrecord\.db cannot be read: No such file"):
        plan(tmp_path, TRAIN.replace("data.json", "a.mindrecord"))


def test_a_python_path_of_the_job_comes_after_the_code(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN.replace("env: {", "env: {PYTHONPATH: /opt/lib, "))
    assert made.manifests["npu1"].workers[0].env["PYTHONPATH"] == "{run_dir}/code:/opt/lib"


def test_absolute_paths_are_the_hosts_own(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN.replace("path: data.json", "path: /data/x.json"))
    assert made.host_paths == ("/data/x.json",)
    assert yaml.safe_load(made.worker_config)["data"]["path"] == "/data/x.json"


def test_what_belongs_to_the_weights_is_shipped_with_them(tmp_path: Path) -> None:
    for name in ("w.ckpt", "config.yaml"):
        (tmp_path / name).write_text(name)
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    made = plan(tmp_path, TRAIN + "checkpoint: {load: w.ckpt}\n")
    shipped = {item.path for item in made.manifests["npu1"].inputs}
    assert {f"inputs/load/{name}" for name in ("w.ckpt", "config.yaml", "tokenizer.json")} <= shipped


def test_a_preset_file_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("hidden_size: 64\n")
    made = plan(tmp_path, TRAIN.replace("preset: tiny", "preset: ./mine.yaml"))
    assert yaml.safe_load(made.worker_config)["model"]["preset"] == "inputs/preset/mine.yaml"


def test_sync_ships_files_and_folders_by_name(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("pass")
    (tmp_path / "lib/sub").mkdir(parents=True)
    (tmp_path / "lib/sub/a.py").write_text("a")
    made = plan(tmp_path, COMMAND + "sync: [train.py, lib]\n")
    assert [item.path for item in made.manifests["npu1"].inputs] == ["train.py", "lib/sub/a.py"]


def test_sync_of_a_dot_has_the_name_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    made = plan(tmp_path / "jobs", COMMAND + "sync: [.]\n")
    assert {Path(item.path).parts[0] for item in made.manifests["npu1"].inputs} == {"jobs"}


@pytest.mark.parametrize(
    ("sync", "line"),
    [
        ("[logs]", "job.yaml:5: sync[0]: logs is a name the run directory uses (rename it)"),
        (
            "[a/x.py, b/x.py]",
            "job.yaml:5: sync[1]: two files would be x.py on the hosts (rename one of them)",
        ),
    ],
)
def test_what_sync_cannot_ship(tmp_path: Path, sync: str, line: str) -> None:
    for name in ("logs", "a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(name)
    assert lines_of(tmp_path, lambda: plan(tmp_path, COMMAND + f"sync: {sync}\n")) == [line]


def test_a_loopback_master_serves_only_loopback_hosts(tmp_path: Path) -> None:
    listed = "  - {name: a, address: localhost}\n  - {name: b, address: 10.0.0.2}\n"
    hosts = "defaults: {devices: 0-1}\nhosts:\n" + listed
    assert lines_of(tmp_path, lambda: plan(tmp_path, hosts=hosts)) == [
        "hosts.yaml: a: localhost of a is a loopback address, of no use to the other hosts"
        " (give the address at which they reach it)"
    ]
    assert plan(tmp_path, hosts=hosts.replace("10.0.0.2", "127.0.0.2")).world_size == 4


def test_two_launches_in_one_second_have_two_names(tmp_path: Path) -> None:
    names = {plan(tmp_path).run_id for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("cmd-") for name in names)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN)
    write_plan(tmp_path / "plan.json", made)
    assert read_plan(tmp_path / "plan.json") == made
    # A job's environment may hold secrets.
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) == 0o600
