"""Checks of containers: one line each for the runtime and for the image, and packages by what is inside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from orchestrator.config.container import Container
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.container_records import ImageFacts
from orchestrator.hosts.fleet import fleet_of
from orchestrator.preflight.checks_container import images_agree, runtimes_answer
from orchestrator.preflight.checks_software import packages_are_installed
from orchestrator.preflight.gather_facts import gather
from orchestrator.preflight.host_facts import Facts, Needs
from orchestrator.preflight.report import Level
from orchestrator.testing.standin_facts import host_facts
from tests.preflight.test_checks import ASCEND, facts_of

GOOD = ImageFacts("docker", "mf:1", "0123456789abcdef", "3.11.4")


def told(*images: ImageFacts | None) -> Facts:
    """Facts of one host for each of these."""
    base = facts_of(host_facts(0))
    return {
        f"npu{number}": dataclasses.replace(base, probe=dataclasses.replace(base.probe, image=image))
        for number, image in enumerate(images)
    }


def lines(facts: Facts) -> list[tuple[str, str, str]]:
    rows = [*runtimes_answer(ASCEND, facts), *images_agree(ASCEND, facts)]
    return [(row.host, row.level.name, row.what) for row in rows]


def test_a_line_for_the_runtime_and_one_for_the_image() -> None:
    assert lines(told(GOOD)) == [
        ("npu0", "OK", "docker"),
        ("npu0", "OK", "image 0123456789ab (Python 3.11.4)"),
    ]
    assert {level for _, level, _ in lines(told(None))} == {"SKIP"}


def test_an_image_that_differs_or_is_missing() -> None:
    other = dataclasses.replace(GOOD, digest="f" * 64)
    missing = ImageFacts("docker", "mf:1", image_trouble="No such image: mf:1\x1b[1m")
    found = lines(told(GOOD, GOOD, other, missing))
    assert (
        "npu2",
        "FAIL",
        "image ffffffffffff (Python 3.11.4), but 0123456789ab (Python 3.11.4) on npu[0-1]",
    ) in found
    (line,) = [what for host, level, what in found if host == "npu3" and level == "FAIL"]
    assert line.startswith("no image mf:1: No such image: mf:1") and "\x1b" not in line


def test_a_runtime_that_does_not_answer_and_an_image_without_python() -> None:
    dead = ImageFacts("docker", "mf:1", runtime_trouble="Cannot connect to the Docker daemon")
    empty = dataclasses.replace(GOOD, python=None, inside_trouble="python3: not found")
    found = lines(told(dead, empty))
    assert ("npu0", "FAIL", "docker: Cannot connect to the Docker daemon") in found
    assert ("npu0", "SKIP", "not known") in found
    assert ("npu1", "FAIL", "nothing runs in mf:1: python3: not found") in found


def test_what_is_to_be_mounted_and_is_not_there() -> None:
    found = lines(told(dataclasses.replace(GOOD, missing_mounts=("/data",))))
    assert ("npu0", "FAIL", "/data does not exist, and is to be mounted") in found


def test_packages_are_those_of_the_image() -> None:
    needs = dataclasses.replace(ASCEND, packages=("mindspore",))
    facts = told(GOOD)
    fact = facts["npu0"]
    bare = dataclasses.replace(fact, probe=dataclasses.replace(fact.probe, packages={"mindspore": None}))
    (row,) = packages_are_installed(needs, {"npu0": bare})
    assert (row.level, row.what) == (Level.FAIL, "mindspore is not installed in the image mf:1")


def test_a_host_without_the_runtime_says_so(tmp_path: Path) -> None:
    """By its real agent; the client of Docker is there on some machines, its daemon on few of these."""
    container = Container(image="none:1", runtime="nerdctl")
    host = Host(name="a", transport="local", workdir=str(tmp_path / "w"), container=container)
    with fleet_of((host,), SshOptions()) as fleet:
        facts, errors = gather(Needs(hosts=(host,), packages=("pip",)), fleet)
    assert errors == {} and facts["a"].probe.image is not None
    assert "nerdctl" in facts["a"].probe.image.runtime_trouble
    assert facts["a"].environment_unknown
