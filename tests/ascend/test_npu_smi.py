"""Every sample of npu-smi's output that is known, and what is no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ascend.npu_smi import (
    Board,
    ChipProcess,
    Ecc,
    Health,
    SuperPodId,
    parse_board,
    parse_ecc,
    parse_fields,
    parse_health,
    parse_info,
    parse_spod,
)
from orchestrator.core.errors import ToolOutputError
from tests.ascend import samples

PARSERS: list[tuple[Callable[[str], Any], str]] = [
    (parse_info, samples.INFO_910B),
    (parse_health, samples.HEALTH),
    (parse_board, samples.BOARD),
    (parse_ecc, samples.ECC),
    (parse_spod, samples.SPOD),
]


def test_a_910b_with_a_busy_device() -> None:
    info = parse_info(samples.INFO_910B)
    assert info.driver == "23.0.5"
    assert [(chip.id, chip.name, chip.health) for chip in info.chips] == [
        (0, "910B1", "OK"),
        (7, "910B1", "Warning"),
    ]
    first = info.chips[0]
    assert (first.bus_id, first.hbm_used_mb, first.hbm_total_mb) == ("0000:C1:00.0", 4175, 65536)
    assert info.processes == (ChipProcess(0, 40512, "python", 27002),)


def test_a_910a_in_training() -> None:
    (chip,) = parse_info(samples.INFO_910A).chips
    assert (chip.id, chip.npu, chip.hbm_used_mb, chip.hbm_total_mb) == (3, 3, 30710, 32768)
    assert not chip.is_super_pod


def test_an_a3_has_two_chips_per_npu_with_ids_of_their_own() -> None:
    info = parse_info(samples.INFO_A3)
    assert [(chip.npu, chip.chip, chip.id, chip.is_super_pod) for chip in info.chips] == [
        (1, 0, 2, True),
        (1, 1, 3, True),
    ]
    assert info.processes == (ChipProcess(3, 811, "python3", 512),)


@pytest.mark.parametrize("sample", [samples.INFO_910A, samples.INFO_910B, samples.INFO_A3])
def test_half_a_table_is_no_table(sample: str) -> None:
    lines = sample.splitlines(keepends=True)
    for count in range(len(lines) - 5):
        with pytest.raises(ToolOutputError):
            parse_info("".join(lines[:count]))
    with pytest.raises(ToolOutputError, match="ends in the middle"):
        parse_info(sample[: sample.index("Process memory") + 9])


def test_windows_line_ends_and_a_banner_before_it() -> None:
    text = "Welcome to npu01\n" + samples.INFO_910B
    assert parse_info(text.replace("\n", "\r\n")) == parse_info(samples.INFO_910B)


def test_health() -> None:
    assert parse_health(samples.HEALTH) == Health("OK", (), "")
    ill = samples.HEALTH.replace("OK", "Alarm").replace("NA", "80E01801,80C98009", 1)
    assert parse_health(ill) == Health("Alarm", ("80E01801", "80C98009"), "")


def test_boards() -> None:
    assert parse_board(samples.BOARD) == Board("23.0.5", "7.1.0.7.220")
    assert parse_board(samples.CHIP_BOARD) == Board(None, "7.1.0.7.220")
    with pytest.raises(ToolOutputError, match="ends in the middle"):
        parse_board("\n".join(samples.BOARD.splitlines()[:2]))


def test_ecc_of_one_and_of_two_chips() -> None:
    assert parse_ecc(samples.ECC) == (Ecc(0, single_bit=3, double_bit=1, isolated_pages=2),)
    second = samples.ECC.replace("Chip ID                                  : 0", "Chip ID : 1")
    assert [ecc.chip for ecc in parse_ecc(samples.ECC + second)] == [0, 1]
    with pytest.raises(ToolOutputError):
        parse_ecc(samples.ECC.rpartition("\tChip ID")[0])


def test_super_pod() -> None:
    assert parse_spod(samples.SPOD) == SuperPodId("16777216", "0", 384, 4)
    with pytest.raises(ToolOutputError, match="cannot tell"):
        parse_spod("This device does not support querying spod-info.\n")
    with pytest.raises(ToolOutputError, match="Super Pod ID is 'missing'"):
        parse_spod("\tSDID : 16777216\n")


@pytest.mark.parametrize(
    ("kind", "text", "key", "value"),
    [
        ("usages", samples.USAGES, "HBM Capacity(MB)", "32768"),
        ("memory", samples.MEMORY, "HBM Temperature(C)", "35"),
        ("common", samples.COMMON, "NPU Real-time Power(W)", "71.7"),
    ],
)
def test_other_fields(kind: str, text: str, key: str, value: str) -> None:
    assert parse_fields(kind, text, "Chip ID")[key] == value


@pytest.mark.parametrize(("parser", "sample"), PARSERS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dcmi module initialize failed. ret is -8005\n", "no driver, or no NPU"),
        ("获取设备信息失败\n", "'获取设备信息失败'"),
        ("", "said nothing"),
        ("\x7fELF\x01", "line 1 is"),
    ],
)
def test_what_is_no_answer(parser: Callable[[str], Any], sample: str, text: str, words: str) -> None:
    with pytest.raises(ToolOutputError) as caught:
        parser(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(("parser", "sample"), PARSERS)
@given(data=st.data())
def test_a_damaged_answer_gives_a_value_or_the_error(
    parser: Callable[[str], Any], sample: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(sample)))
    stop = data.draw(st.integers(start, len(sample)))
    try:
        parser(sample[:start] + data.draw(st.text(max_size=20)) + sample[stop:])
    except ToolOutputError as error:
        assert "\n" not in str(error)
