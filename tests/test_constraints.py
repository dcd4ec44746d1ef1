"""The pinned versions are those that setup.cfg allows, all of them, and every file of them has its hash."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = ("constraints.txt", "constraints-oldest.txt", "constraints-light.txt")
# An environment that has nothing of ours in it: MindFormers, and what it needs.
MINDFORMERS = "constraints-mindformers.txt"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
LIGHT = SETUP["options"]["install_requires"].split("\n")
ALL = [
    *LIGHT,
    *(line for extra in ("worker", "test") for line in SETUP["options.extras_require"][extra].split("\n")),
]


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def entries(file: str) -> dict[Requirement, list[str]]:
    """Each pinned requirement of a file with its hashes; what is for other systems left out."""
    text = (ROOT / file).read_text().replace("\\\n", "")
    lines = [line.split(" --hash=") for line in text.splitlines() if line[0] not in "# "]
    made = {Requirement(pin): hashes for pin, *hashes in lines}
    return {pin: hashes for pin, hashes in made.items() if pin.marker is None or pin.marker.evaluate()}


def versions(file: str) -> dict[str, str]:
    pins = {name_of(pin): list(pin.specifier) for pin in entries(file)}
    assert all(len(pin) == 1 and pin[0].operator == "==" for pin in pins.values())
    return {name: pin[0].version for name, pin in pins.items()}


@pytest.mark.parametrize("file", [*FILES, MINDFORMERS])
def test_every_pin_has_hashes(file: str) -> None:
    found = entries(file)
    assert len(found) > 20
    for pin, hashes in found.items():
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", each.strip()) for each in hashes), pin


@pytest.mark.parametrize(("file", "asked"), [*((file, ALL) for file in FILES[:2]), (FILES[2], LIGHT)])
def test_setup_asks_for_nothing_that_is_not_pinned(file: str, asked: list[str]) -> None:
    pinned = versions(file)
    for requirement in map(Requirement, filter(None, asked)):
        assert requirement.specifier.contains(pinned[name_of(requirement)]), (
            f"make constraints: {requirement}"
        )


@pytest.mark.parametrize("file", FILES[1:])
def test_all_install_the_same_versions(file: str) -> None:
    """But for MindSpore, of which the oldest is the point, and NumPy where MindSpore cannot be."""
    whole, other = versions(FILES[0]), versions(file)
    assert {name for name in other if whole.get(name) != other[name]} <= {"mindspore"}


def test_the_oldest_mindspore_is_the_oldest_that_setup_allows() -> None:
    [mindspore] = [Requirement(line) for line in ALL if line.startswith("mindspore")]
    lowest = [each.version for each in mindspore.specifier if each.operator == ">="]
    assert [versions("constraints-oldest.txt")["mindspore"]] == lowest


def test_mindformers_is_run_by_the_versions_that_all_else_is_tested_with() -> None:
    """But for those that its own packages hold back, which the Makefile names."""
    whole, other = versions(FILES[0]), versions(MINDFORMERS)
    [held] = re.findall(r"^OF_ITS_OWN := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name for name in other if whole.get(name, other[name]) != other[name]} == set(held.split())
    assert other["mindformers"] and other["mindspore"] == whole["mindspore"]
