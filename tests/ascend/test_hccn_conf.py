"""/etc/hccn.conf in the states that hosts have it in."""

from __future__ import annotations

import pytest

from orchestrator.ascend.hccn import parse_hccn_conf
from orchestrator.core.errors import ToolOutputError

FILE = """\
address_0=29.1.137.205
netmask_0=255.255.0.0
netdetect_0=29.1.0.1
gateway_0=29.1.0.1
send_arp_status_0=1
address_1=29.1.137.206
"""
IPS = {0: "29.1.137.205", 1: "29.1.137.206"}


def test_the_documented_file() -> None:
    conf = parse_hccn_conf(FILE)
    assert conf.addresses() == IPS
    assert conf.devices[0] == {
        "address": "29.1.137.205",
        "netmask": "255.255.0.0",
        "netdetect": "29.1.0.1",
        "gateway": "29.1.0.1",
        "send_arp_status": "1",
    }


@pytest.mark.parametrize(
    "text",
    [
        FILE.replace("\n", "\r\n"),
        "\ufeff# made by hand\n\n" + FILE + "\n",
        FILE.replace("=", " = "),
        FILE + "some_setting=yes\nmac_addr_0=9c:52:f8:00:11:22\nudhcpc_enable=0\n",
        FILE + "address_0=29.1.137.205\n",
    ],
    ids=["windows", "comments", "blanks", "unknown keys", "twice the same"],
)
def test_the_same_in_other_clothes(text: str) -> None:
    assert parse_hccn_conf(text).addresses() == IPS


@pytest.mark.parametrize("text", ["", "\n\r\n", "# nothing\n", "address_0=\n"])
def test_a_file_without_addresses(text: str) -> None:
    assert parse_hccn_conf(text).addresses() == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("address_0=29.1.137\n", "hccn.conf line 1: 'address_0=29.1.137' holds no IP address"),
        (
            FILE + "address_1=1.2.3.4",
            "hccn.conf line 7: address_1 is 1.2.3.4, and was 29.1.137.206 before"
            " (remove one of the two lines)",
        ),
        (
            "address_0=1.2.3.4\naddress_1",
            "hccn.conf line 2: 'address_1' is no `key_N=value` (correct the file)",
        ),
    ],
)
def test_a_wrong_line_is_named(text: str, line: str) -> None:
    with pytest.raises(ToolOutputError) as caught:
        parse_hccn_conf(text)
    assert str(caught.value) == line
