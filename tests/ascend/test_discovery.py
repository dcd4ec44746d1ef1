"""Tools' answers, hccn.conf and the inventory in, one host's devices out."""

from __future__ import annotations

from orchestrator.ascend.discovery import find_devices, first_calls, later_calls, vnic_call
from orchestrator.ascend.found_devices import FoundDevice, FoundHost
from orchestrator.ascend.tool_answers import Call, ToolAnswer, ToolAnswers, hccn, smi
from orchestrator.config.inventory import Device, Host
from tests.ascend import samples
from tests.ascend.test_hccn_tool import NO_IP

CONF = "/etc/hccn.conf"
NO_CONF = ToolAnswer((CONF,), failure="missing")


def host(**ips: str) -> Host:
    """A host with devices 0 and 7; `d0` and `d7` are their addresses in the inventory."""
    return Host(name="a", devices=tuple(Device(id=device, ip=ips.get(f"d{device}")) for device in (0, 7)))


def says(*answers: ToolAnswer, conf: str | None = None) -> ToolAnswers:
    file = NO_CONF if conf is None else ToolAnswer((CONF,), conf)
    return ToolAnswers({answer.call: answer for answer in answers}, file)


def ip(device: int, address: str = "", failure: str = "") -> ToolAnswer:
    text = f"ipaddr:{address}\nnetmask:255.255.0.0\n" if address else NO_IP
    return ToolAnswer(hccn(device, "-ip"), "" if failure else text, 0, failure)


def table(text: str = samples.INFO_910B) -> ToolAnswer:
    return ToolAnswer(smi(), text, 0)


def found(entry: Host, answers: ToolAnswers) -> FoundHost:
    return find_devices(entry, [device.id for device in entry.devices], answers)


def test_hccn_tool_is_believed_first() -> None:
    one = found(host(), says(table(), ip(0, "10.0.0.1"), ip(7, "10.0.0.8"), conf="address_0=10.0.0.1\n"))
    assert one == FoundHost(
        "a",
        (FoundDevice(0, "10.0.0.1", "hccn_tool"), FoundDevice(7, "10.0.0.8", "hccn_tool")),
        "910B1",
        kind="910B",
    )


def test_then_hccn_conf_then_the_inventory() -> None:
    answers = says(table(), ip(0), ip(7, failure="timeout"), conf="address_0=10.0.0.1\n")
    one = found(host(d7="10.0.0.8"), answers)
    assert one.devices == (FoundDevice(0, "10.0.0.1", CONF), FoundDevice(7, "10.0.0.8", "the inventory"))
    assert one.warnings == (
        "the IP of device 0 is from /etc/hccn.conf, because hccn_tool did not tell: no IP address is set",
        "the IP of device 7 is from the inventory, because hccn_tool did not tell: "
        "hccn_tool -i 7 -ip -g gave no answer in time",
    )


def test_disagreement_is_a_warning() -> None:
    answers = says(table(), ip(0, "10.0.0.1"), ip(7, "10.0.0.8"), conf="address_7=10.0.0.9\n")
    one = found(host(d0="10.0.0.5", d7="10.0.0.6"), answers)
    assert [device.ip for device in one.devices] == ["10.0.0.1", "10.0.0.8"]
    assert one.warnings == (
        "device 0 is 10.0.0.1 by hccn_tool, but 10.0.0.5 by the inventory, and 1 more; hccn_tool was taken",
        "device 7 is 10.0.0.8 by hccn_tool, but 10.0.0.9 by /etc/hccn.conf; hccn_tool was taken",
    )


def test_a_device_without_any_address_says_why() -> None:
    one = found(host(), says(table(), ip(0), ip(7, failure="missing")))
    assert one.device(0).trouble == "no IP address is set"
    assert one.device(0).remedy == "`hccn_tool -i 0 -ip -s address A netmask M` on the host"
    assert one.device(7).trouble == "hccn_tool is not on this host"
    assert one.device(5).trouble == "there is no such device"


def test_a_hccn_conf_that_cannot_be_used_is_a_warning() -> None:
    answers = says(table(), ip(0, "10.0.0.1"), ip(7, "10.0.0.8"), conf="address_0\n")
    assert found(host(), answers).warnings == (
        "hccn.conf line 1: 'address_0' is no `key_N=value` (correct the file)",
    )
    denied = ToolAnswers(
        {answer.call: answer for answer in (table(), ip(0, "10.0.0.1"), ip(7, "10.0.0.8"))},
        ToolAnswer((CONF,), failure="Permission denied"),
    )
    assert found(host(), denied).warnings == ("/etc/hccn.conf cannot be used: Permission denied",)


def test_a_device_that_the_host_does_not_have() -> None:
    entry = Host(name="a", devices=(Device(id=0), Device(id=3)))
    one = found(entry, says(table(), ip(0, "10.0.0.1"), ip(3, "10.0.0.3")))
    assert one.warnings == ("npu-smi lists no device 3",)


def test_super_pods_have_a_second_round_of_questions() -> None:
    first = says(table(samples.INFO_A3), ip(2, "10.0.0.2"), ip(3))
    spods: list[Call] = [smi("-t", "spod-info", "-i", 1, "-c", chip) for chip in (0, 1)]
    assert later_calls([2, 3], first) == [hccn(3, "-ip", "-inet6"), *spods, vnic_call(2), vnic_call(3)]
    second = says(
        *(
            ToolAnswer(call, samples.SPOD.replace("16777216", f"1677721{number}"))
            for number, call in enumerate(spods)
        ),
        ToolAnswer(hccn(3, "-ip", "-inet6"), "ipv6_address:fd00::3\n"),
    )
    one = find_devices(Host(name="a"), [2, 3], first | second)
    assert one.super_pod_id == "0"
    assert [(device.ip, device.super_device_id) for device in one.devices] == [
        ("10.0.0.2", "16777210"),
        ("fd00::3", "16777211"),
    ]


def test_devices_that_nobody_has_written_are_those_of_npu_smi() -> None:
    assert first_calls([]) == [smi()]
    assert later_calls([], says(table())) == [hccn(0, "-ip"), hccn(7, "-ip")]
    conf = "address_2=10.0.0.2\n"
    no_table = says(ToolAnswer(smi(), failure="missing"), ip(0, failure="timeout"), conf=conf)
    assert later_calls([], no_table) == [hccn(2, "-ip")]


def test_without_tools_nothing_more_is_asked() -> None:
    assert later_calls([0], says(ToolAnswer(smi(), failure="missing"), ip(0, failure="missing"))) == []
