"""Who copies to whom, and what a job has to say for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.inventory import Host
from orchestrator.core.errors import ConfigError
from orchestrator.plan.copy_ring import CopyRing, keepers_of, within_rack
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job, lines_of

HOSTS = """\
defaults: {devices: 0-1}
hosts:
  - {name: "npu[1-2]", address: "10.0.0.[1-2]", labels: {rack: a}}
  - {name: "npu[3-4]", address: "10.0.0.[3-4]", labels: {rack: b}}
"""
COPY = "copy: {network: 10.20.0.0/16, ports: 29700-29731, rate: 25}\n"
COMMAND = "name: cmd\ntask: command\ndevices_per_host: 2\ndevice_target: CPU\ncommand: [run]\n"
COPIES = "checkpoint: {copies: 1, keep: 3}\n"


def hosts_in(racks: list[str]) -> list[Host]:
    """A host for each; "" is one without the label."""
    return [
        Host(name=f"h{index}", address=f"10.0.0.{index + 1}", labels={"rack": rack} if rack else {})
        for index, rack in enumerate(racks)
    ]


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=40))
def test_every_host_has_one_keeper_keeps_for_one_and_is_not_its_own(racks: list[str]) -> None:
    hosts = hosts_in(racks)
    keepers = keepers_of(hosts)
    names = [host.name for host in hosts]
    assert list(sorted(keepers)) == sorted(names)
    assert Counter(keepers.values()) == Counter(names)
    assert all(owner != keeper for owner, keeper in keepers.items())


@given(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=40))
def test_a_keeper_is_in_another_rack_wherever_that_can_be(racks: list[str]) -> None:
    hosts = hosts_in(racks)
    keepers = keepers_of(hosts)
    rack = dict(zip((host.name for host in hosts), racks, strict=True))
    same = [owner for owner, keeper in keepers.items() if rack[owner] == rack[keeper]]
    # Of a rack that has more than half of the hosts some can only stay in it.
    largest = max(Counter(racks).values())
    assert len(same) == (len(racks) if largest == len(racks) else max(0, 2 * largest - len(racks)))
    assert sorted(within_rack(hosts, keepers)) == (sorted(same) if len(set(racks)) > 1 else [])


def test_without_racks_the_next_host_keeps() -> None:
    assert keepers_of(hosts_in(["", "", ""])) == {"h0": "h1", "h1": "h2", "h2": "h0"}
    assert keepers_of(hosts_in([""])) == {}


def planned(folder: Path, hosts: str = HOSTS + COPY, text: str = COMMAND + COPIES) -> LaunchPlan:
    return make_plan(job(folder, text), inventory(folder, hosts), now=1.0)


def test_a_plan_says_where_its_copies_go_and_is_read_back(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.copies == CopyRing(
        "10.20.0.0/16",
        (29700, 29731),
        3,
        {"npu1": "npu3", "npu2": "npu4", "npu3": "npu1", "npu4": "npu2"},
        25.0,
    )
    assert plan.copies.owners_of("npu1") == ("npu3",)
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json").copies == plan.copies
    assert planned(tmp_path, text=COMMAND).copies is None
    assert plan.copies.over == inventory(tmp_path, HOSTS + COPY).copies


def test_a_run_that_goes_on_with_one_host_copies_nothing_and_keeps_the_network(tmp_path: Path) -> None:
    one = job(tmp_path, COMMAND + COPIES + "host_count: 1\n")
    plan = make_plan(one, inventory(tmp_path, HOSTS + COPY), now=1.0, run_id="r", number=2)
    assert plan.copies is not None and plan.copies.keepers == {}
    assert "checkpoint.copies: there is one host, so that nothing is copied" in plan.notes
    assert plan.copies.over.network == "10.20.0.0/16"


def test_copies_that_stay_in_their_rack_are_noted(tmp_path: Path) -> None:
    plan = planned(tmp_path, (HOSTS + COPY).replace("npu[3-4]", "npu3").replace("10.0.0.[3-4]", "10.0.0.3"))
    assert any("copies of npu2 stay in their own rack" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("hosts", "text", "line"),
    [
        (HOSTS, COPIES, "does not say over which network copies go"),
        (HOSTS + COPY, COPIES + "host_count: 1\n", "a copy needs a second host, and the job has one"),
    ],
)
def test_a_job_whose_copies_can_go_nowhere_is_refused(
    tmp_path: Path, hosts: str, text: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, hosts, COMMAND + text)
    assert line in str(caught.value)
    assert "checkpoint.copies" in str(caught.value)


@pytest.mark.parametrize(
    ("copy", "line"),
    [
        ("{network: 10.20.0.1/16, ports: 1024-1030}", "'10.20.0.1/16' is no network"),
        ("{network: here, ports: 1024-1030}", "'here' is no network"),
        ("{network: 10.20.0.0/16, ports: 1030-1024}", "the lower first"),
        ("{network: 10.20.0.0/16, ports: 80}", "from 1024 to 65535"),
        ("{network: 10.20.0.0/16, ports: all}", "expected ports such as 29700-29731"),
        ("{network: 10.20.0.0/16, ports: 20000-30000}", "has 10001 ports"),
        ("{network: 10.20.0.0/16}", "copy.ports: is missing"),
        ("{network: 10.20.0.0/16, ports: 2000, rate: 0}", "copy.rate"),
        ("{network: 10.20.0.0/16, port: 2000}", "did you mean `ports`?"),
    ],
)
def test_a_network_that_can_be_none_is_refused_with_its_line(tmp_path: Path, copy: str, line: str) -> None:
    told = lines_of(tmp_path, lambda: inventory(tmp_path, f"{HOSTS}copy: {copy}\n"))
    assert any(line in text for text in told), told


def test_a_task_that_saves_nothing_copies_nothing(tmp_path: Path) -> None:
    text = (
        "name: p\ntask: predict\ndevices_per_host: 1\nmodel: {preset: tiny}\n"
        "predict: {prompts: [hello]}\ncheckpoint: {load: /x.ckpt, copies: 1}\n"
    )
    with pytest.raises(ConfigError, match="is not used by task predict"):
        job(tmp_path, text)
