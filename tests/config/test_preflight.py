"""Facts of hosts in, findings out: one check, one test."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import HostsFailed, PreflightError
from orchestrator.inventory import Host
from orchestrator.preflight import CHECKS, Needs, judge

A, B = Host(name="a", env_script="/opt/env.sh"), Host(name="b")
NEEDS = Needs(hosts=(A, B), packages=("mindspore",), shipped_bytes=1 << 20)


def fact(**changes: Any) -> dict[str, Any]:
    return {
        "workdir": "/w",
        "executable": "/usr/bin/python3",
        "writable": True,
        "free_bytes": 1 << 30,
        "busy_devices": [],
        "env_script_exists": True,
        "packages": {"mindspore": "2.10.0"},
        "missing_paths": [],
        **changes,
    }


def test_fit_hosts_pass() -> None:
    judge(NEEDS, {"a": fact(), "b": fact()})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"writable": False}, "a: no write access to /w (set another `workdir:`)"),
        (
            {"free_bytes": 65 << 20},
            "a: no space: 65 MiB free in /w, 66 MiB needed (free space there, or set another `workdir:`)",
        ),
        ({"busy_devices": [0, 3]}, "a: device 0, 3 is in use by another run (see `orchestrate runs`)"),
        ({"env_script_exists": False}, "a: env_script /opt/env.sh does not exist (mend the inventory)"),
        (
            {"packages": {"mindspore": None}},
            "a: mindspore is not installed for /usr/bin/python3"
            " (install it there (`/usr/bin/python3 -m pip install mindspore`) or set `python:`)",
        ),
        (
            {"missing_paths": ["/data/x.json"]},
            "a: /data/x.json does not exist"
            " (put it there, or give a path relative to the job file to have it shipped)",
        ),
    ],
    ids=["write", "space", "device", "env_script", "package", "path"],
)
def test_an_unfit_host(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(PreflightError) as caught:
        judge(NEEDS, {"a": fact(**changes), "b": fact()})
    assert caught.value.lines() == [line]
    assert caught.value.exit_code == 4


def test_versions_are_compared_with_the_first_host() -> None:
    with pytest.raises(PreflightError) as caught:
        judge(NEEDS, {"a": fact(), "b": fact(packages={"mindspore": "2.9.0"})})
    assert caught.value.lines() == [
        "b: mindspore 2.9.0, but 2.10.0 on a (install the same version on all hosts)"
    ]


def test_just_enough_space_is_enough() -> None:
    judge(NEEDS, {"a": fact(free_bytes=66 << 20), "b": fact()})


def test_all_findings_of_a_host_are_on_its_line() -> None:
    with pytest.raises(PreflightError) as caught:
        judge(NEEDS, {"a": fact(writable=False, missing_paths=["/x", "/y"]), "b": fact()})
    assert caught.value.lines() == [
        "a: no write access to /w; /x does not exist; /y does not exist (set another `workdir:`;"
        " put it there, or give a path relative to the job file to have it shipped)"
    ]


def test_hosts_with_one_trouble_share_a_line() -> None:
    with pytest.raises(HostsFailed) as caught:
        judge(NEEDS, {"a": fact(writable=False), "b": fact(writable=False)})
    assert caught.value.lines() == ["a, b: no write access to /w (set another `workdir:`)"]
    assert caught.value.exit_code == 4


def test_a_command_needs_no_package() -> None:
    judge(Needs((A, B), (), 0), {"a": fact(packages={}), "b": fact(packages={})})


def test_every_check_has_its_own_name() -> None:
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)
