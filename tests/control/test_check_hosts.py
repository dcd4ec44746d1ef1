"""Hosts are asked once where what was supposed of them holds, and again only where it does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.start import Staying, check_hosts
from orchestrator.core.errors import OrchestrateError, TransportError
from orchestrator.core.host_answers import Probe
from orchestrator.hosts.fleet import HostResults
from orchestrator.hosts.scheduling import SYSTEM
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

HOSTS = "hosts:\n  - {name: 'n[1-3]', address: '10.0.0.[1-3]', devices: 0-3}\n"
JOB = "name: x\ntask: command\ndevices_per_host: 2\ncommand: [run]\nnetworking: {mode: none}\n"


class Host:
    """An agent that tells which of its devices are held, and keeps what it was asked."""

    def __init__(self, host: str, held: Iterable[int] = ()) -> None:
        self.host = host
        self.held = set(held)
        self.asked: list[tuple[str, list[int]]] = []
        self.error: OrchestrateError | None = None

    def probe(self, *, devices: Iterable[int], **_: Any) -> Probe:
        if self.error is not None:
            raise self.error
        self.asked.append(("probe", list(devices)))
        held = tuple(sorted(self.held & set(devices)))
        free = 1 << 40
        return Probe(self.host, 1, "3.11.7", "/p", "/w", free, True, time.time(), busy_devices=held)

    def busy_devices(self, devices: Iterable[int], lock_dir: str | None, run_id: str = "") -> list[int]:
        self.asked.append(("busy", list(devices)))
        return sorted(self.held & set(devices))


class Hosts:
    """A fleet of them, one after the other."""

    scheduling = SYSTEM

    def __init__(self, plan: LaunchPlan, **held: Iterable[int]) -> None:
        self.hosts = {host.name: host for host in plan.hosts}
        self.agents = {name: Host(name, held.get(name, ())) for name in self.hosts}

    def each(self, work: Callable[[Any], Any], hosts: Iterable[str] | None = None) -> HostResults[Any]:
        values, errors = {}, {}
        for name in self.agents if hosts is None else hosts:
            try:
                values[name] = work(self.agents[name])
            except OrchestrateError as error:
                errors[name] = error
        return HostResults(values, errors)

    @property
    def asked(self) -> Mapping[str, list[tuple[str, list[int]]]]:
        return {name: agent.asked for name, agent in self.agents.items()}


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    return make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS))


def checked(
    plan: LaunchPlan,
    fleet: Hosts,
    free: Callable[[Any], None] = lambda hosts: None,
    staying: Staying = Staying(),  # noqa: B008 (frozen)
) -> dict[str, tuple[int, ...]]:
    """The devices that are chosen."""
    found = check_hosts(plan, fleet, lambda _: None, lambda _: None, free, staying=staying)  # type: ignore[arg-type]
    return {name: manifest.devices for name, manifest in found.manifests.items()}


ALL = [0, 1, 2, 3]


def test_where_nothing_is_held_each_host_is_asked_one_question(plan: LaunchPlan) -> None:
    fleet = Hosts(plan)
    assert set(checked(plan, fleet).values()) == {(0, 1)}
    assert all(asked == [("probe", ALL)] for asked in fleet.asked.values())


def test_what_others_hold_beside_ours_is_no_matter(plan: LaunchPlan) -> None:
    fleet = Hosts(plan, n2={2, 3})
    assert set(checked(plan, fleet).values()) == {(0, 1)}
    assert all(asked == [("probe", ALL)] for asked in fleet.asked.values())


def test_a_host_whose_devices_are_held_is_asked_about_the_others(plan: LaunchPlan) -> None:
    fleet = Hosts(plan, n2={0, 1})
    assert checked(plan, fleet) == {"n1": (0, 1), "n2": (2, 3), "n3": (0, 1)}
    assert fleet.asked["n2"] == [("probe", ALL), ("probe", [2, 3])]
    assert fleet.asked["n1"] == fleet.asked["n3"] == [("probe", ALL)]


def test_what_is_over_is_ended_and_the_host_looked_at_anew(plan: LaunchPlan) -> None:
    fleet, freed = Hosts(plan, n2={0, 1, 2}), []

    def free(hosts: Any) -> None:
        freed.append(list(hosts))
        fleet.agents["n2"].held.clear()

    assert set(checked(plan, fleet, free).values()) == {(0, 1)}
    assert freed == [["n2"]]
    assert fleet.asked["n2"] == [("probe", ALL), ("busy", ALL), ("probe", [0, 1])]


def test_devices_that_stay_held_refuse_the_launch(plan: LaunchPlan) -> None:
    fleet = Hosts(plan, n2={0, 1, 2})
    with pytest.raises(OrchestrateError, match="in use by another run"):
        checked(plan, fleet)


def test_avoided_devices_are_supposed_to_be_held(plan: LaunchPlan) -> None:
    fleet = Hosts(plan)
    avoided = Staying(avoided={"n2": (1,), "n3": (3,)})
    assert checked(plan, fleet, staying=avoided) == {"n1": (0, 1), "n2": (0, 2), "n3": (0, 1)}
    assert all(asked == [("probe", ALL)] for asked in fleet.asked.values())


def test_a_host_that_does_not_answer_is_asked_once(plan: LaunchPlan) -> None:
    fleet = Hosts(plan, n1={0})
    fleet.agents["n2"].error = TransportError("gone", where="n2")
    with pytest.raises(OrchestrateError, match="gone"):
        checked(plan, fleet)
    assert fleet.asked["n2"] == []
    assert len(fleet.asked["n1"]) == 2
