"""Code that is to travel: without what nobody reads where it goes, which is a quarter of it.

A code object says of each instruction in which columns of its line it is written, for the
marks below the lines of a traceback. The lines themselves are kept, and so is what the code does.
"""

from __future__ import annotations

from types import CodeType

__all__ = ["lean_code"]

# How an entry of the table begins (CPython, InternalDocs/code_objects.md): a line without columns, no line.
_LINE, _NOWHERE = 0x80 | 13 << 3, 0x80 | 15 << 3
_MOST_UNITS = 8


def lean_code(code: CodeType, name: str) -> CodeType:
    """The code as if compiled of a file of this name, with all functions in it."""
    consts = tuple(lean_code(each, name) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_filename=name, co_consts=consts, co_linetable=_lines_of(code))


def _lines_of(code: CodeType) -> bytes:
    """The table of its lines, without columns."""
    table, before = bytearray(), code.co_firstlineno
    for start, end, line in code.co_lines():
        units = (end - start) // 2
        while units > 0:
            count = units if units < _MOST_UNITS else _MOST_UNITS
            units -= count
            if line is None:
                table.append(_NOWHERE | count - 1)
                continue
            table.append(_LINE | count - 1)
            # Six bits in a byte, the lowest first; the lowest of all is the sign.
            left = line - before << 1 if line >= before else before - line << 1 | 1
            before = line
            while left > 0x3F:
                table.append(0x40 | left & 0x3F)
                left >>= 6
            table.append(left)
    return bytes(table)
