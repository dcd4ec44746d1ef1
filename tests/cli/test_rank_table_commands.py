"""`orchestrate rank-table` as a person types it: what is printed, the exit code, and which files are left."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cli.main import cli
from orchestrator.core.errors import ConfigError, OrchestrateError
from orchestrator.rank_table.merge import device_range
from tests.rank_table.support import super_pod_table, table


@dataclass(frozen=True)
class Done:
    """What one command left behind; `errors` are the lines of the error that main() would print."""

    code: int
    out: list[str]
    warnings: list[str]
    errors: list[str]


def rank_table(*words: object) -> Done:
    result = CliRunner().invoke(cli, ["rank-table", *map(str, words)], standalone_mode=False)
    said = [line.removeprefix("orchestrate: warning: ") for line in result.stderr.splitlines()]
    out = result.stdout.splitlines()
    if isinstance(result.exception, OrchestrateError):
        return Done(result.exception.exit_code, out, said, result.exception.lines())
    if result.exception is not None:
        raise result.exception
    return Done(int(result.return_value or 0), out, said, [])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty working directory."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def conf(server: int, devices: int = 8) -> Path:
    """An /etc/hccn.conf whose device d has 29.1.<server>.<d+1>."""
    path = Path(f"hccn{server}.conf")
    lines = [f"address_{d}=29.1.{server}.{d + 1}\nnetmask_{d}=255.255.0.0\n" for d in range(devices)]
    path.write_text("".join(lines))
    return path


def generate(server: int, *words: object) -> Done:
    return rank_table("generate", "--server-ip", f"10.0.0.{server}", "--hccn-conf", conf(server), *words)


def test_generate_and_merge_give_the_files_of_hccl_tools_and_merge_hccl() -> None:
    """Names, bytes and order of `hccl_tools.py --device_num "[0,8)"` on two servers and `merge_hccl.py`."""
    for server in (1, 2):
        done = generate(server, "--devices", "[0,8)")
        assert done == Done(0, [f"hccl_8p_01234567_10.0.0.{server}.json: 1 server(s), 8 device(s)"], [], [])
        text = Path(f"hccl_8p_01234567_10.0.0.{server}.json").read_text()
        assert text == json.dumps(table(server), indent=4)
    done = rank_table("merge", "hccl_8p_01234567_10.0.0.1.json", "hccl_8p_01234567_10.0.0.2.json")
    assert done.out == ["hccl_2s_16p.json: 2 server(s), 16 device(s)"]
    assert Path("hccl_2s_16p.json").read_text() == json.dumps(table(1, 2), indent=4)


@pytest.mark.parametrize(
    ("words", "ids", "name"),
    [
        (["--devices", "[0,4)"], [0, 1, 2, 3], "hccl_4p_0123_10.0.0.1.json"),
        (["--devices", "[0,8]"], list(range(8)), "hccl_8p_01234567_10.0.0.1.json"),
        (["--devices", "[4, 8)"], [4, 5, 6, 7], "hccl_4p_4567_10.0.0.1.json"),
        (["--devices", "0-7"], list(range(8)), "hccl_8p_01234567_10.0.0.1.json"),
        (["--devices", "2"], [2], "hccl_1p_2_10.0.0.1.json"),
        ([], list(range(8)), "hccl_8p_01234567_10.0.0.1.json"),
        # hccl_tools.py looks the visible ids up among the logical ones, and ends with a KeyError here.
        (["--devices", "[0,2)", "--visible-devices", "4,5,6,7"], [4, 5], "hccl_2p_01_10.0.0.1.json"),
        (["--visible-devices", "4,5,6,7"], [4, 5, 6, 7], "hccl_4p_4567_10.0.0.1.json"),
    ],
)
def test_the_devices_of_a_generated_table(words: list[str], ids: list[int], name: str) -> None:
    assert generate(1, *words).code == 0
    server = json.loads(Path(name).read_text())["server_list"][0]
    assert [(item["device_id"], item["rank_id"], item["device_ip"]) for item in server["device"]] == [
        (str(number), str(rank), f"29.1.1.{number + 1}") for rank, number in enumerate(ids)
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--devices", "[8,0)"], '--devices: [8,0) holds no device (write "[0,8)" or 0-7)'),
        (["--devices", "[3,3)"], '--devices: [3,3) holds no device (write "[0,8)" or 0-7)'),
        (["--devices", "[0,8"], "--devices: expected a range of devices, got '[0,8'"),
        (["--devices", ""], "--devices: expected a range of devices, got ''"),
        (["--devices", "a-b"], "--devices: expected a range of devices, got 'a-b'"),
        (["--devices", "[0,999999)"], "--devices: [0,999999): no server has that many devices"),
        (["--devices", "0,0"], "--devices: 0,0 names a device twice"),
        (
            ["--devices", "8"],
            "no address of device 8: hccn1.conf has none (it has those of 0-7)",
        ),
        (
            ["--devices", "[0,4)", "--visible-devices", "6,7"],
            "--devices: device 3 is asked for, but --visible-devices has only 2",
        ),
        (["--server-ip", "n" * 65], "this server: server_list[0].server_id: the server_id has 65 characters"),
    ],
)
def test_what_generate_refuses(folder: Path, words: list[str], line: str) -> None:
    done = generate(1, *words)
    assert done.code == 2 and done.errors[0].startswith(line)
    assert not list(folder.glob("*.json"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no `address_N=IP` line"),
        ("netmask_0=255.255.0.0\r\n", "holds no `address_N=IP` line"),
        ("address_0=29.1\n", "29.1"),
        ("address_0\n", "is no `key_N=value`"),
    ],
)
def test_an_hccn_conf_that_is_none(folder: Path, text: str, part: str) -> None:
    Path("x.conf").write_text(text)
    done = rank_table("generate", "--server-ip", "10.0.0.1", "--hccn-conf", "x.conf")
    assert done.code == 2 and part in done.errors[0] and done.errors[0].startswith("x.conf: ")
    assert rank_table("generate", "--hccn-conf", "y.conf", "--server-ip", "a").errors == [
        "y.conf: cannot be read: no such file (give the path of an hccn.conf)"
    ]
    assert not list(folder.glob("*.json"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="0123456789[](),- ab", max_size=12) | st.text(max_size=6))
def test_any_text_for_devices(text: str) -> None:
    try:
        found = device_range(text)
    except ConfigError as error:
        (line,) = error.lines()
        assert line.startswith("--devices: ") and line.isprintable()
    else:
        assert found and len(set(found)) == len(found) and all(0 <= number < 1024 for number in found)


def test_windows_line_ends() -> None:
    Path("x.conf").write_bytes(b"address_0=29.1.1.1\r\naddress_1=29.1.1.2\r\n")
    assert rank_table("generate", "--server-ip", "10.0.0.1", "--hccn-conf", "x.conf").code == 0


def test_a_merge_can_be_repeated_with_the_shells_star(folder: Path) -> None:
    for server in (10, 2):
        generate(server)
    for _ in range(2):
        done = rank_table("merge", *sorted(folder.glob("hccl*.json")))
        assert done.code == 0
    assert "an earlier merged table, left out" in done.warnings[0]
    merged = json.loads(Path("hccl_2s_16p.json").read_text())
    assert [server["server_id"] for server in merged["server_list"]] == ["10.0.0.2", "10.0.0.10"]


def test_the_output_is_no_input(folder: Path) -> None:
    generate(1)
    Path("all.json").write_text("{ not yet")
    done = rank_table("merge", "all.json", *folder.glob("hccl*.json"), "-o", folder / "all.json")
    assert done.code == 0 and done.warnings[0].endswith("all.json: is the output, left out of what is merged")


def test_nothing_is_written_when_anything_is_wrong(folder: Path) -> None:
    Path("a.json").write_text(json.dumps(table(1)))
    Path("b.json").write_text(json.dumps(table(1)))
    Path("out.json").write_text("old")
    done = rank_table("merge", "a.json", "b.json", "-o", "out.json")
    assert done.code == 2 and Path("out.json").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json", "out.json"]


def test_a_place_that_cannot_be_written(folder: Path) -> None:
    Path("a.json").write_text(json.dumps(table(1)))
    done = rank_table("merge", "a.json", "-o", "no/such/folder.json")
    (line,) = done.errors
    assert line == "no/such/folder.json: cannot be written: No such file or directory (choose another -o)"


def test_a_name_that_hccl_would_not_open(folder: Path) -> None:
    Path("a.json").write_text(json.dumps(table(1)))
    (line,) = rank_table("merge", "a.json", "-o", "merged.txt").errors
    assert line == "-o merged.txt: does not end in .json, and HCCL opens no other file (rename it)"
    assert not (folder / "merged.txt").exists()


def test_validate_tells_everything_and_goes_on_with_the_next_file() -> None:
    bad = table(1, 2)
    bad["server_count"] = "3"
    bad["server_list"][1]["device"][0]["device_ip"] = "29.1.1.1"
    bad["server_list"][0]["device"][0]["device_ip"] = "29.1.1.1"
    Path("bad.json").write_text(json.dumps(bad))
    Path("good.json").write_text(json.dumps(table(1)))
    Path("torn.json").write_text(json.dumps(table(1))[:100])
    done = rank_table("validate", "bad.json", "good.json", "torn.json", "absent.json")
    assert done.code == 2
    assert done.errors == [
        "bad.json: server_count: is '3', but server_list has 2 server(s) [server-count] (write \"2\")",
        "bad.json: server_list[1].device[0].device_ip: 29.1.1.1 is the address of device 0 of server 10.0.0.1"
        " already (server_list[0].device[0]) [duplicate-device-ip] (each device has its own address: see"
        " `hccn_tool -i N -ip -g` on the server)",
        "torn.json:1:95: ends in the middle: the file is cut off (copy or generate it again)",
        "absent.json: cannot be read: No such file or directory",
    ]
    assert done.out[0].startswith("bad.json: 2 error(s), version 1.0, 2 server(s), 16 device(s)")
    assert done.out[1].startswith("good.json: valid, version 1.0, 1 server(s), 8 device(s), sha256 ")


def test_validate_as_data() -> None:
    bad = table(1, 2)
    bad["status"] = "initializing"
    Path("bad.json").write_text(json.dumps(bad))
    done = rank_table("validate", "--json", "bad.json", "absent.json")
    first, second = json.loads("\n".join(done.out))
    assert done.code == 2 and not first["valid"] and not second["valid"]
    assert first["not_asked"] == []
    assert first["findings"] == [
        {
            "code": "status-not-completed",
            "severity": "error",
            "path": "status",
            "what": "is 'initializing': HCCL waits half an hour for it to be completed",
            "remedy": 'write "completed" once the table is',
            "values": ["initializing"],
        }
    ]


def test_warnings_alone_leave_the_exit_code() -> None:
    odd = table(1, devices=3)
    Path("odd.json").write_text(json.dumps(odd))
    done = rank_table("validate", "odd.json")
    assert done.code == 0 and "[device-count-910a]" in done.warnings[0]
    assert rank_table("validate", "odd.json", "--chip", "910B").warnings == []
    assert rank_table("validate", "odd.json", "--chip", "910A").code == 2


def test_validate_against_an_inventory() -> None:
    Path("t.json").write_text(json.dumps(table(1, 2, devices=2)))
    hosts = "defaults: {devices: 0-1}\nhosts:\n"
    hosts += "  - {name: b, address: 10.0.0.2, device_ips: '29.1.2.[1-2]'}\n"
    hosts += "  - {name: a, address: 10.0.0.1, device_ips: '29.1.1.[1,9]'}\n"
    Path("hosts.yaml").write_text(hosts)
    done = rank_table("validate", "t.json", "-i", "hosts.yaml")
    assert done.errors == [
        "t.json: server_list[0].device[1].device_ip: is 29.1.1.2, but 29.1.1.9 in the inventory"
        " [other-device-ip] (correct one of them)"
    ]
    assert "servers are not in the order of the inventory: a, b" in done.warnings[0]
    Path("hosts.yaml").write_text("hosts:\n  - {name: a, address: 10.0.0.1, devices: 0}\n")
    done = rank_table("validate", "t.json", "-i", "hosts.yaml")
    assert [line.partition(": ")[2] for line in done.errors] == [
        "server_list[0].device[1].device_id: 1 is no device of a in the inventory [not-in-inventory]"
        " (see `devices:`)",
        "server_list[1].server_id: 10.0.0.2 is the address of no host in hosts.yaml [not-in-inventory]"
        " (add the host, or correct its `address:`)",
    ]


def test_a_dry_run_shows_the_table_and_what_may_be_wrong_with_it(folder: Path) -> None:
    entry = "{name: 'n[1-2]', address: '10.0.0.[1-2]', devices: 0-1, device_ips: '192.168.[1-2].[1-2]'}"
    (folder / "hosts.yaml").write_text(f"hosts:\n  - {entry}\n")
    job = "name: j\ntask: command\ncommand: [run]\ndevices_per_host: 2\nnetworking: {mode: rank_table}\n"
    (folder / "job.yaml").write_text(job + "parallel: {model_parallel: 4}\n")
    words = ["launch", "job.yaml", "-i", "hosts.yaml", "--dry-run"]
    out = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False).stdout
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "n2 2-3 0.2.0 0.3.0" in lines
    assert "each model-parallel group spans 2 hosts: they exchange activations over the network" in " ".join(
        lines
    )
    assert "10.0.0.2 2-3 0-1 192.168.2.[1-2]" in lines
    assert "the same command, with MS_ROLE=MS_SCHED" in lines
    assert "192.168.0.0/21 is for the servers' boards [reserved-subnet]" in " ".join(lines)
    data = json.loads(CliRunner().invoke(cli, [*words, "--json"], standalone_mode=False).stdout)
    assert [item["mp"] for item in data["placement"]] == [0, 1, 2, 3]
    assert data["rank_table"]["server_list"][1]["server_id"] == "10.0.0.2"


def test_a_dry_run_of_one_rank_says_what_has_no_effect(folder: Path) -> None:
    (folder / "hosts.yaml").write_text("hosts:\n  - {name: n1, address: 10.0.0.1, devices: 0-1}\n")
    job = "name: j\ntask: command\ncommand: [run]\ndevices_per_host: 1\nnetworking: {mode: rank_table}\n"
    (folder / "job.yaml").write_text(job)
    words = ["launch", "job.yaml", "-i", "hosts.yaml", "--dry-run"]
    out = CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False).stdout
    note = "one rank meets nobody: networking.mode rank_table starts no scheduler and places no table"
    assert f"note: {note} " in f"{' '.join(out.split())} " and "rank_table.json" not in out
    data = json.loads(CliRunner().invoke(cli, [*words, "--json"], standalone_mode=False).stdout)
    assert data["notes"] == [note] and data["rank_table"] is None


def test_show() -> None:
    Path("t.json").write_text(json.dumps(super_pod_table(1, 2)))
    done = rank_table("show", "t.json")
    assert done.out[0] == "t.json: version 1.2, completed, 2 server(s), 8 device(s)"
    assert [line.split() for line in done.out[2:]] == [
        ["SERVER", "SUPER", "POD", "RANKS", "DEVICES", "DEVICE", "IPS"],
        ["10.0.0.1", "0", "0-3", "0-3", "29.1.1.[1-4]"],
        ["10.0.0.2", "0", "4-7", "0-3", "29.1.2.[1-4]"],
    ]
    lines = rank_table("show", "--ranks", "t.json").out
    assert lines[3].split()[:5] == ["0", "10.0.0.1", "0", "0", "29.1.1.1"] and len(lines) == 11
    data = json.loads("\n".join(rank_table("show", "--json", "t.json").out))
    assert data["devices"] == 8 and data["table"]["server_list"][1]["super_pod_id"] == "0"


def test_show_says_that_a_table_is_not_valid() -> None:
    bad = table(1, 2) | {"status": "initializing"}
    Path("t.json").write_text(json.dumps(bad))
    done = rank_table("show", "t.json")
    assert done.code == 0
    assert done.warnings == ["this table has 1 error(s): orchestrate rank-table validate t.json"]


def test_diff() -> None:
    first, second = table(1, 2, 3), table(1, 2)
    second["server_list"][1]["device"][3]["device_ip"] = "29.1.2.44"
    Path("a.json").write_text(json.dumps(first))
    Path("b.json").write_text(json.dumps(second))
    done = rank_table("diff", "a.json", "b.json")
    assert done == Done(
        6,  # 1 means that a run failed, 2 that a table cannot be read
        [
            "table: server_count 3 -> 2",
            "server 10.0.0.2 device 3: device_ip 29.1.2.4 -> 29.1.2.44",
            "server 10.0.0.3: with 8 device(s) only in the first",
        ],
        [],
        [],
    )
    assert len(json.loads("\n".join(rank_table("diff", "--json", "a.json", "b.json").out))) == 3


def test_what_generate_and_merge_made_is_told_as_data() -> None:
    for server in (1, 2):
        made = json.loads("\n".join(generate(server, "--json").out))
        path = Path(f"hccl_8p_01234567_10.0.0.{server}.json")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert made == {"path": str(path), "servers": 1, "devices": 8, "sha256": sha256, "warnings": []}
    Path("all.json").write_text(json.dumps(table(1, 2)))
    done = rank_table("merge", *sorted(Path().glob("*.json")), "--json")
    made = json.loads("\n".join(done.out))
    assert (made["path"], made["servers"], made["devices"]) == ("hccl_2s_16p.json", 2, 16)
    # What was left out is said on stderr, too.
    assert made["warnings"] == done.warnings and "all.json" in made["warnings"][0]
    assert "JSON itself" in generate(1, "-o", "-", "--json").errors[0]


def test_validate_remarks_that_no_device_has_an_address() -> None:
    rank_table("generate", "--devices", "[0,8)", "--without-ips", "--server-ip", "10.0.0.1", "-o", "t.json")
    done = rank_table("validate", "t.json")
    assert done.code == 0
    assert done.out[0].startswith(
        "t.json: valid, version 1.0, 1 server(s), 8 device(s) (none with a device_ip)"
    )
    (data,) = json.loads("\n".join(rank_table("validate", "--json", "t.json").out))
    assert data["without_device_ip"] == 8


def test_tables_that_do_not_differ() -> None:
    Path("a.json").write_text(json.dumps(table(1)))
    Path("b.json").write_text(json.dumps(table(1), indent=4))
    assert rank_table("diff", "a.json", "a.json") == Done(0, ["no difference"], [], [])
    assert rank_table("diff", "a.json", "b.json").out == ["no difference but in the layout of the files"]


def test_super_pods_and_orders_differ() -> None:
    first, second = super_pod_table(1, 2), super_pod_table(2, 1)
    second["super_pod_list"][0]["super_pod_id"] = "7"
    Path("a.json").write_text(json.dumps(first))
    Path("b.json").write_text(json.dumps(second))
    out = rank_table("diff", "a.json", "b.json").out
    assert "table: order of servers 10.0.0.1, 10.0.0.2 -> 10.0.0.2, 10.0.0.1" in out
    assert "super pod 0: servers 10.0.0.1, 10.0.0.2 only in the first" in out


def test_a_table_through_a_pipe() -> None:
    text = json.dumps(table(1))
    done = CliRunner().invoke(cli, ["rank-table", "merge", "-", "-o", "-"], input=text, standalone_mode=False)
    assert json.loads(done.stdout) == table(1)
