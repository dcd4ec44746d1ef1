"""The tables of `npu-smi info`: the chips with their health, and the processes on them.

Read by the names of their columns, which differ: one chip an NPU (910A, 910B), two with ids of their own in a
column `Phy-ID` (A3) or `Device` (310P, 310P Duo), no chips at all (950), a column more since npu-smi 26
(`Process id in container`). Source: npu-smi's own (`print_total_info`, `print_card_total_info_with_HBM` and
`print_proc_total_info_with_HBM`), and answers of drivers 21 to 26.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.ascend.tool_answers import refuse_known, search, unreadable
from orchestrator.core.errors import ToolOutputError

__all__ = ["Chip", "ChipProcess", "NpuInfo", "parse_info"]

_SOURCE = "npu-smi info"
# The columns that hold a device's own id: physical on an A3, logical on a 310P, by which its tools take it.
_PHYSICAL, _DEVICE = "phy-id", "device"
_NPU = re.compile(r"(\d{1,9})\s+(\S.*)")
_USAGE = re.compile(r"(\d{1,12}|NA)\s*/\s*(\d{1,12}|NA)")
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class Chip:
    """One device. `id` is what it is called by: its physical id, on a 310P its logical one.

    `hbm_*` are of the device's own memory: DDR where there is no HBM. `by_chip` is whether npu-smi wants a
    chip's number behind the NPU's; a 950's takes none.
    """

    id: int
    npu: int
    chip: int
    name: str
    health: str
    bus_id: str
    hbm_used_mb: int | None
    hbm_total_mb: int | None
    is_super_pod: bool
    by_chip: bool = True


@dataclass(frozen=True, slots=True)
class ChipProcess:
    """One process on a chip; `id` as in Chip. `pid` is the host's, None where the tool does not tell it."""

    id: int
    pid: int | None
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
    refuse_known(_SOURCE, text)
    version = search(r"Version:\s*(\S+)", text)
    rows = list(_rows(text))
    split = next((number for number, row in enumerate(rows) if _column(row, "process id") is not None), None)
    if version is None or not rows:
        unreadable(_SOURCE, text, "a table of NPUs")
    # Without its lower half the table would call every device free.
    if split is None or not _is_whole(text):
        raise ToolOutputError(f"{_SOURCE}: the answer ends in the middle, after {_last_line(text)!r}")
    chips = _with_own_ids(tuple(_chips(rows[:split])))
    if not chips:
        unreadable(_SOURCE, text, "at least one NPU")
    return NpuInfo(version[1], chips, tuple(_processes(rows[split], rows[split + 1 :], chips)))


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of every line between bars."""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("|") and line.endswith("|") and len(line) > 1:
            yield [cell.strip() for cell in line[1:-1].split("|")]


def _is_whole(text: str) -> bool:
    """Whether the last line of the tables is a rule; a warning may come behind it."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(("|", "+"))]
    return bool(lines) and lines[-1].startswith("+") and lines[-1].endswith("+")


def _last_line(text: str) -> str:
    return next((line.strip()[:80] for line in reversed(text.splitlines()) if line.strip()), "")


def _column(row: Sequence[str], name: str) -> int | None:
    return next((index for index, cell in enumerate(row) if cell.lower() == name), None)


def _refuse(row: Sequence[str]) -> ToolOutputError:
    return ToolOutputError(f"{_SOURCE}: cannot read the row {' | '.join(row)[:120]!r}")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where things are in the two rows of a chip.

    `health` and `bus` are cells, `ids` the words before the bus id (`Chip`, `Phy-ID`), and `memory` the place
    of the device's memory among the usages of the last cell.
    """

    health: int
    bus: int
    ids: tuple[str, ...]
    memory: int

    @classmethod
    def of(cls, first: Sequence[str], second: Sequence[str]) -> _Columns | None:
        health, bus = _column(first, "health"), _column(second, "bus-id")
        if health is None or bus is None:
            return None
        usages = re.findall(r"(\S+)-Usage\(MB\)", second[-1], re.IGNORECASE)
        own = [name.upper() for name in usages]
        memory = own.index("HBM") if "HBM" in own else len(own) - 1
        return cls(health, bus, tuple(" ".join(second[:bus]).lower().split()), memory)


def _chips(rows: list[list[str]]) -> Iterator[Chip]:
    """A chip is two rows, as the two rows of the header say."""
    columns: _Columns | None = None
    pending: list[str] | None = None
    for row in rows:
        if columns is None:
            columns = _Columns.of(pending, row) if pending else None
            pending = None if columns else row
        elif pending is None:
            pending = row
        else:
            yield _chip(columns, pending, row)
            pending = None
    if columns is not None and pending is not None:
        raise ToolOutputError(f"{_SOURCE}: NPU {pending[0][:20]} has no second row")


def _chip(columns: _Columns, first: Sequence[str], second: Sequence[str]) -> Chip:
    match = _NPU.fullmatch(" ".join(first[: columns.health]).strip())
    if match is None or len(first) <= columns.health:
        raise _refuse(first)
    words = " ".join(second[: columns.bus]).split()
    if len(second) <= columns.bus or len(words) != len(columns.ids) or not all(map(_NUMBER.fullmatch, words)):
        raise _refuse(second)
    numbers = {name: int(word) for name, word in zip(columns.ids, words, strict=True)}
    npu, chip = int(match[1]), numbers.get("chip", 0)
    usages = _USAGE.findall(second[-1])
    used, total = usages[min(columns.memory, len(usages) - 1)] if usages else ("NA", "NA")
    return Chip(
        id=numbers.get(_PHYSICAL, numbers.get(_DEVICE, npu)),
        npu=npu,
        chip=chip,
        name=match[2].strip(),
        health=first[columns.health],
        bus_id=second[columns.bus],
        hbm_used_mb=int(used) if used != "NA" else None,
        hbm_total_mb=int(total) if total != "NA" else None,
        is_super_pod=_PHYSICAL in numbers,
        by_chip="chip" in numbers,
    )


def _with_own_ids(chips: tuple[Chip, ...]) -> tuple[Chip, ...]:
    """Each chip with an id of its own.

    Where an NPU has several chips and no column says what they are called, they count through: so does the
    driver give logical ids. Raises ToolOutputError where a column gives one id to two chips.
    """
    twice = [id_ for id_, count in Counter(chip.id for chip in chips).items() if count > 1]
    if not twice:
        return chips
    apart = len({(chip.npu, chip.chip) for chip in chips}) == len(chips)
    if not apart or any(chip.id != chip.npu for chip in chips):
        raise ToolOutputError(f"{_SOURCE}: two chips have the id {twice[0]}")
    return tuple(replace(chip, id=number) for number, chip in enumerate(chips))


def _processes(header: Sequence[str], rows: list[list[str]], chips: Sequence[Chip]) -> Iterator[ChipProcess]:
    columns = {cell.lower(): index for index, cell in enumerate(header)}
    first = columns["process id"]
    by_chip = "chip" in " ".join(header[:first]).lower().split()
    for row in rows:
        if row[0].lower().startswith("no running process"):
            continue
        words = " ".join(row[:first]).split()
        if len(row) <= first or len(words) != 1 + by_chip or not all(map(_NUMBER.fullmatch, words)):
            raise _refuse(row)
        cells = dict(zip(columns, _joined(row, len(header), columns.get("process name")), strict=False))
        for id_ in _where(chips, int(words[0]), int(words[-1]) if by_chip else None):
            yield ChipProcess(
                id_,
                _known(cells["process id"]),
                cells.get("process name", ""),
                _known(cells.get("process memory(mb)", "")),
            )


def _joined(row: list[str], count: int, name: int | None) -> list[str]:
    """The cells of a row; a bar in a process's name has made cells of it."""
    extra = len(row) - count
    if name is None or extra <= 0:
        return row
    return [*row[:name], "|".join(row[name : name + extra + 1]), *row[name + extra + 1 :]]


def _where(chips: Sequence[Chip], npu: int, chip: int | None) -> list[int]:
    """The devices that a process is on; all of its NPU where the chip is not told, or is none of them."""
    there = [each for each in chips if each.npu == npu]
    return [each.id for each in there if each.chip == chip] or [each.id for each in there]


def _known(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
