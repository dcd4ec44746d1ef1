"""The spares of a job: which hosts they are, and what is refused before a host is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.inventory import Inventory
from orchestrator.control.resume import Changes, next_job
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from orchestrator.plan.placement import hosts_of
from orchestrator.plan.spare_hosts import kept_inventory
from tests.config.support import inventory, job, lines_of

JOB = """\
name: demo
task: command
command: [run]
devices_per_host: 2
device_target: CPU
networking: {mode: dynamic}
restart:
  max: 3
  spares: idle
"""
HOSTS = """\
defaults: {devices: 0-1}
hosts:
  - {name: 'n[1-4]', address: '10.0.0.[1-4]'}
groups:
  idle: n[3-4]
  all_of_them: n[1-4]
"""


def _plan(folder: Path, hosts: str = HOSTS, *overrides: str) -> LaunchPlan:
    return make_plan(job(folder, JOB, *overrides), inventory(folder, hosts))


def _names(plan: LaunchPlan) -> tuple[list[str], list[str]]:
    return [host.name for host in plan.hosts], [host.name for host in plan.spares]


def test_all_hosts_are_all_but_the_spares_and_a_note_says_so(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    assert _names(plan) == (["n1", "n2"], ["n3", "n4"])
    assert plan.notes[0] == "hosts: all leaves out n[3-4], which stand ready (restart.spares)"
    assert plan.world_size == 4 and set(plan.manifests) == {"n1", "n2"}


@pytest.mark.parametrize("hosts", ["[all, '!n2']", "'@all,!n2'", "['!n2']"])
def test_whatever_all_is_written_as(tmp_path: Path, hosts: str) -> None:
    assert _names(_plan(tmp_path, HOSTS, f"hosts={hosts}")) == (["n1"], ["n3", "n4"])


def test_a_host_that_the_job_names_is_none_of_its_spares(tmp_path: Path) -> None:
    plan = _plan(tmp_path, HOSTS, "hosts=[n1, n3]")
    assert _names(plan) == (["n1", "n3"], ["n4"])
    assert not [note for note in plan.notes if "stand ready" in note]


def test_all_and_a_spare_by_its_name_is_what_it_says(tmp_path: Path) -> None:
    assert _names(_plan(tmp_path, HOSTS, "hosts=[all, n3]", "host_count=3")) == (["n1", "n2", "n3"], ["n4"])


def test_host_count_counts_hosts_that_are_no_spares(tmp_path: Path) -> None:
    assert _names(_plan(tmp_path, HOSTS, "restart.spares='@idle'", "host_count=1")) == (["n1"], ["n3", "n4"])


def test_without_the_key_there_are_none(tmp_path: Path) -> None:
    plan = _plan(tmp_path, HOSTS, "restart.spares=null")
    assert _names(plan) == (["n1", "n2", "n3", "n4"], []) and not plan.notes[1:]


def test_the_plan_keeps_them_on_disk(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json").spares == plan.spares


N4 = "{name: 'n[1-4]', address: '10.0.0.[1-4]'}"


def _with_n4(own: str, others: str = "") -> str:
    """The inventory with a fourth host that is not as the others."""
    three = f"{{name: 'n[1-3]', address: '10.0.0.[1-3]'{others}}}"
    return HOSTS.replace(N4, f"{three}\n  - {{name: n4, {own}}}")


UNFIT = {
    "unknown": (
        HOSTS.replace("idle:", "idel:"),
        "there is no group 'idle' in hosts.yaml (did you mean `idel`?)",
    ),
    "no groups": (
        HOSTS.split("groups:")[0],
        "there is no group 'idle' in hosts.yaml (add it under `groups:` there)",
    ),
    "all used": (
        HOSTS.replace("idle: n[3-4]", "idle: [n1, n2]"),
        "the job runs on every host of idle (n[1-2]), so that none is left to stand ready (add hosts to the "
        "group, or leave some out of `hosts`)",
    ),
    "devices": (
        _with_n4("address: 10.0.0.4, devices: 0"),
        "n4 has 1 devices, of which 2 are wanted on each host (take it out of the group)",
    ),
    "chip": (
        _with_n4("address: 10.0.0.4, chip: 910A", ", chip: 910B"),
        "n4 has chip 910A, the job's hosts have 910B (take it out of the group)",
    ),
    "python": (
        _with_n4("address: 10.0.0.4, python: python3.9", ", python: /opt/bin/python3.10"),
        "n4 has Python 3.9, the job's hosts have 3.10 (set its `python:`, or take it out of the group)",
    ),
    "loopback": (
        _with_n4("address: 127.0.0.1"),
        "n4 and the job's hosts do not reach each other: some of them have a loopback address (give the "
        "address at which the others reach it)",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_could_never_take_a_place_is_refused(tmp_path: Path, case: str) -> None:
    hosts, line = UNFIT[case]
    lines = lines_of(tmp_path, lambda: _plan(tmp_path, hosts, "hosts=[n1, n2]"))
    assert lines == [f"job.yaml:9: restart.spares: {line}"]


def test_spares_of_a_run_that_does_not_go_on_by_itself_are_refused(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, lambda: job(tmp_path, JOB.replace("max: 3", "max: 0")))
    assert lines == [
        "job.yaml:9: restart.spares: would wait for nothing: with restart.max 0 the run does not go on by "
        "itself (set restart.max, or remove it)"
    ]


def test_what_is_not_known_of_a_spare_is_for_the_launch_to_find_out(tmp_path: Path) -> None:
    hosts = _with_n4("address: 10.0.0.4, python: python3", ", chip: 910B, python: python3.10")
    assert _names(_plan(tmp_path, hosts))[1] == ["n3", "n4"]


def _next(before: LaunchPlan, found: Inventory, folder: Path) -> LaunchPlan:
    wanted = job(folder, JOB).model_copy(update={"hosts": ("all",), "host_count": None})
    return next_plan(before, wanted, found)


def test_a_spare_that_has_become_a_host_is_one_no_more(tmp_path: Path) -> None:
    before = _plan(tmp_path)
    n1, n2, n3, n4 = (*before.hosts, *before.spares)
    after = _next(before, kept_inventory(before, (n3, n2)), tmp_path)
    assert _names(after) == (["n3", "n2"], ["n4"])
    assert not [note for note in after.notes if "stand ready" in note]
    last = _next(after, kept_inventory(after, (n3, n4)), tmp_path)
    assert _names(last) == (["n3", "n4"], [])
    assert n1 not in (*last.hosts, *last.spares)


def test_who_resumes_has_the_spares_again(tmp_path: Path) -> None:
    before = _plan(tmp_path)
    wanted = next_job(before, Changes())
    assert [host.name for host in hosts_of(wanted.job, wanted.inventory)] == ["n1", "n2"]
    assert _names(next_plan(before, wanted.job, wanted.inventory)) == (["n1", "n2"], ["n3", "n4"])
