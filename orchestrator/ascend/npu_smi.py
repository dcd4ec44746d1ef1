"""The `key : value` answers of `npu-smi info -t TYPE -i NPU [-c CHIP]`, as values.

The tables of `npu-smi info` are read in `npu_table`. Formats: npu-smi's own source (the `npu_smi` folder of
Ascend's driver) and answers of drivers 21 to 26.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.ascend.tool_answers import pairs, refuse_known, unreadable
from orchestrator.core.errors import ToolOutputError

__all__ = [
    "Board",
    "Ecc",
    "Health",
    "SuperPodId",
    "parse_board",
    "parse_ecc",
    "parse_fields",
    "parse_health",
    "parse_spod",
]


@dataclass(frozen=True, slots=True)
class Health:
    """`-t health` of one chip; `codes` are hexadecimal error codes, empty for none."""

    status: str
    codes: tuple[str, ...]
    information: str


@dataclass(frozen=True, slots=True)
class Board:
    """`-t board` of an NPU: the versions of its driver and firmware; None where a chip tells only one."""

    software: str | None
    firmware: str | None


@dataclass(frozen=True, slots=True)
class Ecc:
    """`-t ecc` of one chip, DDR and HBM together: errors since start, and pages put out of use for them."""

    chip: int
    single_bit: int
    double_bit: int
    isolated_pages: int


@dataclass(frozen=True, slots=True)
class SuperPodId:
    """`-t spod-info` of an A3 chip: what a v1.2 rank table needs."""

    super_device_id: str
    super_pod_id: str
    super_pod_size: int | None
    server_index: int | None


def parse_fields(kind: str, text: str, required: str) -> dict[str, str]:
    """Any `-t KIND` answer as its fields; `required` is a key that it always has. Raises ToolOutputError."""
    source = f"npu-smi -t {kind}"
    refuse_known(source, text)
    fields = pairs(text)
    if not fields.get(required):
        unreadable(source, text, f"`{required} : ...`")
    return fields


def parse_health(text: str) -> Health:
    """Raises ToolOutputError."""
    fields = parse_fields("health", text, "Health Status")
    codes = re.findall(r"[0-9A-Fa-f]{8}", fields.get("Error Code", ""))
    information = fields.get("Error Information", "")
    return Health(fields["Health Status"], tuple(codes), "" if information == "NA" else information)


def parse_board(text: str) -> Board:
    """The answer for an NPU or for a chip. Raises ToolOutputError."""
    fields = parse_fields("board", text, "NPU ID")
    if "Firmware Version" not in fields:
        raise ToolOutputError("npu-smi -t board: the answer ends in the middle, before `Firmware Version`")
    return Board(_known(fields.get("Software Version")), _known(fields["Firmware Version"]))


def parse_ecc(text: str) -> tuple[Ecc, ...]:
    """One entry per chip; each chip's counters come before its `Chip ID`. Raises ToolOutputError.

    A 950 has no chips: there neither `Chip Count` nor `Chip ID` is told.
    """
    refuse_known("npu-smi -t ecc", text)
    found = []
    counts = {"Single": 0, "Double": 0, "Isolated": 0}
    seen = False
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        match = re.fullmatch(r"(?:DDR|HBM) (Single|Double) Bit (Error Count|Isolated Pages Count)", key)
        if match and value.isdigit():
            counts["Isolated" if match[2].startswith("Isolated") else match[1]] += int(value)
        seen = seen or match is not None
        if key == "Chip ID" and value.isdigit() and seen:
            found.append(Ecc(int(value), counts["Single"], counts["Double"], counts["Isolated"]))
            counts, seen = dict.fromkeys(counts, 0), False
    if seen and not found and "Chip Count" not in text:
        return (Ecc(0, counts["Single"], counts["Double"], counts["Isolated"]),)
    if not found or seen:
        unreadable("npu-smi -t ecc", text, "error counts, and behind them `Chip ID : ...`")
    return tuple(found)


def parse_spod(text: str) -> SuperPodId:
    """Raises ToolOutputError."""
    fields = parse_fields("spod-info", text, "SDID")
    for key in ("SDID", "Super Pod ID"):
        if not fields.get(key, "").isdigit():
            raise ToolOutputError(
                f"npu-smi -t spod-info: {key} is {fields.get(key, 'missing')!r}, expected a number"
            )
    return SuperPodId(
        fields["SDID"],
        fields["Super Pod ID"],
        _number(fields.get("Super Pod Size")),
        _number(fields.get("Server Index")),
    )


def _known(value: str | None) -> str | None:
    return None if value in (None, "", "NA", "-") else value


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isdigit() else None
