"""Inventories: ranges, defaults and groups, and the exact line for each way to get one wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host
from orchestrator.core.codec import from_json, to_json
from tests.config.support import HOSTS, inventory, lines_of

DEFAULTS = "defaults: {devices: 0-1}\n"
WRONG = {
    DEFAULTS: ["1: hosts: is missing"],
    "hosts: []\n": ["1: hosts: is empty (write one `- name:` for each host or range of hosts)"],
    "hosts: npu[1-3]\n": [
        "1: hosts: expected a list, got 'npu[1-3]' (write [a, b] or one `- item` per line)"
    ],
    DEFAULTS + "hosts:\n  - a line of prose\n": [
        "3: hosts[0]: expected a mapping of keys to values, got 'a line of prose'"
    ],
    DEFAULTS + "hosts:\n  - name: a\n    adress: b\nhots: 1\n": [
        "4: hosts[0].adress: unknown key (did you mean `address`?)",
        "5: hots: unknown key (did you mean `hosts`?)",
    ],
    DEFAULTS + "hosts:\n  - {}\n": ["3: hosts[0].name: is missing"],
    DEFAULTS + "hosts:\n  - {name: 7}\n": [
        '3: hosts[0].name: expected a range such as npu[001-012], got 7 (put it in quotes: "7")'
    ],
    DEFAULTS + "hosts:\n  - {name: 'n[]'}\n": ["3: hosts[0].name: expected numbers such as [1-3,7], got []"],
    DEFAULTS + "hosts:\n  - name: n[3-1]\n": ["3: hosts[0].name: 3-1: runs downwards"],
    DEFAULTS + "hosts:\n  - name: ''\n": ["3: hosts[0].name: is empty"],
    DEFAULTS + "hosts:\n  - name: a b\n": [
        "3: hosts[0].name: 'a b' is not a host name (letters, digits and . _ - only, at most 63)"
    ],
    DEFAULTS + "hosts:\n  - name: ../x\n": [
        "3: hosts[0].name: '../x' is not a host name (letters, digits and . _ - only, at most 63)"
    ],
    DEFAULTS + "hosts:\n  - name: 10.0.0.256\n": ["3: hosts[0].name: '10.0.0.256' is not an IP address"],
    DEFAULTS + "hosts:\n  - {name: 'n[1-2]', address: '10.0.0.[255-256]'}\n": [
        "3: hosts[0].address: '10.0.0.256' is not an IP address"
    ],
    DEFAULTS + "hosts:\n  - {name: a, address: root@a}\n": [
        "3: hosts[0].address: 'root@a' is neither an IP address nor a host name (the user goes under `user:`)"
    ],
    DEFAULTS + "hosts:\n  - {name: 'n[1-3]', address: '10.0.0.[1-2]'}\n": [
        "3: hosts[0].address: has 2 address(es) for 3 name(s) (give both ranges the same length)"
    ],
    DEFAULTS + "hosts:\n  - name: n[1-3]\n  - name: n2\n": [
        "4: hosts[1].name: the name is already that of host n2 on line 3",
    ],
    DEFAULTS + "hosts:\n  - {name: true}\n": [
        '3: hosts[0].name: expected a range such as npu[001-012], got true (put it in quotes: "true")'
    ],
    DEFAULTS + "hosts:\n  - {name: all}\n": ["3: hosts[0].name: all means every host (choose another name)"],
    DEFAULTS + "hosts:\n  - {name: a, labels: 5}\n": [
        "3: hosts[0].labels: expected a mapping of keys to values, got 5"
    ],
    DEFAULTS + "hosts:\n  - {name: a, user: '', python: '', workdir: ''}\n": [
        "3: hosts[0].user: is empty",
        "3: hosts[0].python: is empty",
        "3: hosts[0].workdir: is empty",
    ],
    DEFAULTS + "transport: local\nhosts:\n  - {name: 'l[1-2]', workdir: '/w/{x}'}\n": [
        "4: hosts[0].workdir: l2 would share the directory /w/{x} with host l1 on line 4"
    ],
    DEFAULTS + 'hosts:\n  - {name: a, "po\\nrt": 1}\n': [
        "3: hosts[0].po\\nrt: unknown key (did you mean `port`?)"
    ],
    DEFAULTS + "hosts:\n  - name: a\ngroups: {a: a}\n": [
        "4: groups.a: is a host's name too (choose another name)"
    ],
    DEFAULTS + "hosts:\n  - {name: a, address: 10.0.0.1}\n  - {name: b, address: 10.0.0.1, port: 22}\n": [
        "4: hosts[1].address: 10.0.0.1 port 22 is already the address of host a on line 3"
    ],
    DEFAULTS + "transport: local\nhosts:\n  - {name: 'l[1-2]', workdir: /w}\n": [
        "4: hosts[0].workdir: l2 would share the directory /w with host l1 on line 4"
    ],
    "hosts:\n  - name: a\n": [
        "2: hosts[0].devices: is missing (write `devices: 0-7` here or under defaults)"
    ],
    "hosts:\n  - {name: a, devices: []}\n": [
        "2: hosts[0].devices: is empty (give the device ids, such as 0-7)"
    ],
    "hosts:\n  - {name: a, devices: 0-x}\n": [
        "2: hosts[0].devices: expected device ids such as 0-7, got '0-x'"
    ],
    "hosts:\n  - {name: a, devices: true}\n": [
        "2: hosts[0].devices: expected device ids such as 0-7, got true"
    ],
    "hosts:\n  - {name: a, devices: -1}\n": ["2: hosts[0].devices[0].id: must be at least 0, got -1"],
    "hosts:\n  - {name: a, devices: [0, 1, 0]}\n": ["2: hosts[0].devices: device 0 is given twice"],
    "defaults: {devices: '0,0'}\nhosts:\n  - {name: a}\n": ["1: defaults.devices: device 0 is given twice"],
    "hosts:\n  - {name: a, devices: [{id: 0, ip: 1.2.3}]}\n": [
        "2: hosts[0].devices[0].ip: '1.2.3' is not an IP address"
    ],
    DEFAULTS + "hosts:\n  - {name: a, device_ips: '10.1.0.[1-3]'}\n": [
        "3: hosts[0].device_ips: has 3 address(es) for 1 host(s) × 2 device(s)"
        " (give one range over the hosts for each device)"
    ],
    DEFAULTS + "hosts:\n  - {name: a, device_ips: [10.1.0.9, 10.1.0.9]}\n": [
        "3: hosts[0].device_ips: 10.1.0.9 of a device 1 is already a device address of host a on line 3"
    ],
    DEFAULTS + "hosts:\n  - {name: a, key: none.pem}\n": ["3: hosts[0].key: no key file none.pem"],
    "defaults: {devices: 0, key: none.pem}\nhosts: [{name: a}]\n": ["1: defaults.key: no key file none.pem"],
    DEFAULTS + "hosts:\n  - {name: a, port: 70000}\n  - {name: b, port: '22'}\n": [
        "3: hosts[0].port: must be at most 65535, got 70000",
        "4: hosts[1].port: expected a whole number, got '22' (write it without quotes)",
    ],
    HOSTS + "transport: telnet\n": ["5: transport: expected one of ssh, local; got 'telnet'"],
    HOSTS + "ssh: {connect_timeout: 0}\n": ["5: ssh.connect_timeout: must be greater than 0, got 0"],
    HOSTS + "ssh: {accept_new_host_keys: yes}\n": [
        "5: ssh.accept_new_host_keys: expected true or false, got 'yes'"
    ],
    HOSTS + "groups: {a: npu3, b: [npu1, '@none']}\n": [
        "5: groups.a: no host or group 'npu3' (did you mean `npu2`?)",
        "5: groups.b: no host or group '@none' (hosts: npu[1-2])",
    ],
    HOSTS + "groups:\n  a: ['@b']\n  b: ['@a', npu1]\n": [
        "6: groups.a: contains itself",
        "7: groups.b: contains itself",
    ],
    HOSTS + "groups:\n  all: npu1\n  npu1: npu2\n  c: []\n": ["8: groups.c: is empty"],
    HOSTS + "groups:\n  all: npu1\n  npu1: npu2\n  '!c': npu1\n": [
        "6: groups.all: is always all hosts (choose another name)",
        "7: groups.npu1: is a host's name too (choose another name)",
        "8: groups.!c: cannot be a group's name (choose another name)",
    ],
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: WRONG[text][0][:40])
def test_wrong_inventory(tmp_path: Path, text: str) -> None:
    assert lines_of(tmp_path, lambda: inventory(tmp_path, text)) == [
        f"hosts.yaml:{line}" for line in WRONG[text]
    ]


def test_defaults_hold_where_a_host_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("")
    loaded = inventory(
        tmp_path,
        "defaults: {devices: 0-1, user: u, port: 2022, key: id, python: /p, labels: {rack: 1, zone: 010}}\n"
        "hosts:\n  - {name: a, user: v, labels: {rack: 2.50}, devices: [4, {id: 5, ip: 10.0.0.5}]}\n"
        "  - name: b\n",
    )
    a, b = loaded.hosts
    assert (a.user, a.port, a.python, a.labels) == ("v", 2022, "/p", {"rack": "2.50", "zone": "010"})
    assert [(device.id, device.ip) for device in a.devices] == [(4, None), (5, "10.0.0.5")]
    assert (b.user, b.key, b.address) == ("u", str(tmp_path / "id"), "b")
    assert loaded.host("b") == b


def test_what_is_not_said_is_left_to_the_ssh_config(tmp_path: Path) -> None:
    host = inventory(tmp_path).hosts[0]
    assert (host.port, host.user, host.key, host.python) == (None, None, None, "python3")
    assert (host.workdir, host.lock_dir) == ("~/.orchestrate", None)


@pytest.mark.parametrize(
    "ips",
    [
        "'10.1.[0-1].[1-2]'",
        "['10.1.0.[1-2]', '10.1.1.[1-2]', ]".replace("0.[1-2]", "[0-1].1").replace("1.[1-2]", "[0-1].2"),
    ],
    ids=["host by host", "device by device"],
)
def test_device_ips_pair_with_hosts_and_devices(tmp_path: Path, ips: str) -> None:
    loaded = inventory(tmp_path, DEFAULTS + f"hosts:\n  - {{name: 'n[1-2]', device_ips: {ips}}}\n")
    assert [[device.ip for device in host.devices] for host in loaded.hosts] == [
        ["10.1.0.1", "10.1.0.2"],
        ["10.1.1.1", "10.1.1.2"],
    ]


def test_local_hosts(tmp_path: Path) -> None:
    loaded = inventory(
        tmp_path, DEFAULTS + "transport: local\nhosts:\n  - name: a\n  - {name: b, workdir: 'w/{name}'}\n"
    )
    a, b = loaded.hosts
    assert a.address == b.address == "127.0.0.1"
    assert a.workdir == str(Path("~/.orchestrate/a").expanduser())
    assert b.workdir == str(Path("w/b").absolute())
    assert a.python == sys.executable


def test_every_path_on_a_host_may_have_its_name(tmp_path: Path) -> None:
    paths = ("workdir", "lock_dir", "hccn_conf", "env_script", "python")
    lines = "".join(f"  {key}: '/net/{{name}}/{key}'\n" for key in paths)
    loaded = inventory(tmp_path, f"defaults:\n  devices: 0\n{lines}hosts: [{{name: 'n[1-2]'}}]\n")
    for host in loaded.hosts:
        assert [getattr(host, key) for key in paths] == [f"/net/{host.name}/{key}" for key in paths]


def test_paths_of_the_control_node_start_at_the_inventory(tmp_path: Path) -> None:
    loaded = inventory(tmp_path, HOSTS + "ssh: {config_file: cfg, known_hosts: [~/known, /etc/known]}\n")
    assert loaded.ssh.config_file == str(tmp_path / "cfg")
    assert loaded.ssh.known_hosts == (str(Path("~/known").expanduser()), "/etc/known")


SELECT = DEFAULTS + "hosts: [{name: 'npu[1-4]'}]\ngroups: {odd: [npu1, npu3], most: ['@odd', npu4]}\n"


@pytest.mark.parametrize(
    ("expression", "count", "names"),
    [
        ("all", None, "npu[1-4]"),
        ("all", 2, "npu[1-2]"),
        ("odd", None, "npu[1,3]"),
        ("@most", None, "npu[1,3-4]"),
        ("npu[2-3]", None, "npu[2-3]"),
        ("npu4, npu1,npu4", None, "npu[1,4]"),
        (["odd", "npu2"], None, "npu[1-3]"),
        ("all,!npu2", None, "npu[1,3-4]"),
        ("!@odd", None, "npu[2,4]"),
        (("@odd", "!npu1"), 1, "npu3"),
    ],
)
def test_select(tmp_path: Path, expression: str | list[str], count: int | None, names: str) -> None:
    chosen = inventory(tmp_path, SELECT).select(expression, count)
    assert fold(host.name for host in chosen) == names
    assert [host.name for host in chosen] == sorted(host.name for host in chosen)


@pytest.mark.parametrize(
    ("expression", "count", "line"),
    [
        ("npu9", None, "no host or group 'npu9' (did you mean `npu4`?)"),
        ("npu[3-6]", None, "no host or group 'npu5' (and 1 more) (did you mean `npu4`?)"),
        ("@rack", None, "no host or group '@rack' (hosts: npu[1-4]; groups: @all, @odd, @most)"),
        ("odd,!odd", None, "no host is left of 'odd,!odd'"),
        (
            "odd",
            3,
            "3 host(s) are asked for, but 'odd' has 2: npu[1,3]"
            " (lower host_count or add hosts to the inventory)",
        ),
        ("npu[1", None, "host range brackets do not match in 'npu[1'"),
        ("", None, "host range is empty"),
    ],
)
def test_select_refuses(tmp_path: Path, expression: str, count: int | None, line: str) -> None:
    loaded = inventory(tmp_path, SELECT)
    assert lines_of(tmp_path, lambda: loaded.select(expression, count)) == [f"hosts.yaml: {line}"]


def test_a_host_from_code_needs_little() -> None:
    assert Host(name="a").address == "a"
    assert Host(name="a", transport="local").address == "127.0.0.1"
    assert from_json(Host, to_json(Host(name="a"))) == Host(name="a")


def test_no_such_host(tmp_path: Path) -> None:
    loaded = inventory(tmp_path)
    assert lines_of(tmp_path, lambda: loaded.host("x")) == [
        "hosts.yaml: no host 'x' (hosts: npu[1-2]; groups: @all)"
    ]


def test_groups_of_groups_do_not_multiply(tmp_path: Path) -> None:
    rows = "".join(f"  g{i}: [g{i + 1}, g{i + 2}]\n" for i in range(60))
    text = f"{DEFAULTS}hosts:\n  - name: n[1-2]\ngroups:\n{rows}  g60: [n1]\n  g61: [n2, n1]\n"
    assert set(inventory(tmp_path, text).groups["g0"]) == {"n1", "n2"}


def test_the_hosts_name_in_every_path(tmp_path: Path) -> None:
    (tmp_path / "npu1.key").touch()
    (tmp_path / "npu2.key").touch()
    paths = {"workdir": "/w", "lock_dir": "/l", "env_script": "/e", "hccn_conf": "/h", "python": "/p"}
    keys = ", ".join(f"{key}: '{path}/{{name}}'" for key, path in paths.items())
    loaded = inventory(
        tmp_path, f"defaults: {{devices: 0, key: '{{name}}.key', {keys}}}\nhosts: [{{name: 'npu[1-2]'}}]\n"
    )
    for host in loaded.hosts:
        assert {key: getattr(host, key) for key in paths} == {
            key: f"{path}/{host.name}" for key, path in paths.items()
        }
        assert host.key == str(tmp_path / f"{host.name}.key")
    text = "hosts: [{name: 'npu[1-3]', devices: 0, key: '{name}.key'}]\n"
    (line,) = lines_of(tmp_path, lambda: inventory(tmp_path, text))
    assert line == "hosts.yaml:1: hosts[0].key: no key file npu3.key"
