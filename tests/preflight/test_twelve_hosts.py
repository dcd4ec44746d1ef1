"""The full path on twelve SSH hosts of eight devices: all green, then one device broken in each way."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.preflight.report import Level, Row
from orchestrator.testing.sshd import why_no_sshd
from orchestrator.testing.standin_facts import HostFacts
from tests.preflight.conftest import Twelve

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]
# Without it all hosts of one machine have one name, which a check refuses.
no_root = pytest.mark.skipif(os.geteuid() != 0, reason="host names of their own need root")


def orchestrate(twelve: Twelve, *words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", "XDG_STATE_HOME": str(twelve.cluster.folder / "state")}
    where = [] if words[0] == "stop" else ["-i", str(twelve.inventory.path)]
    argv = [sys.executable, "-m", "orchestrator", *map(str, words), *where]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)


def rank_table_job(folder: Path) -> Path:
    job = {
        "name": "train",
        "task": "command",
        "devices_per_host": 8,
        "command": ["sleep", "1"],
        "networking": {"mode": "rank_table"},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def bad_rows(twelve: Twelve, timeout: float = 10.0) -> list[Row]:
    """What is wrong, apart from names that the hosts share where no root could give them their own."""
    rows = [row for row in twelve.check(timeout).rows() if row.level in (Level.WARN, Level.FAIL)]
    return [row for row in rows if row.check != "host name"]


@pytest.mark.root
@no_root
def test_all_green(twelve: Twelve, tmp_path: Path) -> None:
    done = orchestrate(twelve, "check", "--job", rank_table_job(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    # The stand-ins' addresses are the ssh config's inventions: none of these hosts could listen on its own.
    assert done.stdout.rstrip().endswith("12 hosts: 1 WARN on npu001")
    assert "the scheduler is to listen at 10.100.0.1" in " ".join(done.stdout.split())
    assert "device 0-7: reach all others" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_all_green_without_a_job(twelve: Twelve) -> None:
    assert bad_rows(twelve) == []


def test_dry_run_shows_the_table_of_96_ranks_and_the_hosts_agree(twelve: Twelve, tmp_path: Path) -> None:
    done = orchestrate(twelve, "launch", rank_table_job(tmp_path), "--dry-run", "--discover", "--json")
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)["rank_table"]
    devices = [device for server in table["server_list"] for device in server["device"]]
    assert [device["rank_id"] for device in devices] == [str(rank) for rank in range(96)]
    assert devices[95]["device_ip"] == "10.20.11.8"
    assert [server["server_id"] for server in table["server_list"]] == [f"10.100.0.{n}" for n in range(1, 13)]
    path = tmp_path / "rank_table.json"
    path.write_text(json.dumps(table))
    done = orchestrate(twelve, "rank-table", "validate", path, "--live")
    assert done.returncode == 0, done.stdout + done.stderr
    twelve.become("npu012", twelve.sound("npu012").change(3, ip="10.20.11.99"))
    done = orchestrate(twelve, "rank-table", "validate", path, "--live")
    assert done.returncode == 2
    assert "device 3 of npu012 has 10.20.11.99 now" in done.stdout + done.stderr


def test_dry_run_alone_touches_no_host(twelve: Twelve, tmp_path: Path) -> None:
    done = orchestrate(twelve, "launch", rank_table_job(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "`--dry-run --discover` asks the hosts now and shows it" in done.stdout


# Way: how npu012 changes, the check that finds it, what it says, the remedy, and the device.
Change = Callable[[HostFacts], HostFacts]
WAYS: dict[str, tuple[Change, str, str, str]] = {
    "link down": (
        lambda host: host.change(3, link="DOWN"),
        "link",
        "device 3: link is DOWN",
        "check cable and optics (`hccn_tool -i 3 -optical -g`), then `hccn_tool -i 3 -cfg recovery`",
    ),
    "no IP": (
        lambda host: host.change(3, ip=None),
        "device IP",
        "device 3: no IP address is set",
        "`hccn_tool -i 3 -ip -s address A netmask M` on the host",
    ),
    "the IP of another": (
        lambda host: host.change(3, ip="10.20.4.4"),
        "device IP",
        "device 3: its IP 10.20.4.4 is also that of npu005 device 3",
        "`hccn_tool -i 3 -ip -s address A netmask M` on one of them",
    ),
    "TLS on": (
        lambda host: host.change(3, tls=1),
        "TLS",
        "device 3: TLS is on, most devices have it off",
        "`hccn_tool -i 3 -tls -s enable 0`",
    ),
    "busy": (
        lambda host: host.change(3, process=40512),
        "in use",
        "device 3: in use by process 40512 (python)",
        "end it there (`kill 40512`), or use other devices",
    ),
    "ill": (
        lambda host: host.change(3, health="Alarm", error_code="80E01801"),
        "health",
        "device 3: health is Alarm (80E01801)",
        "look the code up, reset it (`npu-smi set -t reset -i 3 -c 0`), or leave it out",
    ),
    "memory errors": (
        lambda host: host.change(3, ecc_double=2),
        "ECC",
        "device 3: 2 double-bit memory errors",
        "reset the device; if they come back, replace it",
    ),
    "net health": (
        lambda host: host.change(3, net_health="Receive timeout"),
        "net health",
        "device 3: net health is Receive timeout",
        "check the switch port, VLAN, and the netdetect address",
    ),
    "no gateway": (
        lambda host: host.change(3, gateway=None),
        "gateway",
        "device 3: no gateway is set, other devices have one",
        "`hccn_tool -i 3 -gateway -s gateway ADDRESS`, as on the others",
    ),
    "hangs": (
        lambda host: dataclasses.replace(host, faults={"hccn_tool -i 3 -link": "hang"}),
        "link",
        "device 3: hccn_tool -i 3 -link -g gave no answer in time",
        "look for a hung driver (dmesg), or reset the device",
    ),
    "garbage": (
        lambda host: dataclasses.replace(host, faults={"hccn_tool -i 3 -tls": "garbage"}),
        "TLS",
        "device 3: hccn_tool -tls: expected `tls switch[0]` or `[1]`, line 1 is '\\x7fELF",
        "see what `hccn_tool -i 3 -tls -g` says on the host; its driver may have to be installed again",
    ),
    "firmware left behind": (
        lambda host: dataclasses.replace(host, firmware="7.1.0.3.220"),
        "firmware",
        "firmware 7.1.0.3.220, but 7.1.0.7.220 on npu[001-011]",
        "install the same firmware on all hosts",
    ),
    "another chip": (
        lambda host: dataclasses.replace(host, kind="910A"),
        "chip",
        "chip 910A, but 910B on npu[001-011]",
        "give a job hosts of one kind",
    ),
    "CANN that does not fit": (
        lambda host: dataclasses.replace(host, compiler="7.5.0.1.100"),
        "CANN fits",
        "CANN's compiler is 7.5 (8.3.RC1), but MindSpore ",
        "install one of these CANN versions, or the MindSpore that fits",
    ),
    "devices that are numbered anew": (
        lambda host: dataclasses.replace(host, exports={"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,4,5,6,7"}),
        "visible",
        "device 3-7: ASCEND_RT_VISIBLE_DEVICES is '0,1,2,4,5,6,7'; with it CANN shows 7 devices",
        "remove it from the host's env_script or login",
    ),
    "netdetect unset": (
        lambda host: host.change(3, netdetect=None, net_health="Init"),
        "netdetect",
        "device 3: no netdetect address is set",
        "`hccn_tool -i 3 -netdetect -s address GATEWAY`",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_broken_device(twelve: Twelve, way: str) -> None:
    if way == "CANN that does not fit" and importlib.util.find_spec("mindspore") is None:
        pytest.skip("no MindSpore here that would name the versions it takes")
    change, check, text, remedy = WAYS[way]
    twelve.become("npu012", change(twelve.sound("npu012")))
    rows = bad_rows(twelve, timeout=0.5 if way == "hangs" else 10.0)
    found = [row for row in rows if row.check == check and row.hosts == ("npu012",)]
    assert [row.text[: len(text)] for row in found] == [text]
    assert found[0].remedy == remedy
    # Nobody else is accused, except of holding the same address.
    accused = {host for row in rows for host in row.hosts}
    assert accused == ({"npu012", "npu005"} if way == "the IP of another" else {"npu012"})


def test_a_dead_device_is_named_once_not_by_each_that_pings_it(twelve: Twelve) -> None:
    twelve.become("npu004", twelve.sound("npu004").change(6, link="DOWN"))
    pings = [row for row in bad_rows(twelve) if row.check == "ping"]
    assert [(row.hosts, row.text) for row in pings] == [
        (
            ("npu004",),
            "device 6: no ping gets through to or from npu[001-003,005-012]: "
            f"0 of 3 packets came back from {'10.20.3.7' if '10.20.3.7' in pings[0].text else '10.20.0.7'}",
        )
    ]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("half", "npu-smi info: the answer ends in the middle"),
        ("chinese", "npu-smi info: expected a table of NPUs, line 1 is '获取设备信息失败，请检查驱动'"),
        ("root", "npu-smi info: permission denied"),
        ("hang", "npu-smi info gave no answer in time"),
    ],
)
def test_npu_smi_that_fails(twelve: Twelve, fault: str, words: str) -> None:
    sound = twelve.sound("npu002")
    twelve.become("npu002", dataclasses.replace(sound, faults={"npu-smi info": fault}))  # type: ignore[dict-item]
    rows = bad_rows(twelve, timeout=0.5 if fault == "hang" else 10.0)
    assert [(row.check, row.hosts) for row in rows] == [("tools", ("npu002",))]
    assert rows[0].text.startswith(words)


@pytest.mark.parametrize("tool", ["hccn_tool", "npu-smi"])
def test_a_host_that_lacks_a_tool(twelve: Twelve, tool: str) -> None:
    twelve.become("npu007", dataclasses.replace(twelve.sound("npu007"), missing=(tool,)))
    rows = [row for row in bad_rows(twelve) if row.level is Level.FAIL]
    assert [(row.check, row.hosts, row.text) for row in rows] == [
        ("tools", ("npu007",), f"{tool} is not on this host")
    ]


def test_modules_that_cann_should_give(twelve: Twelve) -> None:
    twelve.become("npu012", dataclasses.replace(twelve.sound("npu012"), python=("te",)))
    script = twelve.cluster.hosts["npu012"].env_script
    assert [(row.check, row.hosts, row.text, row.remedy) for row in bad_rows(twelve)] == [
        (
            "CANN Python",
            ("npu012",),
            "the workers' Python finds no hccl and no tbe",
            f"see what {script} does: it may be another package's, or its toolkit is not whole",
        )
    ]


def test_a_host_whose_inventory_forgot_its_env_script(twelve: Twelve, tmp_path: Path) -> None:
    """The job would end in every worker's `init`; a job of another kind may not need it."""
    inventory = yaml.safe_load(twelve.inventory.path.read_text())
    del inventory["hosts"][1]["env_script"]
    path = tmp_path / "servers.yaml"
    path.write_text(yaml.safe_dump({**inventory, "hosts": inventory["hosts"][:2]}))
    argv = [sys.executable, "-m", "orchestrator", "check", "-i", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    checks = {each["check"]: each["results"] for each in json.loads(done.stdout)["checks"]}
    sound, bare = checks["CANN Python"]
    assert (sound["level"], bare["level"]) == ("ok", "warning")
    assert bare["what"].startswith(
        "the workers' Python finds no hccl and no tbe; there is no te; PYTHONPATH is"
    )
    assert "env_script" in bare["remedy"]


def test_all_of_it_at_once_as_a_person_sees_it(twelve: Twelve) -> None:
    twelve.become("npu002", dataclasses.replace(twelve.sound("npu002"), cann="7.0.0"))
    twelve.become("npu003", twelve.sound("npu003").change(0, link="DOWN").change(1, link="DOWN"))
    inventory = yaml.safe_load(twelve.inventory.path.read_text())
    inventory["hosts"].append({"name": "npu013", "address": "127.0.0.1", "port": 1, "devices": "0-7"})
    path = twelve.cluster.folder / "thirteen.yaml"
    path.write_text(yaml.safe_dump(inventory))
    argv = [sys.executable, "-m", "orchestrator", "check", "-i", str(path)]
    env = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    text = " ".join(done.stdout.split())
    assert done.returncode == 4
    assert "npu013 FAIL" in text and text.startswith("ok: write access, ")
    assert "CANN 7.0.0, but CANN 8.3.RC1" not in text
    assert "npu002 FAIL CANN 7.0.0, but 8.3.RC1 on npu[001,003-012]" in text
    assert "npu003 FAIL device 0-1: link is DOWN" in text
    assert "connect npu[001-012] ok" not in text  # what is well has no row; --all shows it
    every = subprocess.run([*argv, "--all"], env=env, capture_output=True, text=True, timeout=300)
    text = " ".join(every.stdout.split())
    assert "connect npu[001-012] ok" in text and "npu[001-002,004-012] ok device 0-7: up" in text


def test_only_unreachable_hosts_is_exit_code_3(twelve: Twelve, tmp_path: Path) -> None:
    inventory = yaml.safe_load(twelve.inventory.path.read_text())
    inventory["hosts"] = [{"name": "npu013", "address": "127.0.0.1", "port": 1, "devices": "0-7"}]
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(inventory))
    argv = [sys.executable, "-m", "orchestrator", "check", "-i", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert data["exit_code"] == 3
    assert [(check["check"], len(check["results"])) for check in data["checks"][:2]] == [
        ("connect", 1),
        ("write access", 0),
    ]
    assert data["checks"][0]["results"][0].items() >= {"host": "npu013", "level": "failed"}.items()


def test_a_launch_makes_the_same_checks_and_places_the_table_of_what_it_found(
    twelve: Twelve, tmp_path: Path
) -> None:
    job = rank_table_job(tmp_path)
    words = ("launch", job, "--set", "host_count=2", "--set", "hosts=npu[010-011]", "--detach")
    twelve.become("npu011", twelve.sound("npu011").change(3, link="DOWN"))
    refused = orchestrate(twelve, *words)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "npu011: device 3: link is DOWN" in refused.stderr
    assert not list(twelve.cluster.folder.glob("hosts/*/runs/*"))
    twelve.become("npu011", twelve.sound("npu011"))
    done = orchestrate(twelve, *words)
    if os.geteuid() != 0:  # both hosts have this machine's name
        assert done.returncode == 4 and "its name is" in done.stderr
        return
    assert done.returncode == 0, done.stdout + done.stderr
    tables = [path.read_text() for path in twelve.cluster.folder.glob("hosts/*/runs/*/rank_table.json")]
    assert len(tables) == 2 and tables[0] == tables[1]
    ips = [
        device["device_ip"] for server in json.loads(tables[0])["server_list"] for device in server["device"]
    ]
    assert ips == [f"10.20.{host}.{number}" for host in (9, 10) for number in range(1, 9)]
    stopped = orchestrate(twelve, "stop")  # its monitor would outlive the hosts
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
