"""The range of MindSpore versions, by PEP 440 as `packaging` reads it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from orchestrator.preflight.versions import SUPPORTED, compared

ROOT = Path(__file__).parents[2]
RANGE = SpecifierSet(SUPPORTED)
VERSIONS = [
    "0.7",
    "1.10.1",
    "2.2.14",
    "2.6.0",
    "2.7.0",
    "2.7.1rc1",
    "2.7.1.dev20250901",
    "2.7.1a2",
    "2.7.1",
    "2.7.1.0",
    "2.7.1.post1",
    "2.7.1+ascend",
    "2.7.1+cann.8-3_rc1",
    "2.7.1-1",
    "2.8.0rc1.post2.dev3+x",
    "2.8.0-RC_1",
    "2.7.1.r3",
    "2.7.2",
    "2.8.0rc1",
    "2.8.0.dev20250901",
    "2.9",
    "2.10.0",
    "2.10.99",
    "2.11",
    "2.11.0rc1",
    "2.11.0",
    "2.11.0.dev1",
    "2.12.3",
    "3.0.0",
]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_stands_to_the_range_as_packaging_says(version: str) -> None:
    expected = "supported" if RANGE.contains(version, prereleases=True) else "outside"
    if expected == "outside":
        expected = "older" if Version(version) < Version("2.7.1") else "newer"
    assert compared(version) == expected


@pytest.mark.parametrize("version", ["", "master", "v2.10", "..1", "9" * 30, "２.10"])
def test_what_is_no_version(version: str) -> None:
    assert compared(version) == "unknown"


@pytest.mark.parametrize(
    "rest",
    [
        "\x1b[31m",
        "\\x1b[31m",
        " foo",
        "; rm",
        "garbage",
        "\n2",
        "..",
        ".",
        "+",
        "+a+b",
        "é",
        "rc1rc2",
        "$(id)",
    ],
)
def test_what_is_a_version_at_its_beginning_only(rest: str) -> None:
    with pytest.raises(InvalidVersion):
        Version(f"2.10.0{rest}")
    assert compared(f"2.10.0{rest}") == "unknown"


def test_setup_says_the_same_range() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    worker = setup["options.extras_require"]["worker"].split()
    assert f"mindspore{SUPPORTED}" in worker


def test_the_version_that_is_tested_most_is_of_the_range() -> None:
    pins = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert compared(pins["mindspore"]) == "supported"
