"""Hostfiles of other launchers, inventories of Ansible and node sets in place of an inventory."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.core.errors import AssumedWarning, ConfigError

EIGHT, TWO = tuple(range(8)), (0, 1)


def load(folder: Path, text: str) -> tuple[Inventory, str]:
    """The inventory, and all that was told of it."""
    path = folder / "hosts"
    path.write_text(text)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = load_inventory(path)
    return loaded, " | ".join(str(each.message) for each in told if each.category is AssumedWarning)


def hosts(loaded: Inventory) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(host.name, host.address, tuple(device.id for device in host.devices)) for host in loaded.hosts]


A, B = ("npu01", "npu01", TWO), ("npu02", "npu02", TWO)


@pytest.mark.parametrize(
    "text",
    [
        "npu01 slots=2\nnpu02 slots=2\n",
        "# DeepSpeed\n\nnpu01 slots=2   # the first\r\nnpu02    slots=2 max_slots=4\n",
        "npu01:2\nnpu02:2\n",
        "npu01:2 ifname=eth0\nnpu02:2\n",
        "npu01:2,npu02:2\n",
        "npu[01-02]:2\n",
        "npu01 2\nnpu02 2\n",
        "npu01\nnpu01\nnpu02\nnpu02\n",
        "npu01 slots=1\nnpu01 slots=1\nnpu02 slots=2\n",
        "npu01: 2\nnpu02: 2\n",
        "[npu]\nnpu[01:02] slots=2\n",
        "all: {children: {npu: {hosts: {npu01: {slots: 2}, npu02: {devices: 0-1}}}}}\n",
        "hosts: ['npu01 slots=2', 'npu02:2']\n",
        "defaults: {devices: 0-1}\nhosts: ['npu[01-02]']\n",
        "npu[01-02/1]:2\n",
    ],
)
def test_names_with_slots_are_hosts_with_devices(tmp_path: Path, text: str) -> None:
    loaded, told = load(tmp_path, text)
    assert hosts(loaded) == [A, B]
    assert "are assumed" not in told


@pytest.mark.parametrize(
    "text",
    [
        "npu01\nnpu02\n",
        "npu[01-02]\n",
        "npu01,npu02",
        "- npu01\n- npu02\n",
        '["npu01", "npu02"]',
        '{"hosts": ["npu01", "npu02"]}',
        "compute: npu[01-02]\n",
        "roles: {compute: npu01, all: 'npu[01-02]'}\n",
        "[all]\nnpu01\nnpu02\n",
        json.dumps({"_meta": {"hostvars": {}}, "npu": {"hosts": ["npu01", "npu02"]}}),
    ],
)
def test_names_alone_are_hosts_of_eight_devices_and_that_is_told(tmp_path: Path, text: str) -> None:
    loaded, told = load(tmp_path, text)
    assert hosts(loaded) == [("npu01", "npu01", EIGHT), ("npu02", "npu02", EIGHT)]
    assert "devices 0-7 are assumed of npu" in told


def test_addresses_users_and_steps(tmp_path: Path) -> None:
    loaded, _ = load(tmp_path, "root@10.0.0.1 slots=2\nfe80::1 slots=1\n10.0.0.3 npu03 npu03.local\n")
    assert hosts(loaded) == [
        ("10.0.0.1", "10.0.0.1", TWO),
        ("fe80--1", "fe80::1", (0,)),
        ("npu03", "10.0.0.3", EIGHT),
    ]
    assert loaded.hosts[0].user == "root"
    loaded, _ = load(tmp_path, "npu[0-4/2]\n")
    assert [host.name for host in loaded.hosts] == ["npu0", "npu2", "npu4"]


INI = """\
# who drives
npu00 ansible_connection=local devices=0-1
[npu]
npu01 ansible_host=10.0.0.1 ansible_user=root ansible_port=2222 rack="b 7"
npu[02:03] ansible_python_interpreter=auto_silent

[spare]
npu09

[cluster:children]
npu
spare

[npu:vars]
ansible_python_interpreter=/usr/bin/python3   ; of the group
ansible_user=work
[all:vars]
ansible_user=nobody
ansible_password=secret
"""


def test_an_inventory_of_ansible(tmp_path: Path) -> None:
    loaded, told = load(tmp_path, INI)
    assert [(host.name, host.address, host.user, host.port, host.transport) for host in loaded.hosts] == [
        ("npu00", "127.0.0.1", "nobody", None, "local"),
        ("npu01", "10.0.0.1", "root", 2222, "ssh"),
        ("npu02", "npu02", "work", None, "ssh"),
        ("npu03", "npu03", "work", None, "ssh"),
        ("npu09", "npu09", "nobody", None, "ssh"),
    ]
    assert loaded.hosts[1].python == "/usr/bin/python3"
    assert loaded.groups["cluster"] == ("npu01", "npu02", "npu03", "npu09")
    assert loaded.groups["npu"] == ("npu01", "npu02", "npu03")
    assert "what is not read of it: ansible_password, rack" in told and "secret" not in told


def test_what_ansible_lists_with_the_variables_of_its_hosts(tmp_path: Path) -> None:
    listed: dict[str, Any] = {
        "_meta": {"hostvars": {"npu01": {"ansible_host": "10.0.0.1", "devices": "0-1"}, "npu02": {}}},
        "all": {"children": ["npu", "ungrouped"]},
        "npu": {"hosts": ["npu01", "npu02"], "vars": {"ansible_user": "root"}},
    }
    loaded, _ = load(tmp_path, json.dumps(listed))
    assert hosts(loaded) == [("npu01", "10.0.0.1", TWO), ("npu02", "npu02", EIGHT)]
    assert {host.user for host in loaded.hosts} == {"root"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("npu01 slots=8\nnpu02 slots=many\n", "hosts:2: is no host: 'many' is no number of devices"),
        ("npu01:2222\n", "is not a mapping of keys to values"),
        ("npu01 slots=8\nnpu02:2222\n", "hosts:2: is no host: '2222' is no number of devices from 1 to 64"),
        ("npu01 slots=60\nnpu01 slots=60\n", "hosts:1: npu01 has more than 64 slots (is it there twice?)"),
        ("npu01 slots=8\nsee the wiki\n", "hosts:2: is no host: 'the' behind a host's name"),
        ("[npu]\nnpu01 ansible_host={{ip}}\n", "hosts:2: ansible_host of npu01 is a template of Ansible's"),
        ("[npu]\nnpu[01:99999999]\n", "names no hosts"),
        ("[npu]\nnpu01 'half\n", "hosts:2: is no host of an Ansible inventory"),
        ("[npu:children]\nother\n", "is an Ansible inventory without hosts"),
        ("npu01 slots=8\nnpu[1-\n", "hosts:2: is no host: brackets do not match"),
        ("a line of prose\n", "is not a mapping of keys to values"),
        ("al: {hosts: 5}\n", "al: unknown key"),
        ("all: {hosts: {n1: null}, vars: [a]}\n", "expected vars of a group, got"),
        ("all: {children: {npu: {hosts: n1}}}\n", "expected hosts of a group, got 'n1'"),
        ("all: {children: {npu: {hosts: {n1: null}, children: other}}}\n", "expected children of a group"),
        ("all: {hosts: {n1: {ansible_port: '²'}}}\n", "port"),
        ("all: {hosts: {n1: {ansible_port: '" + "9" * 5000 + "'}}}\n", "port"),
    ],
    ids=lambda value: None if len(value) < 200 else "long",
)
def test_what_is_refused_is_told_at_its_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert line in " | ".join(caught.value.lines())


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (
            "npu01 slots=2\n",
            "python python3, workdir ~/.orchestrate, no env_script (such as CANN's set_env.sh)",
        ),
        (
            "[npu]\na\nb ansible_python_interpreter=/opt/py\n",
            "python python3 on a, workdir ~/.orchestrate, no",
        ),
        ("[npu]\na ansible_connection=local\n", "python of this command, workdir ~/.orchestrate/{name}, no"),
    ],
    ids=["hostfile", "ansible", "here"],
)
def test_how_workers_will_run_is_told_where_the_file_has_no_word_for_it(
    tmp_path: Path, text: str, taken: str
) -> None:
    _, told = load(tmp_path, text)
    assert f"hosts does not say: {taken}" in told


def test_of_an_inventory_of_ours_nothing_is_told(tmp_path: Path) -> None:
    _, told = load(tmp_path, "hosts: [{name: a, devices: 0-1}]\n")
    assert told == ""
