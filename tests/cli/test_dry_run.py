"""What `launch --dry-run` prints, for people and as data."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.cmd_launch import command
from orchestrator.cli.cmd_plan import command as plan
from tests.plan.test_make_plan import TRAIN

HOSTS = "transport: local\ndefaults: {devices: 0-1}\nhosts: [{name: a}, {name: b}]\n"
COMMAND = "name: c\ntask: command\ndevices_per_host: 2\ncommand: [hostname]\nenv: {OMP_NUM_THREADS: 1}\n"
ROOT = Path(__file__).parents[2]
SECRETS = ("s3cr3t-value", "/s3cr3t/lib", "http://s3cr3t")


def dry_run(folder: Path, text: str, *options: str, hosts: str = HOSTS) -> str:
    (folder / "data.json").write_text('[{"instruction": "a", "output": "b"}]')
    (folder / "hosts.yaml").write_text(hosts)
    (folder / "job.yaml").write_text(text)
    argv = [str(folder / "job.yaml"), "-i", str(folder / "hosts.yaml"), "--dry-run", *options]
    done = CliRunner().invoke(command, argv, standalone_mode=False)
    assert done.return_value == 0, done.exception
    return done.output


@pytest.mark.parametrize("text", [COMMAND, TRAIN], ids=["command", "training"])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_no_value_of_the_jobs_environment_is_printed(
    tmp_path: Path, text: str, options: tuple[str, ...]
) -> None:
    given = f"env: {{MY_OWN: {SECRETS[0]}, PYTHONPATH: {SECRETS[1]}, http_proxy: '{SECRETS[2]}', "
    printed = dry_run(tmp_path, text.replace("env: {", given), *options)
    assert not [secret for secret in SECRETS if secret in printed]
    for name in ("MY_OWN", "http_proxy", "OMP_NUM_THREADS", "PYTHONPATH"):
        assert name in printed  # that they are set is no secret
    if options:
        env = json.loads(printed)["first_worker"]["env"]
        assert (env["MY_OWN"], env["RANK_ID"]) == ("***", "0")


def test_the_lines_of_a_dry_run_fit_a_screen_and_say_how_workers_run(tmp_path: Path) -> None:
    text = TRAIN + "checkpoint: {load: model/" + "w" * 40 + ".ckpt}\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / ("w" * 40 + ".ckpt")).write_text("w")
    (tmp_path / "model" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    lines = dry_run(tmp_path, text).splitlines()
    too_long = [line for line in lines if len(line) > 80 and len(line.split()) > 1]
    assert too_long == []
    told = " ".join(" ".join(lines).split())
    assert f"python {sys.executable}, workdir" in told
    assert "/{name}, env_script none" in told  # the folders of both hosts, in one line
    data = json.loads(dry_run(tmp_path, text, "--json"))
    assert [host["python"] for host in data["hosts"]] == [sys.executable] * 2
    assert data["hosts"][0]["workdir"].endswith("/a") and data["hosts"][0]["env_script"] is None


def test_hosts_whose_paths_differ_in_their_names_alone_share_a_line(tmp_path: Path) -> None:
    """The twelve stand-in servers had a line of three screen lines each, before anything else."""
    hosts = (
        "defaults: {devices: 0-1, python: '/opt/{name}/python', workdir: '/data/{name}', "
        "env_script: '/opt/{name}/set_env.sh'}\nhosts: [{name: 'n[01-12]', address: '10.0.0.[1-12]'}]\n"
    )
    told = " ".join(dry_run(tmp_path, COMMAND, hosts=hosts).split())
    assert "python /opt/{name}/python, workdir /data/{name}, env_script /opt/{name}/set_env.sh" in told
    assert told.count("workdir") == 1
    one = dry_run(tmp_path, COMMAND + "host_count: 1\n", hosts=hosts)
    assert "2 ranks on 1 host\n" in one


def test_a_long_command_is_one_that_a_shell_takes(tmp_path: Path) -> None:
    words = [f"--option-{number}={'x' * 20} y" for number in range(9)]
    text = COMMAND.replace("[hostname]", json.dumps(["{python}", "-m", "json.tool", *words]))
    printed = dry_run(tmp_path, text)
    begin = printed.index("'{python}'")
    command = printed[begin : printed.index("\n  DEVICE_ID")]
    assert all(len(line) <= 80 for line in command.splitlines())
    assert shlex.split(command.replace("\\\n", "")) == ["{python}", "-m", "json.tool", *words]


@pytest.mark.parametrize("name", ["finetune_65b", "pretrain_176b", "finetune_7.1b", "predict_7.1b"])
def test_the_lines_of_a_plan_fit_a_screen(name: str) -> None:
    words = [
        str(ROOT / "jobs" / f"{name}.yaml"),
        "--hbm",
        "32GB",
        *(["--suggest"] if name == "finetune_65b" else []),
    ]
    done = CliRunner().invoke(plan, words, standalone_mode=False, env={"COLUMNS": "80"})
    assert max(map(len, done.stdout.rstrip().splitlines())) <= 80, done.stdout
    assert "HCCL's buffers" in done.stdout


CONTAINERS = """\
defaults: {devices: 0-1, hccn_conf: /etc/my.conf, python: /opt/py}
hosts:
  - name: a
    address: 10.0.0.1
    container: {image: "mf:1", mounts: ["/sets/a:/data:ro"], options: [--shm-size=1g]}
  - name: b
    address: 10.0.0.2
    container: {image: "mf:1", mounts: ["/sets/b:/data:ro"], options: [--shm-size=1g]}
  - {name: c, address: 10.0.0.3, container: {image: "mf:2", runtime: podman, python: /opt/conda/python}}
  - {name: d, address: 10.0.0.4}
"""
ON_NPUS = COMMAND + "device_target: Ascend\nnetworking: {mode: none}\n"


def test_what_a_container_has_is_told_of_all_hosts(tmp_path: Path) -> None:
    lines = dry_run(tmp_path, ON_NPUS, hosts=CONTAINERS).splitlines()
    assert max(len(line) for line in lines if len(line.split()) > 2) <= 80
    told = " ".join(" ".join(lines).split())
    assert "a,b: python3 in a container of mf:1 (docker), agent by /opt/py, workdir" in told
    assert "c: /opt/conda/python in a container of mf:2 (podman), agent by /opt/py" in told
    assert "d: python /opt/py, workdir" in told
    first, second = told.split("container of each worker on ")[1:]
    assert first.startswith(
        "a,b image mf:1 runtime docker, Python python3 mounts the run directory, /sets/{name}:/data:ro "
        "driver /usr/local/Ascend/driver, "
    )
    assert (
        ", /etc/my.conf:/etc/hccn.conf (read-only, those that the host has) devices each worker's own"
        in first
    )
    assert "/dev/davinci_manager, /dev/devmm_svm, /dev/hisi_hdc options --shm-size=1g" in first
    assert second.startswith(
        "c image mf:2 runtime podman, Python /opt/conda/python mounts the run directory driver"
    )
    assert "options none of its own" in second


def test_what_a_container_has_is_data_too(tmp_path: Path) -> None:
    a, _, c, d = json.loads(dry_run(tmp_path, ON_NPUS, "--json", hosts=CONTAINERS))["hosts"]
    assert a["container"]["runtime"] == "docker" and a["container"]["python"] == "python3"
    assert a["container"]["devices"][:3] == ["/dev/davinci0", "/dev/davinci1", "/dev/davinci_manager"]
    assert "/etc/my.conf:/etc/hccn.conf:ro" in a["container"]["driver_mounts"]
    assert c["container"]["runtime"] == "podman" and "container" not in d
    a = json.loads(dry_run(tmp_path, COMMAND + "hosts: a\n", "--json", hosts=CONTAINERS))["hosts"][0]
    assert a["container"]["devices"] == a["container"]["driver_mounts"] == []


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    "line",
    ['"hub_token": {}', "a: {{hub_token: {}}}", "hub_token:\n  {}", "a: &t {}\nhub_token: *t"],
)
def test_no_secret_of_a_run_yaml_is_printed(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    said = line.format(SECRETS[0])
    text = f"trainer: {{type: x}}\nmodel: {{}}\n{said}\noutput_dir: ./output\nlog: {SECRETS[0]}\n"
    (tmp_path / "run.yaml").write_text(text)
    job = "name: m\ntask: mindformers\ndevices_per_host: 2\ndevice_target: CPU\n"
    shown = dry_run(tmp_path, job + "mindformers: {config: run.yaml}\n", *options)
    assert SECRETS[0] not in shown and "-output_dir: ./output" in shown and "***" in shown
