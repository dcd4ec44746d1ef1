"""Just enough of the protobuf wire format to walk and to write MindSpore's files.

Walking never copies: a field is told as a span of the buffer, so a mapped file of many gigabytes costs
only the pages its headers are on. Format: https://protobuf.dev/programming-guides/encoding/.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple, Union

__all__ = ["Buffer", "Field", "WireError", "bytes_field", "fields", "integers", "varint", "varint_field"]

Buffer = Union[bytes, memoryview, mmap.mmap]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MASK64 = (1 << 64) - 1


class WireError(ValueError):
    """The bytes are no protobuf message."""


class Field(NamedTuple):
    """One field of a message: `value` of a varint, or the span `start:stop` of its bytes in the buffer."""

    number: int
    wire_type: int
    value: int
    start: int
    stop: int


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[Field]:
    """Every field of the message in `buffer[start:stop]`; WireError where it is none."""
    position = start
    while position < stop:
        # Nearly all keys and most lengths are one byte: a call for each would be most of the time.
        key = buffer[position]
        if key < 0x80:
            position += 1
        else:
            key, position = _read_varint(buffer, position, stop)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {position}")
        if wire_type == LENGTH and position < stop and buffer[position] < 0x80:
            value, begin, end = 0, position + 1, position + 1 + buffer[position]
        else:
            value, begin, end = _extent(buffer, position, stop, wire_type)
        if end > stop:
            raise WireError(f"a field at byte {position} needs {end - stop} bytes more than there are")
        yield Field(number, wire_type, value, begin, end)
        position = end


def _extent(buffer: Buffer, position: int, stop: int, wire_type: int) -> tuple[int, int, int]:
    if wire_type == VARINT:
        value, end = _read_varint(buffer, position, stop)
        return value, position, end
    if wire_type == LENGTH:
        length, begin = _read_varint(buffer, position, stop)
        return 0, begin, begin + length
    if wire_type == FIXED64:
        return 0, position, position + 8
    if wire_type == FIXED32:
        return 0, position, position + 4
    raise WireError(f"wire type {wire_type} at byte {position}")


def _read_varint(buffer: Buffer, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for count in range(_LONGEST_VARINT):
        if position + count >= stop:
            raise WireError(f"a number is cut off at byte {stop}")
        byte = buffer[position + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & _MASK64, position + count + 1
    raise WireError(f"a number at byte {position} is too long")


def integers(buffer: Buffer, field: Field, bits: int = 64) -> list[int]:
    """The signed integers of a repeated field's occurrence, packed or not."""
    if field.wire_type == VARINT:
        return [_signed(field.value, bits)]
    if field.wire_type != LENGTH:
        raise WireError(f"field {field.number} is not an integer")
    numbers, position = [], field.start
    while position < field.stop:
        value, position = _read_varint(buffer, position, field.stop)
        numbers.append(_signed(value, bits))
    return numbers


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint(value: int) -> bytes:
    """A base-128 number; negative ones as protobuf writes them, as 64-bit two's complement."""
    value &= _MASK64
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_field(number: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, payload: bytes) -> bytes:
    """A field that is a string, bytes or a message."""
    return varint(number << 3 | LENGTH) + varint(len(payload)) + payload
