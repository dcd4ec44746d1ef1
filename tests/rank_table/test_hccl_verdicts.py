"""Our verdict on rank tables beside that of HCCL's own reader, case by case.

The verdicts of the reader were read in HCOMM (hicann/hcomm, commit 27f73ac), `config.cc`,
`topoinfo_ranktableParser.cc` and `topoinfo_ranktableConcise.cc`; the function of each is named.
`refuses`: the communicator is not made. `takes`: it is. Where we are stricter, the case says why.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import pytest

from orchestrator.config.inventory import Chip
from orchestrator.rank_table.findings import errors_of
from tests.rank_table.support import findings, super_pod_table, table

Damage = Callable[[dict[str, Any]], None]
HCCL = Literal["takes", "refuses"]


class Case(NamedTuple):
    """`stricter` says why we refuse what HCCL's reader takes."""

    what: str
    function: str
    hccl: HCCL
    data: dict[str, Any]
    damage: Damage
    chip: Chip | None = None
    stricter: str = ""


def nothing(data: dict[str, Any]) -> None:
    """The table as it is."""


def at(path: str, value: Any) -> Damage:
    """Sets `server_list.1.host_ip` and the like; None takes the key away."""

    def damage(data: dict[str, Any]) -> None:
        *inner, last = path.split(".")
        holder: Any = data
        for key in inner:
            holder = holder[int(key)] if key.isdigit() else holder[key]
        if value is None:
            del holder[last]
        else:
            holder[last] = value

    return damage


def every(key: str, value: Any) -> Damage:
    """Sets a key of every device, or takes it away."""

    def damage(data: dict[str, Any]) -> None:
        for server in data["server_list"]:
            for device in server["device"]:
                if value is None:
                    device.pop(key, None)
                else:
                    device[key] = value

    return damage


def both(*damages: Damage) -> Damage:
    def damage(data: dict[str, Any]) -> None:
        for each in damages:
            each(data)

    return damage


def host_ips(*addresses: str) -> Damage:
    def damage(data: dict[str, Any]) -> None:
        for server, address in zip(data["server_list"], addresses, strict=False):
            server["host_ip"] = address

    return damage


def without_host_ips(data: dict[str, Any]) -> None:
    for server in data["server_list"]:
        del server["host_ip"]


ONE, TWO = table(1), table(1, 2)
POD, PODS = super_pod_table(1, 2), super_pod_table(1, 2, 3, 4, pods=2)
DEVICE = "server_list.1.device.2"

CASES = [
    Case("a table of two servers", "CfgGetClusterInfo", "takes", TWO, nothing),
    Case("another version", "CfgGetClusterInfo", "refuses", TWO, at("version", "3.0")),
    Case("server_count left out", "GetServerList", "takes", TWO, at("server_count", None)),
    Case("server_count with a zero before it", "GetServerList", "takes", TWO, at("server_count", "02")),
    Case("server_count that is another", "GetServerList", "refuses", TWO, at("server_count", "3")),
    Case("server_count that is empty", "GetServerList", "refuses", TWO, at("server_count", "")),
    Case("server_count as a number", "GetJsonProperty", "refuses", TWO, at("server_count", 2)),
    Case("server_id that is empty", "GetSingleServer", "refuses", TWO, at("server_list.1.server_id", "")),
    Case("server_id of 64 letters", "GetSingleServer", "takes", TWO, at("server_list.1.server_id", "n" * 64)),
    Case(
        "server_id of 22 Chinese letters, which are 66 bytes",
        "GetSingleServer",
        "refuses",
        TWO,
        at("server_list.1.server_id", "节" * 22),
    ),
    Case(
        "two servers of one id",
        "CheckUniqueAndInsertPool",
        "refuses",
        TWO,
        at("server_list.1.server_id", "10.0.0.1"),
    ),
    Case("no device", "GetDeviceList", "refuses", TWO, at("server_list.1.device", [])),
    Case(
        "host_ip of two pods of one node",
        "GetSingleServer",
        "takes",
        TWO,
        host_ips("172.16.0.1", "172.16.0.1"),
    ),
    Case("host_ip that is a name", "ConvertIpAddress", "refuses", TWO, host_ips("npu01", "npu02")),
    Case("host_ip that is empty", "ConvertIpAddress", "refuses", TWO, host_ips("172.16.0.1", "")),
    Case("host_ip of two families", "CheckRankIpFamily", "refuses", TWO, host_ips("172.16.0.1", "fe80::1")),
    Case(
        "net_position host without host_ip",
        "CheckNicDeployConsistence",
        "refuses",
        TWO,
        both(every("net_position", "host"), every("net_protocol", "tcp")),
    ),
    Case(
        "net_position host with host_ip",
        "CheckNicDeployConsistence",
        "takes",
        TWO,
        both(every("net_position", "host"), host_ips("172.16.0.1", "172.16.0.2")),
    ),
    Case("net_position of another word", "GetSingleNicInfo", "takes", TWO, every("net_position", "board")),
    Case("device_id that is no number", "GetSingleDevice", "refuses", TWO, at(f"{DEVICE}.device_id", "x")),
    Case("device_id 8 on a 910A", "GetSingleDevice", "refuses", TWO, at(f"{DEVICE}.device_id", "8"), "910A"),
    Case("device_id 8 on a 910B", "GetSingleDevice", "takes", TWO, at(f"{DEVICE}.device_id", "8"), "910B"),
    Case(
        "device_id 16 on a 910B", "GetSingleDevice", "refuses", TWO, at(f"{DEVICE}.device_id", "16"), "910B"
    ),
    Case("rank_id that is no number", "GetSingleDevice", "refuses", TWO, at(f"{DEVICE}.rank_id", "")),
    Case("rank_id twice", "CheckRankListInfo", "refuses", TWO, at(f"{DEVICE}.rank_id", "0")),
    Case("ranks with a gap", "CheckRankListInfo", "refuses", TWO, at(f"{DEVICE}.rank_id", "99")),
    Case("no device_ip on one server", "GetSingleDeviceIp", "takes", ONE, every("device_ip", None)),
    Case(
        "no device_ip on two servers", "GetSingleDeviceIp", "refuses", TWO, every("device_ip", None), "910B"
    ),
    Case(
        "no device_ip, but host_ip, on a 910B",
        "GetSingleDeviceIp",
        "refuses",
        TWO,
        both(every("device_ip", None), host_ips("172.16.0.1", "172.16.0.2")),
        "910B",
    ),
    Case(
        "no device_ip, but host_ip, on a 910A",
        "GetSingleDeviceIp",
        "takes",
        TWO,
        both(every("device_ip", None), host_ips("172.16.0.1", "172.16.0.2")),
        "910A",
    ),
    Case(
        "no device_ip, and host_ip on the first server alone",
        "CheckNicDeployConsistence",
        "refuses",
        POD,
        both(every("device_ip", None), every("backup_device_ip", None), at("server_list.1.host_ip", None)),
        "910_93",
    ),
    Case(
        "no device_ip within one super pod",
        "GetSingleDeviceIp",
        "takes",
        POD,
        both(every("device_ip", None), every("backup_device_ip", None)),
        "910_93",
    ),
    Case(
        "no device_ip between two super pods",
        "GetSingleDeviceIp",
        "takes",
        PODS,
        both(every("device_ip", None), every("backup_device_ip", None), without_host_ips),
        "910_93",
        stricter="it asks whether there is one super pod before it has counted them; links between need RoCE",
    ),
    Case(
        "no device_ip, but host_ip, between two super pods",
        "GetSingleDeviceIp",
        "takes",
        PODS,
        both(every("device_ip", None), every("backup_device_ip", None)),
        "910_93",
    ),
    Case(
        "device_ip that is none", "CheckUniquePara", "refuses", TWO, at(f"{DEVICE}.device_ip", "29.1.2.300")
    ),
    Case("device_ip 0.0.0.0", "CheckUniquePara", "refuses", TWO, at(f"{DEVICE}.device_ip", "0.0.0.0")),
    Case(
        "device_ip with leading zeros",
        "CheckUniquePara",
        "refuses",
        TWO,
        at(f"{DEVICE}.device_ip", "29.1.2.03"),
    ),
    Case("device_ip with a blank", "CheckUniquePara", "refuses", TWO, at(f"{DEVICE}.device_ip", " 29.1.2.3")),
    Case("device_ip and a comma", "SplitString", "takes", TWO, at(f"{DEVICE}.device_ip", "29.1.2.3,")),
    Case("a comma and device_ip", "SplitString", "refuses", TWO, at(f"{DEVICE}.device_ip", ",29.1.2.3")),
    Case(
        "device_ip twice", "CheckUniqueAndInsertPool", "refuses", TWO, at(f"{DEVICE}.device_ip", "29.1.1.1")
    ),
    Case(
        "two addresses of one device",
        "GetDeviceList",
        "refuses",
        TWO,
        at(f"{DEVICE}.device_ip", "29.1.2.3,29.1.9.3"),
    ),
    Case(
        "two addresses of one device, of the others none",
        "GetDeviceList",
        "refuses",
        ONE,
        both(every("device_ip", None), at("server_list.0.device.2.device_ip", "29.1.2.3,29.1.9.3")),
    ),
    Case(
        "IPv6 with its zone",
        "SetReadableAddress",
        "takes",
        ONE,
        at("server_list.0.device.2.device_ip", "fe80::3%eth2"),
    ),
    Case(
        "an empty zone",
        "SetReadableAddress",
        "refuses",
        ONE,
        at("server_list.0.device.2.device_ip", "fe80::3%"),
    ),
    Case(
        "two families on one server",
        "CfgGetClusterInfo",
        "takes",
        ONE,
        at("server_list.0.device.2.device_ip", "fe80::3"),
    ),
    Case(
        "two families on two servers",
        "CheckRankIpFamily",
        "refuses",
        TWO,
        at(f"{DEVICE}.device_ip", "fe80::3"),
    ),
    Case("device_port 0", "GetSingleDevicePort", "refuses", TWO, at(f"{DEVICE}.device_port", "0")),
    Case("device_port 65536", "GetSingleDevicePort", "refuses", TWO, at(f"{DEVICE}.device_port", "65536")),
    Case("host_port 0", "GetSingleDeviceHostPort", "refuses", TWO, at(f"{DEVICE}.host_port", "0")),
    Case(
        "device_vnic_port 0 alone", "GetSingleDevicePort", "takes", TWO, at(f"{DEVICE}.device_vnic_port", "0")
    ),
    Case(
        "device_vnic_port 0 beside a device_port",
        "GetSingleDevicePort",
        "refuses",
        TWO,
        both(at(f"{DEVICE}.device_port", "16666"), at(f"{DEVICE}.device_vnic_port", "0")),
    ),
    Case(
        "unequal servers, 910A",
        "CheckDeviceNumValid",
        "refuses",
        TWO,
        lambda data: data["server_list"][1]["device"].pop(),
        "910A",
    ),
    Case(
        "unequal servers, 910B",
        "CheckDeviceNumValid",
        "takes",
        TWO,
        lambda data: data["server_list"][1]["device"].pop(),
        "910B",
    ),
    # Version 1.2
    Case("a super pod", "GetSuperPodList", "takes", POD, nothing),
    Case(
        "no super pods, on servers that may be any",
        "GetSuperPodList",
        "takes",
        POD,
        both(at("super_pod_list", None), every("super_device_id", None)),
    ),
    Case(
        "no super pods, on an A3",
        "GetSuperPodList",
        "takes",
        POD,
        at("super_pod_list", None),
        "910_93",
        stricter="HCCL warns, and takes the servers for ones outside super pods, which A3s are not",
    ),
    Case(
        "an empty list of super pods", "GetJsonProperty", "refuses", POD, at("super_pod_list", []), "910_93"
    ),
    Case(
        "an empty list of super pods, 910B", "IsSuperPodMode", "takes", POD, at("super_pod_list", []), "910B"
    ),
    Case("super_device_id left out", "CheckSuperPodInfo", "refuses", POD, every("super_device_id", None)),
    Case(
        "super_device_id left out, 910B",
        "CheckSuperPodInfo",
        "takes",
        POD,
        every("super_device_id", None),
        "910B",
    ),
    Case(
        "super_device_id empty, 910B",
        "GetSingleSuperDeviceId",
        "refuses",
        POD,
        every("super_device_id", ""),
        "910B",
    ),
    Case(
        "super_device_id of 33 bits",
        "SalStrToULong",
        "refuses",
        POD,
        at(f"{DEVICE}.super_device_id", str(2**32)),
    ),
    Case(
        "super_device_id of all ones",
        "CheckSuperPodInfo",
        "refuses",
        POD,
        at(f"{DEVICE}.super_device_id", str(2**32 - 1)),
    ),
    Case(
        "super_device_id twice in a super pod",
        "CheckSuperPodInfo",
        "refuses",
        POD,
        at(f"{DEVICE}.super_device_id", "0"),
    ),
    Case("super_device_id in two super pods", "CheckSuperPodInfo", "takes", PODS, nothing),
    Case("super_pod_id empty", "GetSingleSuperPod", "refuses", PODS, at("super_pod_list.1.super_pod_id", "")),
    Case(
        "super_pod_id twice",
        "CheckUniqueAndInsertPool",
        "refuses",
        PODS,
        at("super_pod_list.1.super_pod_id", "0"),
    ),
    Case(
        "a server that is in none",
        "CheckSuperPodInfo",
        "refuses",
        PODS,
        lambda data: data["super_pod_list"][1]["server_list"].pop(),
    ),
    Case(
        "a server that is not there",
        "GetSingleSuperPodSever",
        "refuses",
        PODS,
        lambda data: data["super_pod_list"][1]["server_list"].append({"server_id": "10.0.0.99"}),
    ),
    Case(
        "backup_device_ip left out", "GetSingleBackupDeviceIp", "takes", POD, every("backup_device_ip", None)
    ),
    Case(
        "backup_device_ip of nobody here",
        "VerifyBackupDeviceIpAndPort",
        "takes",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.9.9.9"),
    ),
    Case(
        "backup_device_ip that is none",
        "GetSingleBackupDeviceIp",
        "refuses",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.9"),
    ),
    Case(
        "backup_device_ip that is none, 910B",
        "GetSingleBackupDeviceIp",
        "takes",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.9"),
        "910B",
    ),
    Case(
        "backup_device_ip of the device itself",
        "VerifyBackupDeviceIpAndPort",
        "refuses",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.1.2.3"),
    ),
    Case(
        "backup_device_ip of another NPU",
        "VerifyBackupDeviceIpAndPort",
        "refuses",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.1.2.1"),
    ),
    Case(
        "two backup addresses",
        "GetSingleBackupDeviceIp",
        "takes",
        POD,
        at(f"{DEVICE}.backup_device_ip", "29.1.2.4,29.9.9.9"),
    ),
    Case(
        "backup_device_port 0",
        "GetSingleBackupDevicePort",
        "refuses",
        POD,
        at(f"{DEVICE}.backup_device_port", "0"),
    ),
    Case(
        "backup_device_port of the other die's port",
        "VerifyBackupDeviceIpAndPort",
        "refuses",
        POD,
        at(f"{DEVICE}.backup_device_port", "16666"),
    ),
    Case("version 1.2 in front of a 950", "legacy/ascend950", "refuses", POD, nothing, "950"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.what}, {case.function}" for case in CASES])
def test_our_verdict_is_that_of_hccls_reader(case: Case) -> None:
    data = deepcopy(case.data)
    case.damage(data)
    refused = [
        f"{found.path}: {found.what} [{found.code}]" for found in errors_of(findings(data, chip=case.chip))
    ]
    wanted = "refuses" if case.stricter else case.hccl
    assert ("refuses" if refused else "takes") == wanted, refused


def test_the_keys_that_hccl_reads_are_none_that_nobody_knows() -> None:
    data = table(1, 2)
    for server in data["server_list"]:
        for device in server["device"]:
            device |= {"net_position": "device", "net_protocol": "rdma"}
            device |= {"device_vnic_port": "16700", "device_port": "16666"}
    assert findings(data) == []
    data["cluster_list"] = [{"cluster_id": "0", "network_type": "ROCE"}]
    assert findings(data) == []
