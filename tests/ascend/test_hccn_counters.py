"""Link changes, packet counters and optical modules, as captured from hosts."""

from __future__ import annotations

import pytest

from orchestrator.ascend.hccn_counters import LinkChange, LinkStat, parse_link_stat, parse_optical, parse_stat
from orchestrator.core.errors import ToolOutputError
from tests.ascend import samples

UP = LinkChange("Tue Aug  1 14:43:40 2022", up=True)


def test_link_changes_of_new_and_old_drivers() -> None:
    down = LinkChange(UP.when, up=False)
    assert parse_link_stat(samples.LINK_STAT_NEW) == LinkStat(2, 1, (UP, down))
    assert parse_link_stat(samples.LINK_STAT_OLD) == LinkStat(2, None, (UP,))


def test_packet_counters() -> None:
    counters = parse_stat(samples.STAT)
    assert counters["nic_tx_all_pkg_num"] == 122404
    assert len(counters) == 7


def test_an_optical_module_with_a_dark_lane() -> None:
    optical = parse_optical(samples.OPTICAL)
    assert optical.present
    assert optical.number("temperature") == 47
    assert optical.number("Media SNR Lane1") is None
    assert optical.loss_of_signal
    assert optical.weak_lanes() == ["Rx Power1"]


def test_no_optical_module() -> None:
    optical = parse_optical("optical info:\npresent              : not present\n")
    assert not optical.present
    assert not optical.loss_of_signal
    assert optical.weak_lanes() == []


@pytest.mark.parametrize("parser", [parse_link_stat, parse_stat, parse_optical])
@pytest.mark.parametrize("text", ["The device is not exist!\n", "Fehler\n", ""])
def test_what_is_no_answer(parser: object, text: str) -> None:
    with pytest.raises(ToolOutputError):
        parser(text)  # type: ignore[operator]
