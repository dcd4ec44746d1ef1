"""Every sample of npu-smi's output that is known, and what is no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ascend.npu_smi import (
    Board,
    Ecc,
    Health,
    SuperPodId,
    parse_board,
    parse_ecc,
    parse_fields,
    parse_health,
    parse_spod,
)
from orchestrator.ascend.npu_table import ChipProcess, parse_info
from orchestrator.core.errors import ToolOutputError
from tests.ascend import samples

PARSERS: list[tuple[Callable[[str], Any], str]] = [
    *((parse_info, sample) for sample in (samples.INFO_910B, samples.INFO_26, samples.INFO_950)),
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


def test_a_process_of_npu_smi_26_is_on_its_own_device_and_on_no_other() -> None:
    info = parse_info(samples.INFO_26)
    assert [(chip.id, chip.hbm_used_mb) for chip in info.chips] == [(0, 3000), (1, 3001)]
    assert info.processes == (ChipProcess(1, 123456, "other", 4000),)


def test_the_two_chips_of_a_310p_duo_are_two_devices() -> None:
    info = parse_info(samples.INFO_310P_DUO)
    told = [(chip.npu, chip.chip, chip.id, chip.hbm_total_mb, chip.is_super_pod) for chip in info.chips]
    assert told == [(2, 0, 0, 44280, False), (2, 1, 1, 43693, False)]
    assert info.processes == (ChipProcess(1, 4711, "python3", 900),)


def test_a_950_has_no_chips_within_an_npu() -> None:
    info = parse_info(samples.INFO_950)
    told = [(chip.id, chip.name, chip.health, chip.by_chip, chip.bus_id) for chip in info.chips]
    assert told == [(0, "Ascend950DT", "OK", False, "NA"), (3, "Ascend950DT", "Alarm", False, "0000:71:00.0")]
    assert info.chips[0].hbm_total_mb == 86016
    assert info.processes == (ChipProcess(3, 4242, "a|b", 17),)


def test_chips_without_ids_of_their_own_are_counted_through() -> None:
    bare = samples.INFO_310P_DUO.replace("Chip    Device", "Chip          ")
    bare = bare.replace("| 0       0  ", "| 0          ").replace("| 1       1  ", "| 1          ")
    info = parse_info(bare)
    assert [chip.id for chip in info.chips] == [0, 1]
    assert [process.id for process in info.processes] == [1]


def test_a_process_whose_number_only_its_container_knows() -> None:
    (process,) = parse_info(samples.INFO_26.replace("| 123456 ", "| NA     ")).processes
    assert (process.id, process.pid) == (1, None)


def test_two_chips_of_one_id_are_no_table() -> None:
    with pytest.raises(ToolOutputError, match="two chips have the id 2"):
        parse_info(samples.INFO_A3.replace("| 1     3  ", "| 1     2  "))


def test_a_warning_behind_the_tables_is_no_part_of_them() -> None:
    text = samples.INFO_910B + "[WARNING]The driver package may not be completely installed.\n"
    assert parse_info(text) == parse_info(samples.INFO_910B)


INFOS = [
    samples.INFO_910A,
    samples.INFO_910B,
    samples.INFO_A3,
    samples.INFO_26,
    samples.INFO_310P_DUO,
    samples.INFO_950,
]


@pytest.mark.parametrize("sample", INFOS)
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
    without_chips = "".join(line for line in samples.ECC.splitlines(keepends=True) if "Chip" not in line)
    assert parse_ecc(without_chips) == (Ecc(0, single_bit=3, double_bit=1, isolated_pages=2),)


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
        (
            "dcmi model initialized failed, because the device is not ready. ret is -8005\n",
            "no driver, or no NPU",
        ),
        (
            "dcmi model initialized failed, because the device is used. ret is -8020\n",
            "containers have",
        ),
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
