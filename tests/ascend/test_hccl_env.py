"""Values of HCCL's environment variables at and beyond the ends of their ranges."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from orchestrator.ascend.hccl_env import env_faults, host_ports


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HCCL_CONNECT_TIMEOUT": "120"},
        {"HCCL_CONNECT_TIMEOUT": "7200", "HCCL_EXEC_TIMEOUT": "7201"},
        {"HCCL_EXEC_TIMEOUT": "0", "HCCL_CONNECT_TIMEOUT": "600"},
        {"HCCL_IF_BASE_PORT": "1024"},
        {"HCCL_HOST_SOCKET_PORT_RANGE": "60000,60050-60100"},
        {"HCCL_NPU_SOCKET_PORT_RANGE": "auto"},
        {"HCCL_RDMA_TC": "132", "HCCL_RDMA_SL": "7", "HCCL_RDMA_TIMEOUT": "24", "HCCL_RDMA_RETRY_CNT": "1"},
        {"HCCL_SOCKET_IFNAME": "^=eth0,docker"},
        {"HCCL_IF_IP": "fd00::1"},
        {"HCCL_WHITELIST_DISABLE": "0", "HCCL_WHITELIST_FILE": "/a"},
        {"HCCL_INTRA_ROCE_ENABLE": "1", "HCCL_INTRA_PCIE_ENABLE": "0"},
        {"HCCL_DETERMINISTIC": "true", "OTHER": "x"},
        {"HCCL_DETERMINISTIC": "False"},
        {"HCCL_DETERMINISTIC": "STRICT"},
    ],
)
def test_good_values(env: dict[str, str]) -> None:
    assert list(env_faults(env)) == []


@pytest.mark.parametrize(
    ("env", "name", "remedy"),
    [
        ({"HCCL_CONNECT_TIMEOUT": "119"}, "HCCL_CONNECT_TIMEOUT", "120 to 7200"),
        ({"HCCL_CONNECT_TIMEOUT": "10m"}, "HCCL_CONNECT_TIMEOUT", "120 to 7200"),
        ({"HCCL_CONNECT_TIMEOUT": "1836"}, "HCCL_CONNECT_TIMEOUT", "lower it"),
        ({"HCCL_EXEC_TIMEOUT": "-1"}, "HCCL_EXEC_TIMEOUT", "0 to 2147483647"),
        ({"HCCL_IF_BASE_PORT": "65521"}, "HCCL_IF_BASE_PORT", "1024 to 65520"),
        ({"HCCL_BUFFSIZE": "0"}, "HCCL_BUFFSIZE", "set it to 1"),
        ({"HCCL_RDMA_TIMEOUT": "4"}, "HCCL_RDMA_TIMEOUT", "5 to 24"),
        ({"HCCL_RDMA_RETRY_CNT": "8"}, "HCCL_RDMA_RETRY_CNT", "1 to 7"),
        ({"HCCL_RDMA_TC": "130"}, "HCCL_RDMA_TC", "multiple of 4"),
        ({"HCCL_RDMA_SL": "8"}, "HCCL_RDMA_SL", "0 to 7"),
        ({"HCCL_HOST_SOCKET_PORT_RANGE": "1-5,5"}, "HCCL_HOST_SOCKET_PORT_RANGE", "none of them twice"),
        ({"HCCL_NPU_SOCKET_PORT_RANGE": "9-1"}, "HCCL_NPU_SOCKET_PORT_RANGE", "auto"),
        ({"HCCL_SOCKET_IFNAME": "eth0,^lo"}, "HCCL_SOCKET_IFNAME", "=eth0"),
        ({"HCCL_IF_IP": "eth0"}, "HCCL_IF_IP", "own address"),
        ({"HCCL_DETERMINISTIC": "maybe"}, "HCCL_DETERMINISTIC", "true or false or strict"),
        ({"HCCL_DETERMINISTIC": "1"}, "HCCL_DETERMINISTIC", "true or false or strict"),
        ({"HCCL_DETERMINISTIC": ""}, "HCCL_DETERMINISTIC", "true or false or strict"),
        ({"HCCL_WHITELIST_DISABLE": "0"}, "HCCL_WHITELIST_DISABLE", "name the file"),
        ({"HCCL_INTRA_ROCE_ENABLE": "1", "HCCL_INTRA_PCIE_ENABLE": "1"}, "HCCL_INTRA_ROCE_ENABLE", "to 0"),
    ],
)
def test_bad_values(env: dict[str, str], name: str, remedy: str) -> None:
    (fault,) = env_faults(env)
    assert fault.name == name
    assert remedy in fault.remedy


def test_under_mindspore_connecting_may_take_ten_minutes_by_default() -> None:
    """It sets HCCL_CONNECT_TIMEOUT=600 where there is none; HCCL's own default is 120."""
    env = {"HCCL_EXEC_TIMEOUT": "300"}
    assert list(env_faults(env)) == []
    (fault,) = env_faults(env, mindspore=True)
    assert fault.name == "HCCL_CONNECT_TIMEOUT"
    assert fault.what == "is not set, so 600 by MindSpore, which is not below HCCL_EXEC_TIMEOUT 300"
    assert list(env_faults({**env, "HCCL_CONNECT_TIMEOUT": "299"}, mindspore=True)) == []
    assert list(env_faults({"HCCL_EXEC_TIMEOUT": "601"}, mindspore=True)) == []
    (fault,) = env_faults({"HCCL_EXEC_TIMEOUT": "120"})
    assert fault.what == "is not set, so 120 by HCCL, which is not below HCCL_EXEC_TIMEOUT 120"


@pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")
def test_mindspores_default_is_what_its_source_says() -> None:
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None and spec.origin is not None
    (default,) = re.findall(
        r"_hccl_connect_timeout = '(\d+)'", (Path(spec.origin).parent / "context.py").read_text()
    )
    (fault,) = env_faults({"HCCL_EXEC_TIMEOUT": default}, mindspore=True)
    assert f"so {default} by MindSpore" in fault.what


def test_a_910a_has_a_range_of_its_own() -> None:
    env = {"HCCL_EXEC_TIMEOUT": "17341"}
    assert list(env_faults(env)) == []
    (fault,) = env_faults(env, is_910a=True)
    assert fault.remedy == "set it to 1 to 17340"


def test_the_ports_of_a_host() -> None:
    assert (host_ports({})[0], host_ports({})[-1]) == (60000, 60031)
    assert host_ports({"HCCL_IF_BASE_PORT": "50000"})[0] == 50000
    assert host_ports({"HCCL_IF_BASE_PORT": "nonsense"})[0] == 60000
