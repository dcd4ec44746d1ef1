"""Every sample of hccn_tool's output that is known, in all its spellings, and what is no answer at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ascend import hccn as hccn_tool
from orchestrator.ascend.hccn import IpConfig, Ping, TlsSwitch, Vnic
from orchestrator.core.errors import ToolOutputError
from tests.ascend.samples import VNIC

TLS = """\
dev_id:{device}, tls switch[{switch}](0:disable, 1:enable), tls preconfigured[1](0:non-preset, 1:preset), \
tls alarm time threshold[60]days
dev_id:{device}, [pub cert] info:
 issuer[/C=CN/O=Huawei/CN=CA]
 start_time[Jun 14 03:51:10 2022 GMT]
 end_time[Jun 11 03:51:10 2032 GMT]
"""
PING = """\
device 3 PING 29.1.137.205
recv seq=0,time=1.418000ms
recv seq=1,time=0.034000ms
recv seq=2,time=0.040000ms
3 packets transmitted, 3 received, 0.00% packet loss
"""
NO_GATEWAY = "Get gateway failed, because no gateway was preset there!\n"
NO_IP = "Get ipconf failed, because no ip was preset there!\n"

SAMPLES: list[tuple[str, str, Any]] = [
    (
        "parse_ip",
        "ipaddr:192.161.200.10\nnetmask:255.255.255.0\n",
        IpConfig("192.161.200.10", "255.255.255.0"),
    ),
    ("parse_ip", "ipaddr:10.0.0.1\r\nnetmask:255.0.0.0\r\n", IpConfig("10.0.0.1", "255.0.0.0")),
    ("parse_ip", "ipaddr:10.0.0.1\n", IpConfig("10.0.0.1")),
    ("parse_ip", NO_IP, None),
    ("parse_ip", "Get ip failed, because no ip was preset there!\n", None),
    ("parse_ip", "", None),
    ("parse_ipv6", "ipv6_address:fd00:0::1\n", IpConfig("fd00::1")),
    ("parse_ipv6", "ipv6_address: fd00::1/64\n", IpConfig("fd00::1")),
    ("parse_ipv6", "", None),
    ("parse_link", "link status: UP\n", True),
    ("parse_link", "link status: DOWN\n", False),
    ("parse_net_health", "net health status: Success\n", "Success"),
    ("parse_net_health", "net health status: Init\n", "Init"),
    ("parse_net_health", "net health status: Socket fail\n", "Socket fail"),
    ("parse_net_health", "net health status: Socket failed\n", "Socket fail"),
    ("parse_net_health", "net health status: Receive timeout\n", "Receive timeout"),
    ("parse_net_health", "net health status: Detect ip set\n", "Detect ip set"),
    ("parse_netdetect", "netdetect address: 11.12.165.1\n", "11.12.165.1"),
    ("parse_netdetect", "netdetect addr: 11.12.165.1\n", "11.12.165.1"),
    ("parse_netdetect", "netdetect address: 0.0.0.0\n", None),
    ("parse_gateway", "default gateway:11.12.165.1, Iface:eth0\n", "11.12.165.1"),
    ("parse_gateway", NO_GATEWAY, None),
    ("parse_tls", TLS.format(device=0, switch=0), TlsSwitch(False, True)),
    ("parse_tls", TLS.format(device=3, switch=1), TlsSwitch(True, True)),
    ("parse_tls", "dev_id:0, tls switch[1](0:disable, 1:enable)\n", TlsSwitch(True, None)),
    ("parse_ping", PING, Ping(3, 3)),
    ("parse_ping", "3 packets transmitted, 0 received, 100.00% packet loss\n", Ping(3, 0)),
    ("parse_ping", "1 packets transmitted, 1 received, 0.00% packets loss\n", Ping(1, 1)),
    ("parse_vnic", VNIC, Vnic(True, "192.168.2.199")),
    ("parse_vnic", "vnic link status: DOWN\n", Vnic(False, None)),
    ("parse_ping", "3 packets transmitted, 2 received, 33.33% packet loss\n", Ping(3, 2)),
]
PARSERS = sorted({name for name, _, _ in SAMPLES})
# What each of these says is no answer, whatever was asked.
REFUSALS = [
    ("The device is not exist!\n", "there is no such device"),
    ("hccn_tool is busy, please try again.\n", "hccn_tool is busy"),
    ("Command execute failed!\n", "the command failed"),
    ("permission denied: pls check this cmd run permission.\n", "permission denied"),
    ("Please specify a valid cmd.\nEnter [ hccn_tool -h ] for more details.\n", "unknown to this version"),
]


def parser(name: str) -> Callable[[str], Any]:
    found: Callable[[str], Any] = getattr(hccn_tool, name)
    return found


@pytest.mark.parametrize(("name", "text", "value"), SAMPLES)
def test_a_sample(name: str, text: str, value: Any) -> None:
    assert parser(name)(text) == value


def test_every_parser_has_a_sample() -> None:
    assert {name for name in hccn_tool.__all__ if name.startswith("parse_")} - {"parse_hccn_conf"} == set(
        PARSERS
    )


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(("text", "words"), REFUSALS)
def test_the_tools_own_refusals(name: str, text: str, words: str) -> None:
    with pytest.raises(ToolOutputError) as caught:
        parser(name)(text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "text", ["Segmentation fault\n", "\n\n获取设备信息失败\n", "\x00\x01\x02", "Speed\n"]
)
def test_what_cannot_be_read_is_shown(name: str, text: str) -> None:
    with pytest.raises(ToolOutputError) as caught:
        parser(name)(text)
    assert repr(text.strip()) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["ipaddr:192.161.200.1", "ipaddr:192.161.\n", "ipaddr:\n", "ipaddr:1.2.3.4\nnetmask:255."]
)
def test_half_an_address_is_no_address(text: str) -> None:
    with pytest.raises(ToolOutputError):
        hccn_tool.parse_ip(text)


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text(max_size=200))
def test_any_text_gives_a_value_or_the_error(name: str, text: str) -> None:
    try:
        parser(name)(text)
    except ToolOutputError as error:
        assert error.lines()
