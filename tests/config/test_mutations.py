"""Thousands of damaged files: each is good after all, or refused in clean lines; never a traceback."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.errors import ConfigError
from orchestrator.plan.make_plan import make_plan

ROOT = Path(__file__).parents[2]
WORD = re.compile(rb"[\w./\[\]-]+")
# What people, editors and converters leave behind, and what loaders stumble over.
SPLINTERS = (
    *(b"null", b"~", b"true", b"[]", b"{}", b"''", b"5", b"-1", b"1e400", b".inf", b".nan", b"010", b"1.5"),
    *(b"99999999999999999999", b"[a, [b]]", b"{a: {b: c}}", b"*x", b"&x ", b"<<: *x", b"!!int ", b"!foo "),
    *(
        b"\t",
        b"\n",
        b"\r",
        b"\xe2\x80\xa8",
        b"\x00",
        b"\xff",
        b'"\\0"',
        b'"a\\nb"',
        b'"\\e[31m"',
        b"- ",
        b": ",
    ),
    *(b"#", b"---\n", b"? ", b"|", b">", b"%", b"@", b"`", b"'", b'"', b"[1-", b"]", b"[3-1]", b"{", b"}"),
    *(
        b"[1-99999999]",
        b"x" * 3000,
        b"~/x",
        b"~nobody/x",
        b"/",
        b"..",
        b"{name}",
        b"{where}",
        b"fe80::1",
        b"all",
    ),
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        splinter = rng.choice(SPLINTERS)
        at = rng.randrange(len(data) + 1)
        words = [match.span() for match in WORD.finditer(data)] or [(0, 0)]
        (start, end), (other, other_end) = rng.choice(words), rng.choice(words)
        lines = data.split(b"\n")
        row = rng.randrange(len(lines))
        data = rng.choice(
            (
                data[:at] + splinter + data[at:],
                data[:at] + data[at + rng.randrange(1, 12) :],
                data[:start] + splinter + data[end:],
                data[:start] + data[other:other_end] + data[end:],
                b"\n".join(lines[:row] + lines[row + 1 :]),
                b"\n".join([*lines[:row], lines[row], *lines[row:]]),
                b"\n".join([*lines[:row], b"  " + lines[row], *lines[row + 1 :]]),
                b"\n".join(
                    [*lines[:row], lines[row].partition(b": ")[0] + b": " + splinter, *lines[row + 1 :]]
                ),
            )
        )
    return data


def check_lines(error: ConfigError, name: str) -> None:
    assert error.lines()
    for line in error.lines():
        assert line.isprintable() and len(line) < 1200 and name in line, ascii(line)


@pytest.mark.parametrize("path", sorted((ROOT / "inventory").glob("*.yaml")), ids=lambda path: path.name)
def test_damaged_inventories(tmp_path: Path, path: Path) -> None:
    rng = random.Random(path.name)
    target = tmp_path / path.name
    for _ in range(300):
        target.write_bytes(damaged(path.read_bytes(), rng))
        try:
            load_inventory(target)
        except ConfigError as error:
            check_lines(error, path.name)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_damaged_jobs(tmp_path: Path, path: Path) -> None:
    rng = random.Random(path.name)
    target = tmp_path / path.name
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo.json").write_text("[]")
    hosts = load_inventory(ROOT / "inventory/ascend_16x8.yaml")
    for _ in range(300):
        target.write_bytes(damaged(path.read_bytes(), rng))
        try:
            make_plan(load_job(target), hosts)
        except ConfigError as error:
            check_lines(error, path.name)
