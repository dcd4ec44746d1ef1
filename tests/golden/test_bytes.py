"""Collect, combine, split, transform and convert write the very bytes that they wrote before.

The list was made by commit afcecfb's code, and again when parameters lost the prefix of their names, and
moments that the data group alone cuts got a plain cut; that nothing else has changed since is tested, too.
Where an output changes on purpose:

    PYTHONPATH=. python -m tests.golden.test_bytes

writes `bytes.json` anew where it differs from that list by names alone; the message of the commit says why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

from tests.golden.byte_cases import CASES, Case
from tests.golden.names_before import BEFORE, sums_before

GOLDEN = Path(__file__).with_name("bytes.json")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_bytes_are_the_same(tmp_path: Path, case: Case) -> None:
    sums = case.sums(tmp_path / "work")
    assert sums == json.loads(GOLDEN.read_text())[case.name]
    before = sums_before(tmp_path / "work", sums, tmp_path / "scratch")
    assert before == json.loads(BEFORE.read_text())[case.name]


def write() -> None:
    golden, known = {}, json.loads(BEFORE.read_text())
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder) / "work"
            golden[case.name] = sums = case.sums(work)
            before = sums_before(work, sums, Path(folder) / "scratch")
        differ = sorted(name for name, then in known[case.name].items() if before.get(name) != then)
        if differ or before.keys() != known[case.name].keys():
            sys.exit(f"{case.name}: not by names alone: {', '.join(differ) or 'other files'}")
        print(f"{case.name}: {len(sums)} files differ from before by names alone")
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write()
