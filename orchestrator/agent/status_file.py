"""The status file of a run on a host: two slots, written in turn and in place, also on a full disk.

`status.json` is made with all the room that it needs, and is JSON as a whole:

    {"format": 3, "slot": 20480, "slots": [      the head: 64 bytes with blanks behind it
    [7, 1234, "9a0b1c2d",                        a slot: sequence, length and checksum of its text,
    {"run_id": …}                                the text: a HostStatus as `core.codec.to_json` makes it
    ]                                            and blanks, up to the two bytes ` ,` at its end
    null                                         the other slot, never written yet, up to `]}`

The checksum is the CRC-32 of the text, begun with the sequence. The newest slot whose checksum fits is the
status; one that is just being written, or that was cut by a power failure, leaves the other.
Earlier versions wrote a status alone, by rename: that is read too. They, in turn, see the number of a newer
format (those before there were numbers: a damaged file).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from orchestrator.core.codec import DecodeError, NewerFormat, from_json, loads, parse, to_json
from orchestrator.core.paths import replacing
from orchestrator.core.record_class import dataclass
from orchestrator.core.records import HostStatus
from orchestrator.core.safe_open import open_safely, read_safely

__all__ = ["StatusFile"]

_HEAD = 64
_END = 2
_PAGE = 4096
_FIRST = re.compile(rb'\{"format": (\d{1,9}), "slot": (\d{1,9}), "slots": \[ *\n')
_SLOT = re.compile(rb'\[(\d{1,18}), (\d{1,9}), "([0-9a-f]{8})",\n')
_CLOSE = b"\n]"
# What a host of so many workers may have to say of each, and of itself.
_ROOM, _ROOM_EACH = 4 * _PAGE, _PAGE
_LOOKS, _PAUSE = 5, 0.005
_SHORT = 200


@dataclass
class _Place:
    """Where the next status goes: a slot of the file with this inode, and how far each has been written."""

    inode: int
    size: int
    slot: int
    sequence: int
    used: List[int]


class StatusFile:
    """Reads and writes the status of one run; there is one writer at a time."""

    def __init__(self, path: Path, below: Path) -> None:
        """`below` is the folder of runs, see `open_safely`."""
        self.path = path
        self._below = below
        self._place: Optional[_Place] = None

    def read(self) -> HostStatus:
        """The newest status. Raises OSError, DecodeError, NewerFormat."""
        for look in range(_LOOKS):
            data = read_safely(self.path, self._below, HostStatus.LARGEST)
            first = _FIRST.match(data)
            if first is None:
                return loads(HostStatus, data)
            if int(first.group(1)) > HostStatus.FORMAT:
                written = int(first.group(1))
                raise NewerFormat(
                    f"it has format {written}, a newer version's; this one reads up to {HostStatus.FORMAT}"
                )
            found = [text for _, text in sorted(_whole(data, int(first.group(2))))]
            if found:
                return from_json(HostStatus, parse(found[-1]))
            if look < _LOOKS - 1:  # both were just being written, one after the other
                time.sleep(_PAUSE)
        raise DecodeError("neither of its two slots is whole")

    def create(self, status: HostStatus) -> None:
        """Make the file, with room for what may come. Raises OSError where there is no room for it."""
        self._make(_text(status), _ROOM + _ROOM_EACH * len(status.everyone()), sequence=1)

    def write(self, status: HostStatus, *, urgent: bool = False) -> None:
        """Replace the status; `urgent`: the disk is to begin with it now. Raises OSError.

        What does not fit a slot gets a larger file, or, where there is no room for one, goes without the
        tails of logs, then without long texts and numbers.
        """
        text = _text(status)
        try:
            handle = open_safely(self.path, self._below, os.O_RDWR)
        except FileNotFoundError:
            return self.create(status)
        try:
            place = self._where(handle)
            if place is None:
                return self.create(status)
            room = place.size - _END
            if len(_slot(text, place.sequence)) > room:
                try:
                    return self._make(text, len(text) * 5 // 4, place.sequence)
                except OSError:
                    text = _fitting(status, room - len(_slot(b"", place.sequence)) - len(str(room)))
            self._write_slot(handle, place, text, urgent)
        finally:
            os.close(handle)

    def _write_slot(self, handle: int, place: _Place, text: bytes, urgent: bool) -> None:
        body = _slot(text, place.sequence)
        offset = _HEAD + place.slot * place.size
        self._place = None  # where this breaks off, the file is asked again
        _write_all(handle, body.ljust(place.used[place.slot]), offset)
        place.used[place.slot] = len(body)
        place.slot = 1 - place.slot
        place.sequence += 1
        self._place = place
        if urgent:
            # It need not be there when this returns, which may take long: with the next slot it mostly is.
            with contextlib.suppress(OSError):
                os.posix_fadvise(handle, offset, place.size, os.POSIX_FADV_DONTNEED)

    def _where(self, handle: int) -> Optional[_Place]:
        """The place of the next status; None where the file is none of slots."""
        inode = os.fstat(handle).st_ino
        if self._place is not None and self._place.inode == inode:
            return self._place
        first = _FIRST.match(os.pread(handle, _HEAD, 0))
        if first is None or int(first.group(1)) != HostStatus.FORMAT:
            return None
        size = int(first.group(2))
        data = os.pread(handle, _HEAD + 2 * size, 0)
        if len(data) < _HEAD + 2 * size:
            return None
        sequences = [-1, -1]
        for index in range(2):
            for sequence, _ in _whole(data, size, (index,)):
                sequences[index] = sequence
        older = sequences.index(min(sequences))
        return _Place(inode, size, older, max(0, *sequences) + 1, [size - _END] * 2)

    def _make(self, text: bytes, room: int, sequence: int) -> None:
        body = _slot(text, sequence)
        size = -(-max(room, len(body) + _END) // _PAGE) * _PAGE
        head = b'{"format": %d, "slot": %d, "slots": [' % (HostStatus.FORMAT, size)
        empty = b"null"
        with replacing(self.path) as file:
            file.write(head.ljust(_HEAD - 1) + b"\n")
            file.write(body.ljust(size - _END) + b" ,")
            file.write(empty.ljust(size - _END) + b"]}")
            file.flush()
            inode = os.fstat(file.fileno()).st_ino
        self._place = _Place(inode, size, 1, sequence + 1, [len(body), len(empty)])


def _text(status: HostStatus) -> bytes:
    return json.dumps(to_json(status)).encode()


def _checksum(text: bytes, sequence: int) -> int:
    return zlib.crc32(text, sequence & 0xFFFFFFFF)


def _slot(text: bytes, sequence: int) -> bytes:
    return b'[%d, %d, "%08x",\n%b%b' % (sequence, len(text), _checksum(text, sequence), text, _CLOSE)


def _whole(data: bytes, size: int, slots: Tuple[int, ...] = (0, 1)) -> Iterator[Tuple[int, bytes]]:
    """Sequence and text of the slots whose checksum fits."""
    for index in slots:
        start = _HEAD + index * size
        found = _SLOT.match(data, start, start + size)
        if found is None:
            continue
        sequence, length = int(found.group(1)), int(found.group(2))
        text = data[found.end() : min(found.end() + length, start + size)]
        if len(text) == length and _checksum(text, sequence) == int(found.group(3), 16):
            yield sequence, text


def _write_all(handle: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count


def _fitting(status: HostStatus, room: int) -> bytes:
    """The status with as much of its texts as fits into `room` bytes. Raises OSError where it cannot."""
    data = to_json(status)
    for less in (_without_tails, _with_short_texts, _without_numbers):
        data = less(data)
        text = json.dumps(data).encode()
        if len(text) <= room:
            return text
    raise OSError(f"a status of {len(text)} bytes does not fit its slot of {room}")


def _without_tails(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: [] if k in ("tail", "evidence") else _without_tails(v) for k, v in data.items()}
    return [_without_tails(each) for each in data] if isinstance(data, list) else data


def _with_short_texts(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _with_short_texts(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_with_short_texts(each) for each in data]
    return data[:_SHORT] if isinstance(data, str) else data


def _without_numbers(data: Any) -> Any:
    """Of a rank's progress only what says how far it is."""
    for rank in [*data["ranks"], *([data["scheduler"]] if data["scheduler"] else [])]:
        kept = ("step", "time", "total_steps", "first")
        rank["progress"] = {
            name: value
            for name, value in rank["progress"].items()
            if name in kept and len(json.dumps(value)) < _SHORT
        }
    return data
