"""The `key : value` answers of `npu-smi info -t TYPE -i NPU [-c CHIP]`, as values.

The tables of `npu-smi info` are read in `npu_table`. Formats: npu-smi's own source (the `npu_smi` folder of
Ascend's driver) and answers of drivers 21 to 26.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.ascend.tool_answers import pairs, refuse_known, unreadable
from orchestrator.core.errors import ToolOutputError

__all__ = [
    "Board",
    "Chip",
    "ChipProcess",
    "Ecc",
    "Health",
    "NpuInfo",
    "SuperPodId",
    "parse_board",
    "parse_ecc",
    "parse_fields",
    "parse_health",
    "parse_info",
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
    """One entry per chip; each chip's counters come before its `Chip ID`. Raises ToolOutputError."""
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


SOURCE = "npu-smi info"
_NPU = re.compile(r"(\d+)\s+(\S.*)")
_CHIP = re.compile(r"(\d+)(?:\s+(\d+))?")
_BUS = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.\d+|NA")
_USAGE = re.compile(r"(\d+)\s*/\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Chip:
    """One device. `id` is its physical id: the chip's own on A3, elsewhere the NPU's number."""

    id: int
    npu: int
    chip: int
    name: str
    health: str
    bus_id: str
    hbm_used_mb: int | None
    hbm_total_mb: int | None
    is_super_pod: bool


@dataclass(frozen=True, slots=True)
class ChipProcess:
    """One process on a chip; `id` as in Chip."""

    id: int
    pid: int
    name: str
    memory_mb: int | None


@dataclass(frozen=True, slots=True)
class NpuInfo:
    """All of a host's chips and what runs on them."""

    driver: str
    chips: tuple[Chip, ...]
    processes: tuple[ChipProcess, ...]


def parse_info(text: str) -> NpuInfo:
    """Raises ToolOutputError: no such table, half of one, or a row that cannot be read."""
    refuse_known(SOURCE, text)
    version = re.search(r"Version:\s*(\S+)", text)
    rows = list(_rows(text))
    split = next(
        (number for number, row in enumerate(rows) if row[0].startswith("NPU") and _is_processes(row)), None
    )
    if version is None or not rows:
        unreadable(SOURCE, text, "a table of NPUs")
    # Without its lower half the table would call every device free.
    if split is None or not text.rstrip().endswith("+"):
        raise ToolOutputError(f"{SOURCE}: the answer ends in the middle, after {_last_line(text)!r}")
    has_physical_ids = any(re.fullmatch(r"Chip\s+Phy-ID", row[0]) for row in rows)
    chips = tuple(_chips(rows[:split], has_physical_ids))
    if not chips:
        unreadable(SOURCE, text, "at least one NPU")
    ids = {(chip.npu, chip.chip): chip.id for chip in chips}
    return NpuInfo(version[1], chips, tuple(_processes(rows[split + 1 :], ids)))


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of every line between bars."""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("|") and line.endswith("|"):
            yield [cell.strip() for cell in line[1:-1].split("|")]


def _is_processes(row: list[str]) -> bool:
    return len(row) > 1 and row[1].lower() == "process id"


def _last_line(text: str) -> str:
    return next((line.strip()[:80] for line in reversed(text.splitlines()) if line.strip()), "")


def _chips(rows: list[list[str]], has_physical_ids: bool) -> Iterator[Chip]:
    """A chip is two rows: `NPU Name | Health | ...`, then `Chip [Phy-ID] | Bus-Id | ...`."""
    pending: tuple[int, str, str] | None = None
    for row in rows:
        if len(row) != 3 or row[0].startswith(("NPU", "Chip")):
            continue
        if pending is None:
            match = _NPU.fullmatch(row[0])
            if match is None:
                raise ToolOutputError(f"{SOURCE}: cannot read the row {' | '.join(row)!r}")
            pending = (int(match[1]), match[2].strip(), row[1])
            continue
        yield _chip(pending, row, has_physical_ids)
        pending = None
    if pending is not None:
        raise ToolOutputError(f"{SOURCE}: NPU {pending[0]} has no second row")


def _chip(first: tuple[int, str, str], row: list[str], has_physical_ids: bool) -> Chip:
    npu, name, health = first
    match = _CHIP.fullmatch(row[0])
    if match is None or not _BUS.fullmatch(row[1]) or (has_physical_ids and match[2] is None):
        raise ToolOutputError(f"{SOURCE}: cannot read the row {' | '.join(row)!r}")
    # The last of `Memory-Usage` and `HBM-Usage`: a 910A shows both, and blanks around `/` come and go.
    usages = _USAGE.findall(row[2])
    used, total = usages[-1] if usages else (None, None)
    return Chip(
        id=int(match[2]) if has_physical_ids else npu,
        npu=npu,
        chip=int(match[1]),
        name=name,
        health=health,
        bus_id=row[1],
        hbm_used_mb=int(used) if used else None,
        hbm_total_mb=int(total) if total else None,
        is_super_pod=has_physical_ids,
    )


def _processes(rows: list[list[str]], ids: dict[tuple[int, int], int]) -> Iterator[ChipProcess]:
    for row in rows:
        if row[0].lower().startswith("no running process"):
            continue
        where = re.fullmatch(r"(\d+)\s+(\d+)", row[0])
        if where is None or len(row) != 4 or not row[1].isdigit():
            raise ToolOutputError(f"{SOURCE}: cannot read the row {' | '.join(row)!r}")
        npu, chip = int(where[1]), int(where[2])
        memory = int(row[3]) if row[3].isdigit() else None
        yield ChipProcess(ids.get((npu, chip), npu), int(row[1]), row[2], memory)
