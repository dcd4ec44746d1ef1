"""Tables of the server that the command runs on, from tools that answer as an Ascend host's do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.rank_table.live_table import own_address
from orchestrator.rank_table.table import is_loopback
from orchestrator.testing.standin_facts import HostFacts, host_facts
from orchestrator.testing.standin_host import FakeHost


def generate(folder: Path, facts: HostFacts, *words: str) -> subprocess.CompletedProcess[str]:
    host = FakeHost(folder / f"machine{len(list(folder.glob('machine*')))}", facts, folder / "network")
    argv = [sys.executable, "-m", "orchestrator", "rank-table", "generate", "--server-ip", "10.0.0.1", *words]
    env = {**os.environ, "PATH": f"{host.bin}:/usr/bin:/bin"}
    return subprocess.run(argv, capture_output=True, text=True, cwd=folder, env=env)


def test_an_a2_server(tmp_path: Path) -> None:
    done = generate(tmp_path, host_facts(0))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "hccl_8p_01234567_10.0.0.1.json: 1 server(s), 8 device(s)\n"
    server = json.loads((tmp_path / "hccl_8p_01234567_10.0.0.1.json").read_text())["server_list"][0]
    assert [item["device_ip"] for item in server["device"]] == [f"10.20.0.{n}" for n in range(1, 9)]


def test_an_a3_server_gets_a_table_of_version_1_2(tmp_path: Path) -> None:
    done = generate(tmp_path, host_facts(0, "A3"), "-o", "t.json")
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "t.json").read_text())
    assert made["version"] == "1.2" and len(made["server_list"][0]["device"]) == 16
    assert made["super_pod_list"][0]["server_list"] == [{"server_id": "10.0.0.1"}]
    ids = {device["super_device_id"] for device in made["server_list"][0]["device"]}
    assert len(ids) == 16


def test_a_device_without_an_address(tmp_path: Path) -> None:
    facts = host_facts(0).change(3, ip=None)
    done = generate(tmp_path, facts)
    assert done.returncode == 2 and not list(tmp_path.glob("*.json"))
    assert done.stderr.startswith(
        "orchestrate: no address of device 3: no IP address is set (`hccn_tool -i 3 "
    )
    done = generate(tmp_path, facts, "--without-ips", "-o", "t.json")
    assert done.returncode == 0
    devices = json.loads((tmp_path / "t.json").read_text())["server_list"][0]["device"]
    assert devices[0] == {"device_id": "0", "rank_id": "0"}


def test_the_wrong_set_of_a_910a(tmp_path: Path) -> None:
    done = generate(tmp_path, host_facts(0, "910A"), "--devices", "[3,6)")
    assert done.returncode == 2
    assert "has 3 devices; a 910A uses 1, 2, 4 or all 8 [device-count-910a]" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/net/route"), reason="no Linux")
def test_the_own_address_is_never_a_loopback_one() -> None:
    try:
        assert not is_loopback(own_address())
    except Exception as error:
        assert "--server-ip" in str(error)
