"""Code that travels does what it did, in the lines where it stood."""

from __future__ import annotations

import io
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import CodeType
from typing import Any

import pytest

from orchestrator.hosts.agent_zip import agent_bundle, code_of
from orchestrator.hosts.lean_code import lean_code

SOURCE = """\
def fails(
    number,
):
    "A text."


    return [
        number
        / 0
        for _ in range(3)
    ]


def far():
"""


def functions_of(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from functions_of(each)


def test_a_traceback_has_its_lines() -> None:
    source = SOURCE + "\n" * 5000 + "    return fails(1)\n"
    names: dict[str, Any] = {}
    exec(lean_code(compile(source, "/a/long/way/off.py", "exec"), "thing.py"), names)
    with pytest.raises(ZeroDivisionError) as caught:
        names["far"]()
    told = [(each.filename, each.lineno) for each in traceback.extract_tb(caught.value.__traceback__)[1:]]
    assert (told[0], told[-1]) == (("thing.py", 5015), ("thing.py", 8))


def test_all_that_hosts_get_is_what_its_source_says() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        for where in map(PurePosixPath, archive.namelist()):
            source = archive.read(str(where))
            sent = code_of(".".join(where.with_suffix("").parts), where, source)
            meant = compile(source, str(where), "exec", dont_inherit=True, optimize=0)
            for mine, theirs in zip(functions_of(sent), functions_of(meant), strict=True):
                at = f"{where}: {theirs.co_name}"
                assert list(mine.co_lines()) == list(theirs.co_lines()), at
                assert mine.co_names == theirs.co_names and mine.co_filename == str(where), at


def test_what_nobody_reads_is_left_out() -> None:
    code = compile(SOURCE + "    return 1\n", "thing.py", "exec")
    lean = lean_code(code, "thing.py")
    columns = [position[2:] for each in functions_of(lean) for position in each.co_positions()]
    assert set(columns) == {(None, None)}
