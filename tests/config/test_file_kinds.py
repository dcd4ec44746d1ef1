"""Files in each other's place: a job as inventory, an inventory as job, a run YAML of MindFormers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.file_kinds import kind_of
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_yaml import import_run_yaml
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
JOBS = sorted(ROOT.glob("jobs/*.yaml"))
INVENTORIES = sorted(ROOT.glob("inventory/*.yaml"))
RUN_YAML = ROOT / "tests/config/run_bloom_7.1b.yaml"

OTHERS = {
    "hostfile": "npu01 slots=8\nnpu02 slots=8\n",
    "list": "- npu01\n- npu02\n",
    "ansible": "all: {hosts: {npu01: {slots: 8}}}\n",
    "table": '{"version": "1.0", "server_count": "1", "server_list": [], "status": "completed"}',
}


def refusal(path: Path, read: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(path)  # type: ignore[operator]
    return caught.value.lines()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_in_place_of_an_inventory_is_one_line(path: Path) -> None:
    (line,) = refusal(path, load_inventory)
    assert "is a job and no inventory" in line


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.name)
def test_an_inventory_in_place_of_a_job_is_one_line(path: Path) -> None:
    (line,) = refusal(path, load_job)
    assert "is an inventory and no job" in line
    assert f"-i {path}" in line


@pytest.mark.parametrize("read", [load_job, load_inventory], ids=["job", "inventory"])
def test_a_run_yaml_in_place_of_either_is_told_of_the_import(read: object) -> None:
    (line,) = refusal(RUN_YAML, read)
    assert "is a run YAML of MindFormers" in line
    assert "orchestrate import-mindformers" in line


@pytest.mark.parametrize("path", [JOBS[0], INVENTORIES[0]], ids=["job", "inventory"])
def test_what_is_no_run_yaml_is_not_imported(path: Path) -> None:
    (line,) = refusal(path, import_run_yaml)
    assert "and no run YAML of MindFormers" in line


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_other_lists_of_hosts_in_place_of_a_job_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "given"
    path.write_text(text)
    (line,) = refusal(path, load_job)
    assert "and no job" in line
    assert f"-i {path}" in line


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("name: a\ntask: command\nhosts: [npu01]\n", "job"),
        ("name: a\ndevices_per_host: 8\ncommand: [hostname]\n", "job"),
        ("defaults: {devices: 0-1}\nhosts: ['npu[01-02]']\nname: mine\n", "inventory"),
        ("hosts: [{name: a, devices: 0-1}]\n", "inventory"),
        ("data: npu[01-04]\ntrain: npu[05-12]\n", None),  # a file of node groups
        ("train: {hosts: {npu01: {}}}\ndata: {hosts: {npu02: {}}}\n", "inventory"),  # Ansible's
        ("transport: ssh\nname: a\ntask: command\ndevices_per_host: 8\n", None),  # one key too many: by key
        ("hosts: ['npu01']\n", None),
        ("naem: a\n", None),
    ],
)
def test_what_the_keys_tell(tmp_path: Path, text: str, kind: str | None) -> None:
    path = tmp_path / "given"
    path.write_text(text)
    assert kind_of(read_yaml(path).data) == kind
