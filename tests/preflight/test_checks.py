"""Facts of hosts in, findings out: one check, one test."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.ascend.discovery import find_devices
from orchestrator.ascend.tool_answers import ToolAnswer, ToolAnswers, smi
from orchestrator.cli.render_report import print_report, report_data
from orchestrator.config.inventory import Device, Host
from orchestrator.core.codec import from_json
from orchestrator.core.errors import ConnectError, HostKeyError, HostsFailed, OrchestrateError, PreflightError
from orchestrator.core.host_answers import Probe
from orchestrator.preflight.checks import CHECKS, run_checks
from orchestrator.preflight.host_facts import HostFacts, Needs
from orchestrator.preflight.pings import targets
from orchestrator.preflight.report import Level, Report, device_list
from orchestrator.testing.standin_facts import HostFacts as Machine
from orchestrator.testing.standin_facts import Kind, host_facts
from orchestrator.testing.standin_tools import answers, hccn_conf

A, B, C = (Host(name=name, env_script="/opt/env.sh", devices=(Device(id=0), Device(id=1))) for name in "abc")
NEEDS = Needs(hosts=(A, B), packages=("mindspore",), shipped_bytes=1 << 20, paths=("/data",))
ASCEND = Needs(hosts=(A, B, C), ascend=True, devices=dict.fromkeys("abc", (0, 1)))


def probe(**changes: Any) -> Probe:
    """What the agent of a sound host tells."""
    said = {
        "hostname": "node",
        "workdir": "/w",
        "executable": "/usr/bin/python3",
        "python": "3.9.9",
        "writable": True,
        "locks_writable": True,
        "free_bytes": 1 << 30,
        "shm_free_bytes": 1 << 30,
        "memory_free_bytes": 8 << 30,
        "limits": {"open files": 65535, "processes": None},
        "busy_devices": [],
        "env_script_exists": True,
        "packages": {"mindspore": "2.10.0"},
        "missing_paths": [],
        "taken_ports": [],
        "environment": {},
        "environment_trouble": "",
        "ascend": None,
        "pid": 7,
        "clock": 1e9,
        **changes,
    }
    return from_json(Probe, said)


def cann(**changes: Any) -> dict[str, Any]:
    """What the agent of a sound Ascend host tells of its CANN, and of MindSpore 2.10."""
    modules = {"hccl.sys_version": "hccl/sys_version.py", "te": "te/__init__.py", "tbe": "tbe/__init__.py"}
    return {
        "modules": {name: f"/cann/python/site-packages/{file}" for name, file in modules.items()},
        "variables": {
            "PYTHONPATH": "/cann/python/site-packages:/cann/opp/built-in/op_impl/ai_core/tbe:",
            "LD_LIBRARY_PATH": "/cann/lib64:",
            "ASCEND_OPP_PATH": "/cann/opp",
        },
        "opp_kernel": False,
        "set_env": "/cann/set_env.sh",
        "asked": {"versions": ["8.2", "8.3", "8.5", "9.0", "9.1"], "opp_kernel": False},
        "compiler": {"version": "8.3.0.1.200", "release": "8.3.RC1", "path": "/cann/compiler/version.info"},
        **changes,
    }


def machine(index: int, **changes: Any) -> HostFacts:
    """An Ascend host of two devices, from the stand-ins' own answers."""
    return facts_of(dataclasses.replace(host_facts(index, count=2), **changes))


def facts_of(facts: Machine, **probed: Any) -> HostFacts:
    told = {
        tuple(call.split()): ToolAnswer(tuple(call.split()), text.text, text.exit_code)
        for call, text in answers(facts)
    }
    gone = {call: ToolAnswer(call, failure="missing") for call in told if call[0] in facts.missing}
    tools = ToolAnswers({**told, **gone}, ToolAnswer(("/etc/hccn.conf",), hccn_conf(facts)))
    found = find_devices(Host(name=facts.name), [device.id for device in facts.devices], tools)
    said = {"hostname": facts.name, "cann": facts.cann, "ascend": cann(), **probed}
    return HostFacts(probe(**said), tools=tools, found=found)


def bad(needs: Needs, **hosts: HostFacts) -> list[tuple[str, str, Level, str]]:
    """Check, host, level, text of everything that is wrong."""
    return [
        (check, result.host, result.level, result.text)
        for check, results in run_checks(needs, hosts, {}).results
        for result in results
        if result.level in (Level.WARN, Level.FAIL)
    ]


def report(needs: Needs, errors: dict[str, OrchestrateError] | None = None, **hosts: HostFacts) -> Report:
    return run_checks(needs, hosts, errors or {})


def test_fit_hosts_pass() -> None:
    assert bad(NEEDS, a=HostFacts(probe()), b=HostFacts(probe())) == []
    assert bad(ASCEND, a=machine(0), b=machine(1), c=machine(2)) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"writable": False}, "a: no write access to /w (set another `workdir:`)"),
        (
            {"free_bytes": 65 << 20},
            "a: no space: 65 MiB free in /w, 66 MiB needed (free space there, or set another `workdir:`)",
        ),
        ({"busy_devices": [0, 3]}, "a: device 0, 3: in use by another run (see `orchestrate runs`)"),
        ({"env_script_exists": False}, "a: env_script /opt/env.sh does not exist (mend the inventory)"),
        (
            {"packages": {"mindspore": None}},
            "a: mindspore is not installed for /usr/bin/python3"
            " (install it there (`/usr/bin/python3 -m pip install mindspore`) or set `python:`)",
        ),
        (
            {"missing_paths": ["/data/x.json"]},
            "a: /data/x.json does not exist"
            " (put it there, or give a path relative to the job file to have it shipped)",
        ),
        (
            {"taken_ports": [8118]},
            "a: port 8118 is in use (stop what listens there (ss -ltnp), or choose others: networking.port,"
            " HCCL_IF_BASE_PORT)",
        ),
    ],
    ids=["write", "space", "device", "env_script", "package", "path", "port"],
)
def test_an_unfit_host(changes: dict[str, Any], line: str) -> None:
    found = report(NEEDS, a=HostFacts(probe(**changes)), b=HostFacts(probe()))
    with pytest.raises(PreflightError) as caught:
        found.raise_on_failure()
    assert caught.value.lines() == [line]
    assert caught.value.exit_code == found.exit_code == 4


def test_memory_holds_what_saves_copy() -> None:
    needs = dataclasses.replace(NEEDS, snapshot_bytes=9 << 30)
    little, much = HostFacts(probe()), HostFacts(probe(memory_free_bytes=10 << 30))
    what = "8.0 GiB of memory free, copies of the shards take up to 9.0 GiB (checkpoint.async)"
    assert bad(needs, a=little, b=much) == [("memory", "a", Level.FAIL, what)]
    # A host that does not tell, as one of an earlier agent, is not judged; nor is a job that copies nothing.
    assert bad(needs, a=HostFacts(probe(memory_free_bytes=None)), b=much) == []
    assert not [row for row in report(NEEDS, a=little, b=much).rows() if row.check == "memory"]


@pytest.mark.parametrize(
    ("changes", "ahead", "text"),
    [
        ({"shm_free_bytes": 64 << 20}, 0.0, "64 MiB free in /dev/shm, data loaders need more"),
        ({"shm_free_bytes": None}, 0.0, "there is no /dev/shm"),
        (
            {"limits": {"open files": 256}},
            0.0,
            "the limit of open files is 256, 1024 is the least that works",
        ),
        ({}, 3.25, "its clock is 3.2 s ahead of this machine's"),
        ({}, -7200.0, "its clock is 2.0 h behind this machine's"),
    ],
)
def test_a_warning_keeps_nobody_from_launching(changes: dict[str, Any], ahead: float, text: str) -> None:
    found = report(NEEDS, a=HostFacts(probe(**changes), ahead), b=HostFacts(probe(), 0.5))
    assert found.warnings() == [f"a: {text}"]
    found.raise_on_failure()
    assert found.exit_code == 0


def test_most_hosts_decide_which_version_is_meant() -> None:
    old = {"mindspore": "2.9.0"}
    three = dataclasses.replace(NEEDS, hosts=(A, B, C))
    found = bad(three, a=HostFacts(probe(packages=old)), b=HostFacts(probe()), c=HostFacts(probe()))
    assert found == [("packages", "a", Level.FAIL, "mindspore 2.9.0, but 2.10.0 on b,c")]
    # The first host wins a tie.
    found = bad(NEEDS, a=HostFacts(probe()), b=HostFacts(probe(packages=old)))
    assert found == [("packages", "b", Level.FAIL, "mindspore 2.9.0, but 2.10.0 on a")]


def test_mindformers_is_there_on_every_host_in_one_version() -> None:
    needs = Needs((A, B, C), packages=("mindspore", "mindformers"))

    def having(version: str | None) -> HostFacts:
        return HostFacts(probe(packages={"mindspore": "2.10.0", "mindformers": version}))

    assert bad(needs, a=having("1.9.0"), b=having("1.9.0"), c=having("1.9.0")) == []
    [(_, host, level, what)] = bad(needs, a=having("1.9.0"), b=having(None), c=having("1.9.0"))
    assert (host, level) == ("b", Level.FAIL) and what.startswith("mindformers is not installed for ")
    found = bad(needs, a=having("1.9.0"), b=having("1.8.0"), c=having("1.9.0"))
    assert found == [("packages", "b", Level.FAIL, "mindformers 1.8.0, but 1.9.0 on a,c")]


def test_python_must_be_the_same() -> None:
    found = bad(NEEDS, a=HostFacts(probe()), b=HostFacts(probe(python="3.8.1")))
    assert found == [("python", "b", Level.FAIL, "Python 3.8.1, but 3.9.9 on a")]


def test_all_findings_of_a_host_are_on_its_line() -> None:
    unfit = HostFacts(probe(writable=False, missing_paths=["/x", "/y"]))
    with pytest.raises(PreflightError) as caught:
        report(NEEDS, a=unfit, b=HostFacts(probe())).raise_on_failure()
    assert caught.value.lines() == [
        "a: no write access to /w; /x does not exist; /y does not exist (set another `workdir:`;"
        " put it there, or give a path relative to the job file to have it shipped)"
    ]


def test_hosts_with_one_trouble_share_a_line() -> None:
    unfit = HostFacts(probe(writable=False))
    found = report(NEEDS, a=unfit, b=unfit)
    with pytest.raises(HostsFailed) as caught:
        found.raise_on_failure()
    assert caught.value.lines() == ["a, b: no write access to /w (set another `workdir:`)"]
    assert [row.hosts for row in found.rows() if row.level is Level.FAIL] == [("a", "b")]


def test_a_host_that_does_not_answer_is_one_row() -> None:
    errors: dict[str, OrchestrateError] = {
        "b": ConnectError("connection refused", where="b", remedy="start sshd")
    }
    found = report(NEEDS, errors, a=HostFacts(probe()))
    rows = [row for row in found.rows() if "b" in row.hosts]
    assert [(row.check, row.level, row.text, row.remedy) for row in rows] == [
        ("connect", Level.FAIL, "connection refused", "start sshd")
    ]
    assert found.exit_code == 3
    with pytest.raises(ConnectError):
        found.raise_on_failure()


def test_nobody_answers() -> None:
    errors: dict[str, OrchestrateError] = {"a": ConnectError("refused", where="a")}
    assert report(NEEDS, errors).exit_code == 3


def test_a_command_needs_no_package() -> None:
    assert bad(Needs((A, B)), a=HostFacts(probe(packages={})), b=HostFacts(probe(packages={}))) == []


def test_without_tools_devices_are_skipped_and_said_so() -> None:
    needs = dataclasses.replace(NEEDS, ascend=None, has_job=False)
    rows = [row for row in report(needs, a=HostFacts(probe())).rows() if row.check == "link"]
    assert [(row.level, row.text) for row in rows] == [(Level.SKIP, "no Ascend tools there")]


def test_a_job_that_needs_a_rank_table_fails_without_tools_and_addresses() -> None:
    gone = {"missing": ("hccn_tool", "npu-smi")}
    found = bad(ASCEND, a=machine(0, **gone), b=machine(1, **gone))
    # hccn.conf still names the addresses: nothing is proven, and nothing keeps the job from running.
    assert {level for check, _, level, _ in found if check == "tools"} == {Level.WARN}
    bare = [dataclasses.replace(machine(index, **gone)) for index in (0, 1)]
    bare = [
        dataclasses.replace(
            each, found=find_devices(A, (0, 1), ToolAnswers({}, ToolAnswer(("x",), failure="missing")))
        )
        for each in bare
    ]
    found = bad(ASCEND, a=bare[0], b=bare[1])
    assert {level for check, _, level, _ in found if check in ("tools", "device IP")} == {Level.FAIL}


def test_a_device_that_is_not_there() -> None:
    needs = dataclasses.replace(ASCEND, devices={"a": (0, 9), "b": (0, 1)})
    found = bad(needs, a=machine(0), b=machine(1))
    assert ("tools", "a", Level.FAIL, "device 9: npu-smi lists only 0-1") in found


def test_the_ill_and_the_warning() -> None:
    ill = facts_of(host_facts(0, count=2).change(0, health="Warning").change(1, health="Critical"))
    found = [each for each in bad(ASCEND, a=ill, b=machine(1)) if each[0] == "health"]
    assert found == [
        ("health", "a", Level.WARN, "device 0: health is Warning"),
        ("health", "a", Level.FAIL, "device 1: health is Critical"),
    ]


def test_pages_out_of_use_are_a_warning() -> None:
    worn = facts_of(host_facts(0, count=2).change(1, ecc_isolated=4))
    assert bad(ASCEND, a=worn, b=machine(1)) == [
        ("ECC", "a", Level.WARN, "device 1: 4 memory pages are out of use")
    ]


def test_cann_driver_and_firmware_must_be_the_same() -> None:
    odd = machine(2, cann="7.0.0", driver="22.0.0", firmware="6.3.0")
    assert [each[1:] for each in bad(ASCEND, a=machine(0), b=machine(1), c=odd)] == [
        ("c", Level.FAIL, "CANN 7.0.0, but 8.3.RC1 on a,b"),
        ("c", Level.FAIL, "driver 22.0.0, but 23.0.5 on a,b"),
        ("c", Level.FAIL, "firmware 6.3.0, but 7.1.0.7.220 on a,b"),
    ]


def test_firmware_that_differs_within_a_host() -> None:
    odd = machine(0)
    assert odd.tools is not None
    call = smi("-i", 1, "-t", "board")
    text = odd.tools[call].text.replace("7.1.0.7.220", "6.3.0")
    mixed = dataclasses.replace(
        odd, tools=odd.tools | ToolAnswers({call: ToolAnswer(call, text)}, odd.tools.conf)
    )
    found = [each for each in bad(ASCEND, a=mixed, b=machine(1)) if each[0] == "firmware"]
    assert [each[3] for each in found if each[2] is Level.FAIL] == [
        "device 1: firmware 6.3.0, but 7.1.0.7.220 on the others"
    ]


def test_one_name_for_two_hosts_and_a_name_that_is_loopback() -> None:
    first, second = machine(0), machine(1)
    same = dataclasses.replace(second, probe=dataclasses.replace(second.probe, hostname="npu001"))
    assert bad(ASCEND, a=first, b=same) == [
        ("host name", "a", Level.FAIL, "its name is npu001, as that of b"),
        ("host name", "b", Level.FAIL, "its name is npu001, as that of a"),
    ]
    loop = dataclasses.replace(
        second, probe=dataclasses.replace(second.probe, resolves_to=("127.0.1.1", "::1%lo"))
    )
    assert bad(ASCEND, a=first, b=loop) == [
        ("host name", "b", Level.WARN, "its name npu002 means 127.0.1.1 there")
    ]


def test_variables_of_the_host_and_of_the_job() -> None:
    odd = facts_of(host_facts(0, count=2), environment={"HCCL_CONNECT_TIMEOUT": "60", "HCCL_BUFFSIZE": "0"})
    needs = dataclasses.replace(ASCEND, env={"HCCL_BUFFSIZE": "200"})
    assert bad(needs, a=odd, b=machine(1)) == [
        ("environment", "a", Level.FAIL, "HCCL_CONNECT_TIMEOUT is '60'"),
        ("environment", "a", Level.FAIL, "HCCL_BUFFSIZE is '0'"),
        ("environment", "a", Level.WARN, "HCCL_BUFFSIZE is '0' by env_script, not '200' as the job says"),
    ]


def test_tls_of_the_majority_is_meant() -> None:
    on = facts_of(host_facts(0, count=2).change(0, tls=1).change(1, tls=1))
    on2 = facts_of(host_facts(1, count=2).change(0, tls=1).change(1, tls=1))
    assert bad(ASCEND, a=on, b=on2, c=machine(2)) == [
        ("TLS", "c", Level.FAIL, "device 0-1: TLS is off, most devices have it on")
    ]


def test_no_gateway_anywhere_is_one_flat_segment() -> None:
    hosts = [host_facts(index, count=2) for index in (0, 1)]
    flat = [facts_of(host.change(0, gateway=None).change(1, gateway=None)) for host in hosts]
    assert bad(ASCEND, a=flat[0], b=flat[1]) == []


def test_sources_that_disagree_are_a_warning() -> None:
    facts = machine(0)
    assert facts.tools is not None
    conf = ToolAnswer(("/etc/hccn.conf",), "address_0=10.20.9.9\n")
    found = find_devices(A, (0, 1), ToolAnswers({}, conf) | facts.tools)
    odd = dataclasses.replace(facts, found=dataclasses.replace(found, host="a"))
    (row,) = bad(ASCEND, a=odd, b=machine(1))
    assert row[:3] == ("device IP", "a", Level.WARN)
    assert "device 0 is 10.20.0.1 by hccn_tool, but 10.20.9.9 by /etc/hccn.conf" in row[3]


def test_no_address_is_a_failure_for_many_hosts_and_a_warning_for_one() -> None:
    unset = host_facts(0, count=2).change(1, ip=None)
    assert ("device IP", "a", Level.FAIL, "device 1: no IP address is set") in bad(
        ASCEND, a=facts_of(unset), b=machine(1)
    )


def uncabled(index: int, kind: Kind = "910B", **changes: Any) -> HostFacts:
    """A server whose RoCE ports were never cabled nor given addresses."""
    host = dataclasses.replace(host_facts(index, kind, count=2), **changes)
    bare = {"ip": None, "link": "DOWN", "net_health": "Init", "netdetect": None, "gateway": None}
    for device in (0, 1):
        host = host.change(device, **bare)
    return facts_of(host)


NETWORK_CHECKS = ("device IP", "link", "net health", "netdetect", "gateway")


def rows_of(found: Report, *checks: str) -> set[tuple[Level, str]]:
    return {(row.level, row.text) for row in found.rows() if row.check in checks}


@pytest.mark.parametrize("chip", ["910A", "910B", "A3"])
def test_a_job_within_one_host_needs_no_roce(chip: Kind) -> None:
    one = Needs(hosts=(A,), ascend=True, devices={"a": (0, 1)})
    found = report(one, a=uncabled(0, chip))
    found.raise_on_failure()
    assert found.warnings() == []
    assert rows_of(found, *NETWORK_CHECKS) <= {
        (Level.SKIP, "not needed within one host"),
        (Level.OK, "device 0-1: none, on any device"),
    }
    # Several hosts need it, and so does a host whose own devices are told to talk over it.
    two = Needs(hosts=(A, B), ascend=True, devices={"a": (0, 1), "b": (0, 1)})
    if chip != "A3":
        assert ("link", "a", Level.FAIL, "device 0-1: link is DOWN") in bad(
            two, a=uncabled(0, chip), b=uncabled(1, chip)
        )
    roce = dataclasses.replace(one, env={"HCCL_INTRA_ROCE_ENABLE": "1"})
    assert ("link", "a", Level.FAIL, "device 0-1: link is DOWN") in bad(roce, a=uncabled(0, chip))


def test_without_a_job_a_host_without_roce_is_doubtful_and_not_unfit() -> None:
    one = Needs(hosts=(A,), ascend=None, has_job=False, devices={"a": (0, 1)})
    found = report(one, a=uncabled(0))
    assert found.exit_code == 0
    assert (Level.WARN, "device 0-1: link is DOWN (not needed within one host)") in rows_of(found, "link")
    # Several hosts that all have none are single servers; where one has links, the other has lost its own.
    two = dataclasses.replace(one, hosts=(A, B), devices={"a": (0, 1), "b": (0, 1)})
    assert report(two, a=uncabled(0), b=uncabled(1)).exit_code == 0
    assert report(two, a=uncabled(0), b=machine(1)).exit_code == 4


def test_an_a3_in_one_super_pod_needs_no_roce_and_two_super_pods_do() -> None:
    two = Needs(hosts=(A, B), ascend=True, devices={"a": (0, 1), "b": (0, 1)}, pings="pairs")
    pod = {"a": uncabled(0, "A3"), "b": uncabled(1, "A3")}
    assert bad(two, **pod) == []
    assert (Level.SKIP, "not needed within one super pod") in rows_of(report(two, **pod), "link")
    calls = [" ".join(target.call) for found in targets(two, pod).values() for target in found]
    assert len(calls) == 2
    assert all(" -hccs_ping -g address " in call for call in calls)
    apart = {"a": pod["a"], "b": uncabled(1, "A3", super_pod_id=7)}
    assert ("link", "a", Level.FAIL, "device 0-1: link is DOWN") in bad(two, **apart)


def test_an_a3_whose_super_pod_port_is_down() -> None:
    host = host_facts(0, "A3", count=2).change(1, vnic_link="DOWN")
    two = Needs(hosts=(A, B), ascend=True, devices={"a": (0, 1), "b": (0, 1)})
    assert bad(two, a=facts_of(host), b=uncabled(1, "A3")) == [
        ("super pod", "a", Level.FAIL, "device 1: the super pod's port is DOWN")
    ]


def test_without_hccn_tool_a_job_within_one_host_runs() -> None:
    one = Needs(hosts=(A,), ascend=True, devices={"a": (0, 1)})
    assert bad(one, a=machine(0, missing=("hccn_tool",))) == []


def test_a_table_that_cannot_be_read_calls_no_device_free() -> None:
    sound = machine(0)
    assert sound.tools is not None
    broken = ToolAnswers({smi(): ToolAnswer(smi(), "| NPU |\n")}, sound.tools.conf)
    odd = dataclasses.replace(sound, tools=sound.tools | broken)
    rows = rows_of(report(ASCEND, a=odd, b=machine(1)), "in use")
    assert (Level.SKIP, "npu-smi gives no table") in rows


def test_every_check_has_its_own_name() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_device_lists() -> None:
    assert device_list([7, 0, 1, 2]) == "0-2, 7"
    assert device_list([3]) == "3"


def test_a_home_that_all_hosts_share() -> None:
    place = "nfs4 nas:/export/home:/me/.orchestrate"
    shared = {name: HostFacts(probe(hostname=name, shared_place=place)) for name in ("a", "b")}
    found = report(NEEDS, **shared)
    (row,) = [row for row in found.rows() if row.check == "workdir"]
    assert (row.hosts, row.level) == (("a", "b"), Level.FAIL)
    assert row.text == "/w is one folder for a,b (nfs4, nas:/export/home:/me/.orchestrate)"
    assert row.remedy == "give each its own: `workdir: ~/.orchestrate/{name}` in defaults"
    own = {name: HostFacts(probe(shared_place=f"{place}/{name}")) for name in ("a", "b")}
    assert bad(NEEDS, **own) == []
    assert bad(NEEDS, a=HostFacts(probe()), b=HostFacts(probe())) == []


def test_a_missing_env_script_is_all_that_is_told_of_what_it_would_give() -> None:
    bare = facts_of(
        host_facts(0, count=2), env_script_exists=False, packages={"mindspore": None}, cann=None, ascend=None
    )
    needs = dataclasses.replace(ASCEND, hosts=(A,), packages=("mindspore",))
    assert bad(needs, a=bare) == [("env script", "a", Level.FAIL, "env_script /opt/env.sh does not exist")]


def keys(*hosts: str, port: int = 22) -> dict[str, OrchestrateError]:
    """As hosts/ssh/host_keys.py refuses keys that are in no known_hosts."""
    return {
        host: HostKeyError(
            f"the host key of {host}.lan (ssh-ed25519 SHA256:{host}) is unknown",
            where=host,
            remedy=f"ssh-keyscan -p {port} {host}.lan >> ~/.ssh/known_hosts, or pass --accept-new-host-keys",
            of_many=(
                "the host keys are unknown",
                "compare, then --accept-new-host-keys",
                f"; or: ssh-keyscan -p {port} {{}}",
            ),
            address=f"{host}.lan",
        )
        for host in hosts
    }


def printed(found: Report, capsys: pytest.CaptureFixture[str]) -> str:
    print_report(found)
    return " ".join(capsys.readouterr().out.split())


def test_many_unknown_host_keys_are_one_row_with_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    errors = keys(*(f"n{number}" for number in range(1, 13))) | keys("far", port=2222)
    text = printed(run_checks(NEEDS, {}, errors), capsys)
    assert text.count("the host keys are unknown") == 1 and "n[1-12]" in text
    assert text.count("ssh-keyscan") == 2, "one for twelve hosts, one for the host at another port"
    (summary,) = report_data(run_checks(NEEDS, {}, keys("n1", "n2")))["summary"]["failures"]
    assert (summary["hosts"], summary["what"]) == ("n[1-2]", "the host keys are unknown")
    assert "ssh-keyscan -p 22 n1.lan n2.lan n3.lan" in text and text.count("SHA256:") == 1
    # The fingerprints to compare are in --json.
    told = [each["what"] for each in report_data(run_checks(NEEDS, {}, errors))["checks"][0]["results"]]
    assert sum("SHA256:" in what for what in told) == 13


def test_hundreds_of_unknown_host_keys_make_no_endless_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(run_checks(NEEDS, {}, keys(*(f"n{number}" for number in range(500)))), capsys)
    assert "--accept-new-host-keys" in text and "ssh-keyscan" not in text and len(text) < 500


def test_a_host_is_found_by_its_name() -> None:
    assert [ASCEND.host(name) for name in "cab"] == [C, A, B]
    assert dataclasses.replace(ASCEND, hosts=(B,)).host("b") is B
    with pytest.raises(KeyError):
        ASCEND.host("d")
