"""Collect, combine, split, transform and convert write the very bytes that they wrote before.

The list was made by commit afcecfb's code. Where an output changes on purpose:

    PYTHONPATH=. python -m tests.golden.test_bytes

writes `bytes.json` anew; the message of the commit says why.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.golden.byte_cases import CASES, Case

GOLDEN = Path(__file__).with_name("bytes.json")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_bytes_are_the_same(tmp_path: Path, case: Case) -> None:
    assert case.sums(tmp_path) == json.loads(GOLDEN.read_text())[case.name]


def write() -> None:
    golden = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            golden[case.name] = case.sums(Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write()
