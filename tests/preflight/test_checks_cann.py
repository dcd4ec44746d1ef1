"""What CANN gives the workers: answers of the agent in, findings out."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config.inventory import Device, Host
from orchestrator.core.codec import DecodeError
from orchestrator.core.errors import AnswerError
from orchestrator.preflight.host_facts import HostFacts, Needs
from orchestrator.preflight.report import Level, Report
from orchestrator.testing.standin_facts import host_facts
from tests.preflight.test_checks import ASCEND, bad, cann, facts_of, machine, report

BUNDLED = dataclasses.replace(ASCEND, packages=("mindspore",))
COMMAND = dataclasses.replace(ASCEND, mindspore=False)
WITHOUT_JOB = dataclasses.replace(BUNDLED, ascend=None, has_job=False)
OLD = {"asked": {"versions": ["7.8", "8.2", "8.3"], "opp_kernel": True}}
TBE = "opp/built-in/op_impl/ai_core/tbe"


def host(**changes: Any) -> HostFacts:
    """Host `a`, whose agent tells something else of its CANN."""
    return facts_of(host_facts(0, count=2), ascend=cann(**changes))


def without(*names: str) -> dict[str, Any]:
    return {name: file for name, file in cann()["modules"].items() if name.partition(".")[0] not in names}


def finding(needs: Needs, fact: HostFacts, check: str) -> tuple[Level, str, str]:
    """Level, text and remedy of the one result that this check has for host `a`."""
    (row,) = [
        row for row in report(needs, a=fact, b=machine(1)).rows() if row.check == check and "a" in row.hosts
    ]
    return row.level, row.text, row.remedy


def test_a_host_whose_login_has_no_cann() -> None:
    """Everything that its set_env.sh sets is lacking: one line, with the script to name."""
    bare = host(modules=dict.fromkeys(cann()["modules"]), variables={}, compiler=None,
                set_env="/usr/local/Ascend/cann/set_env.sh")  # fmt: skip
    scriptless = dataclasses.replace(BUNDLED, hosts=tuple(
        replace(each, env_script=None) for each in BUNDLED.hosts
    ))  # fmt: skip
    assert finding(scriptless, bare, "CANN Python") == (
        Level.FAIL,
        "the workers' Python finds no hccl and no tbe; there is no te; "
        f"PYTHONPATH is without {TBE}; LD_LIBRARY_PATH is without CANN's lib64; "
        "ASCEND_OPP_PATH names no opp folder",
        "set `env_script: /usr/local/Ascend/cann/set_env.sh`",
    )


@pytest.mark.parametrize(
    ("needs", "missing", "level", "text"),
    [
        (BUNDLED, ("hccl",), Level.FAIL, "the workers' Python finds no hccl"),
        (BUNDLED, ("tbe",), Level.FAIL, "the workers' Python finds no tbe"),
        # MindSpore goes on, and says so in a log.
        (BUNDLED, ("te",), Level.WARN, "there is no te"),
        # A command may be no MindSpore, and without a job nobody has asked.
        (COMMAND, ("hccl", "tbe"), Level.WARN, "the workers' Python finds no hccl and no tbe"),
        (WITHOUT_JOB, ("hccl",), Level.WARN, "the workers' Python finds no hccl"),
    ],
)
def test_a_module_that_lacks(needs: Needs, missing: tuple[str, ...], level: Level, text: str) -> None:
    found = bad(needs, a=host(modules=without(*missing)), b=machine(1))
    assert found == [("CANN Python", "a", level, text)]


def test_one_device_alone_needs_no_hccl() -> None:
    single = dataclasses.replace(BUNDLED, hosts=BUNDLED.hosts[:1], devices={"a": (0,)})
    assert bad(single, a=host(modules=without("hccl"))) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("PYTHONPATH", "/cann/python/site-packages", f"PYTHONPATH is without {TBE}"),
        ("LD_LIBRARY_PATH", "/usr/lib", "LD_LIBRARY_PATH is without CANN's lib64"),
        ("ASCEND_OPP_PATH", None, "ASCEND_OPP_PATH names no opp folder"),
    ],
)
def test_what_mindspore_warns_of_is_a_warning(name: str, value: str | None, text: str) -> None:
    variables = {**cann()["variables"], name: value}
    assert bad(BUNDLED, a=host(variables=variables), b=machine(1)) == [("CANN Python", "a", Level.WARN, text)]


def test_an_old_mindspore_does_not_start_without_more() -> None:
    assert bad(BUNDLED, a=host(**OLD, opp_kernel=True), b=machine(1)) == []
    variables = {**cann()["variables"], "ASCEND_OPP_PATH": None}
    old = dataclasses.replace(host(**OLD, variables=variables).probe, packages={"mindspore": "2.7.1"})
    fact = dataclasses.replace(host(), probe=old)
    assert finding(dataclasses.replace(BUNDLED, packages=("other",)), fact, "CANN Python")[:2] == (
        Level.FAIL,
        "ASCEND_OPP_PATH is not set, without which MindSpore 2.7.1 does not start",
    )
    assert finding(BUNDLED, host(**OLD), "CANN Python")[:2] == (
        Level.FAIL,
        "CANN has no opp_kernel folder, without which MindSpore 2.10.0 does not start",
    )


@pytest.mark.parametrize(
    ("script", "there", "remedy"),
    [
        (None, None, "install CANN's toolkit, and let `env_script:` name its set_env.sh"),
        ("/opt/env.sh", None, "install CANN's toolkit, and let `env_script:` name its set_env.sh"),
        (None, "/a/set_env.sh", "set `env_script: /a/set_env.sh`"),
        ("/opt/env.sh", "/a/set_env.sh", "let env_script /opt/env.sh source /a/set_env.sh"),
        (
            "/a/set_env.sh",
            "/a/set_env.sh",
            "see what /a/set_env.sh does: it may be another package's, or its toolkit is not whole",
        ),
        (None, "/a/\x1b[31m\n.sh", "set `env_script: /a/\\x1b[31m\\n.sh`"),
    ],
)
def test_the_remedy_names_the_script_that_is_there(
    script: str | None, there: str | None, remedy: str
) -> None:
    one = Host(name="a", env_script=script, devices=(Device(id=0), Device(id=1)))
    needs = dataclasses.replace(BUNDLED, hosts=(one, *BUNDLED.hosts[1:]))
    assert finding(needs, host(modules={}, set_env=there), "CANN Python")[2] == remedy


def test_where_it_comes_from_is_told() -> None:
    assert finding(BUNDLED, host(), "CANN Python")[:2] == (Level.OK, "hccl in /cann/python/site-packages")
    scriptless = dataclasses.replace(BUNDLED, hosts=tuple(
        replace(each, env_script=None) for each in BUNDLED.hosts
    ))  # fmt: skip
    assert finding(scriptless, host(), "CANN Python")[1] == (
        "hccl in /cann/python/site-packages; PYTHONPATH is the account's: "
        f"/cann/python/site-packages:/cann/{TBE}:"
    )


@pytest.mark.parametrize(
    ("compiler", "level", "text"),
    [
        ({"version": "8.3.0.1.200", "release": "8.3.RC1"}, Level.OK, "8.3 is one that MindSpore takes"),
        ({"version": "9.0"}, Level.OK, "9.0 is one that MindSpore takes"),
        (
            {"version": "7.7.0.1.238", "release": "8.1.RC1"},
            Level.WARN,
            "CANN's compiler is 7.7 (8.1.RC1), but MindSpore 2.10.0 takes 8.2, 8.3, 8.5, 9.0, 9.1",
        ),
        (
            {"version": "8.30"},
            Level.WARN,
            "CANN's compiler is 8.30, but MindSpore 2.10.0 takes 8.2, 8.3, 8.5, 9.0, 9.1",
        ),
        (None, Level.SKIP, "no compiler/version.info under ASCEND_HOME_PATH"),
    ],
)
def test_the_versions_that_the_hosts_own_mindspore_takes(
    compiler: dict[str, str] | None, level: Level, text: str
) -> None:
    assert finding(BUNDLED, host(compiler=compiler), "CANN fits")[:2] == (level, text)


def test_without_mindspore_no_version_of_cann_is_wrong() -> None:
    text = "no MindSpore there that names the versions it takes"
    for asked in (None, {"versions": [], "opp_kernel": False}):
        assert finding(COMMAND, host(asked=asked), "CANN fits")[:2] == (Level.SKIP, text)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, []),
        ("0,1", []),
        ("0,1,2,3,4,5,6,7", []),
        ("2,3", [(Level.FAIL, "0-1", "2,3", " (it ends before 2, for there are 2 devices)", 0)]),
        ("1", [(Level.FAIL, "0-1", "1", "", 1)]),
        ("0", [(Level.FAIL, "1", "0", "", 1)]),
        ("1,0", [(Level.FAIL, "0-1", "1,0", " (the ids must ascend)", 0)]),
        ("", [(Level.FAIL, "0-1", "", " (it begins with no device id)", 0)]),
        ("0,,1", [(Level.FAIL, "1", "0,,1", " (it ends before ',,1')", 1)]),
        ("0, 1", [(Level.FAIL, "1", "0, 1", " (it ends before ', 1')", 1)]),
        ("0-1", [(Level.FAIL, "1", "0-1", " (it ends before '-1')", 1)]),
    ],
)
def test_visible_devices_must_leave_the_jobs_numbers(
    value: str | None, found: list[tuple[Level, str, str, str, int]]
) -> None:
    environment = {} if value is None else {"ASCEND_RT_VISIBLE_DEVICES": value}
    fact = facts_of(host_facts(0, count=2), environment=environment)
    assert bad(BUNDLED, a=fact, b=machine(1)) == [
        (
            "visible",
            "a",
            level,
            f"device {devices}: ASCEND_RT_VISIBLE_DEVICES is {said!r}{why}; "
            f"with it CANN shows {count} devices, numbered from 0: not these",
        )
        for level, devices, said, why, count in found
    ]


def test_visible_devices_of_the_job_are_the_jobs() -> None:
    needs = dataclasses.replace(BUNDLED, env={"ASCEND_RT_VISIBLE_DEVICES": "1"})
    given = facts_of(host_facts(0, count=2), environment={"ASCEND_RT_VISIBLE_DEVICES": "1"})
    assert finding(needs, given, "visible")[2] == "remove it from the job's env"
    assert finding(BUNDLED, given, "visible")[2] == "remove it from the host's env_script or login"
    # Where the agent could not look, the job's own is still known.
    assert finding(needs, host(), "visible")[2] == "remove it from the job's env"


def test_a_job_of_some_devices_is_judged_by_those() -> None:
    needs = dataclasses.replace(BUNDLED, devices={"a": (0,), "b": (0, 1)})
    given = facts_of(host_facts(0, count=2), environment={"ASCEND_RT_VISIBLE_DEVICES": "0"})
    assert bad(needs, a=given, b=machine(1)) == []
    odd = facts_of(host_facts(0, count=2), environment={"ASCEND_RT_VISIBLE_DEVICES": "0;1"})
    assert bad(needs, a=odd, b=machine(1)) == [
        ("visible", "a", Level.WARN, "ASCEND_RT_VISIBLE_DEVICES is '0;1' (it ends before ';1')")
    ]


def test_a_chip_that_is_not_the_inventorys() -> None:
    named = tuple(replace(each, chip="910A") for each in BUNDLED.hosts)
    needs = dataclasses.replace(BUNDLED, hosts=named)
    assert bad(needs, a=machine(0)) == [
        ("chip", "a", Level.FAIL, "its chip is 910B1 by npu-smi, 910A by the inventory")
    ]
    right = tuple(replace(each, chip="910B") for each in BUNDLED.hosts)
    assert bad(dataclasses.replace(BUNDLED, hosts=right), a=machine(0)) == []


def test_one_job_runs_on_one_kind_of_chip() -> None:
    facts = {"a": machine(0), "b": machine(1), "c": facts_of(host_facts(2, "910A", count=2))}
    found = [each for each in bad(BUNDLED, **facts) if each[0] == "chip"]
    assert found == [("chip", "c", Level.FAIL, "chip 910A, but 910B on a,b")]
    found = [each for each in bad(WITHOUT_JOB, **facts) if each[0] == "chip"]
    assert found == [("chip", "c", Level.WARN, "chip 910A, but 910B on a,b")]


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ("2.6.0", Level.FAIL, "mindspore 2.6.0 is older than what is supported (>=2.7.1,<2.11)"),
        ("2.11.0", Level.WARN, "mindspore 2.11.0 is newer than what was tested (>=2.7.1,<2.11)"),
        ("main\x1b[1m", Level.WARN, "mindspore main\\x1b[1m is no version that was tested (>=2.7.1,<2.11)"),
    ],
)
def test_a_mindspore_outside_the_range(version: str, level: Level, text: str) -> None:
    fact = facts_of(host_facts(0, count=2), packages={"mindspore": version})
    assert bad(BUNDLED, a=fact) == [("packages", "a", level, text)]
    assert bad(WITHOUT_JOB, a=fact) == [("packages", "a", Level.WARN, text)]
    assert bad(COMMAND, a=fact) == []


def test_the_default_of_connecting_depends_on_whose_process_it_is() -> None:
    needs = dataclasses.replace(ASCEND, env={"HCCL_EXEC_TIMEOUT": "300"})
    text = "HCCL_CONNECT_TIMEOUT is not set, so 600 by MindSpore, which is not below HCCL_EXEC_TIMEOUT 300"
    assert bad(needs, a=machine(0)) == [("environment", "a", Level.FAIL, text)]
    unknown = dataclasses.replace(needs, mindspore=False)
    assert bad(unknown, a=machine(0)) == [("environment", "a", Level.WARN, text)]


def test_a_script_that_fails_is_told_once() -> None:
    trouble = {
        "environment_trouble": "ends with exit code 126, without an answer",
        "packages": {"mindspore": None},
    }
    text = "env_script /opt/env.sh ends with exit code 126, without an answer"
    # As the agent tells it then: none of CANN's modules, no version, no variables.
    nothing = cann(modules=dict.fromkeys(cann()["modules"]), variables={}, compiler=None)
    for ascend in (None, nothing):
        fact = facts_of(host_facts(0, count=2), **trouble, ascend=ascend, cann=None)
        assert bad(BUNDLED, a=fact, b=machine(1)) == [("env script", "a", Level.FAIL, text)]
        # The variables of the job are not judged either, good or bad: a script may have changed them.
        for value in ("200", "0"):
            env = {"HCCL_BUFFSIZE": value, "ASCEND_RT_VISIBLE_DEVICES": "5"}
            needs = dataclasses.replace(BUNDLED, env=env)
            for check in ("CANN", "CANN fits", "CANN Python", "environment", "visible"):
                assert finding(needs, fact, check) == (Level.SKIP, "not known", ""), check


JUNK: list[Any] = [
    None,
    0,
    "x",
    [],
    {},
    {"modules": 1},
    [["a"]],
    {"modules": {"te": 3}, "asked": {"versions": "8"}},
]


def told_by_a(**changes: Any) -> Report:
    """What is found where host `a` says something else: nothing of it is used where it is no answer."""
    others = {"b": machine(1), "c": machine(2)}
    try:
        return report(BUNDLED, a=facts_of(host_facts(0, count=2), **changes), **others)
    except DecodeError as error:
        return report(BUNDLED, {"a": AnswerError(str(error), where="a")}, **others)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("key", ["ascend", "environment", "packages", "environment_trouble", "cann"])
def test_an_agent_that_lies_does_no_harm(key: str, junk: Any) -> None:
    found = told_by_a(**{key: junk})
    rows = list(found.rows())
    assert {row.check for row in rows} >= {"CANN", "CANN fits", "CANN Python", "visible", "packages"}
    assert list(found.errors) in ([], ["a"])
    # Whatever it says of itself, nobody else is accused.
    assert {host for row in rows if row.level in (Level.WARN, Level.FAIL) for host in row.hosts} <= {"a"}


@pytest.mark.parametrize("key", ["modules", "variables", "set_env", "asked", "compiler", "opp_kernel"])
@pytest.mark.parametrize("junk", JUNK)
def test_a_part_of_its_answer_that_lies_does_no_harm(key: str, junk: Any) -> None:
    rows = list(told_by_a(ascend=cann(**{key: junk})).rows())
    assert {host for row in rows if row.level in (Level.WARN, Level.FAIL) for host in row.hosts} <= {"a"}
