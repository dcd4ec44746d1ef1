"""Whatever the file holds: it is read, or refused with a ConfigError of single lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.errors import ConfigError
from tests.config.support import HOSTS, JOB

VALUES = [
    "",
    "null",
    "true",
    "yes",
    "0",
    "-1",
    "1e-3",
    ".nan",
    ".inf",
    "010",
    "'x'",
    "~",
    "[]",
    "{}",
    "[1, 2]",
    "{a: 1}",
    "[[1]]",
    "[{}]",
    "[null]",
    "{id: 0}",
    "n[1-2]",
    "n[",
    "@a",
    "'!a'",
    "*a",
    "&a",
    "!t",
    "'\u0000'",
    '"\\0"',
    '"a\\nb"',
    "9" * 30,
    "tiny",
    "all",
    "127.0.0.1",
    "::1",
    "~/x",
    "../x",
    "x" * 300,
]


def _places(text: str) -> list[tuple[int, int]]:
    """Where a value stands: after a colon or a bracket, up to the next mark."""
    found = []
    for start, char in enumerate(text):
        if char in ":[{,":
            end = start + 1
            while end < len(text) and text[end] not in ",]}\n":
                end += 1
            found.append((start + 1, end))
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.parametrize(
    ("text", "load"), [(JOB, load_job), (HOSTS, load_inventory)], ids=["job", "inventory"]
)
def test_a_value_of_any_kind_anywhere(tmp_path: Path, text: str, load: object, data: st.DataObject) -> None:
    assert callable(load)
    full = text + "hosts: all\nenv: {A: b}\nsync: [x]\n" if text is JOB else text + "groups: {g: [npu1]}\n"
    for _ in range(data.draw(st.integers(1, 3))):
        start, end = data.draw(st.sampled_from(_places(full)))
        full = f"{full[:start]} {data.draw(st.sampled_from(VALUES))}{full[end:]}"
    path = tmp_path / "f.yaml"
    path.write_text(full)
    try:
        load(path)
    except ConfigError as error:
        assert error.lines()
        assert not [line for line in error.lines() if not line.isprintable()]
