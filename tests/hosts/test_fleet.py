"""A fleet: in parallel, each host for itself, connections kept and made anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Host
from orchestrator.core.errors import AgentError, CommandTimeout, ConnectError, HostsFailed, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, HostResults, fan_out_of
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.scheduling import Pool, Scheduling, Signal

NAMES = ("host1", "host2", "host3")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    hosts = [
        Host(name=name, address="127.0.0.1", transport="local", workdir=str(tmp_path / name))
        for name in NAMES
    ]
    with Fleet(hosts, {name: LocalTransport(name) for name in NAMES}) as fleet:
        yield fleet


def test_all_hosts_work_at_the_same_time_and_answer_in_order(fleet: Fleet) -> None:
    together = threading.Barrier(len(NAMES), timeout=60)

    def work(agent: Agent) -> str:
        together.wait()
        return agent.host

    assert list(fleet.each(work).raise_on_error().items()) == [(name, name) for name in NAMES]


def test_each_host_has_one_session_that_is_kept(fleet: Fleet) -> None:
    first = fleet.each(lambda agent: agent).values
    assert fleet.each(lambda agent: agent).values == first
    assert fleet.agent("host1") is first["host1"]


def test_a_subset_of_the_hosts(fleet: Fleet) -> None:
    assert list(fleet.each(lambda agent: agent.host, ["host3", "host1"]).values) == ["host3", "host1"]


def test_a_refusal_keeps_the_session_and_hides_no_other_host(fleet: Fleet) -> None:
    before = fleet.agent("host2")

    def work(agent: Agent) -> str:
        return str(agent.status("none") if agent.host == "host2" else agent.list_runs())

    results = fleet.each(work)
    assert results.values == {"host1": "[]", "host3": "[]"}
    assert isinstance(results.errors["host2"], AgentError)
    assert fleet.agent("host2") is before


def test_a_dropped_session_is_made_anew(fleet: Fleet) -> None:
    before = fleet.agent("host1")
    fleet.drop("host1")
    fleet.drop("host1")
    with pytest.raises(TransportError):
        before.list_runs()
    assert fleet.agent("host1").list_runs() == []


def test_a_second_session_of_a_host_is_the_callers_own(fleet: Fleet) -> None:
    more = fleet.new_agent("host1")
    assert more is not fleet.agent("host1")
    more.close()
    assert fleet.agent("host1").list_runs() == []


def test_a_part_shares_the_sessions_and_leaves_them_open(fleet: Fleet) -> None:
    kept = fleet.agent("host2")
    with fleet.part(["host2"]) as part:
        assert list(part.hosts) == ["host2"] and part.agent("host2") is kept
    assert kept.list_runs() == []


class OneThread(Scheduling):
    """All in the thread that asks, by a clock that only pauses move on."""

    def __init__(self) -> None:
        self.now, self.pools = 1000.0, []  # type: tuple[float, list[int]]

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def signal(self) -> Signal:
        raise AssertionError("one after the other, nobody waits for anybody")

    def pool(self, workers: int) -> Pool:
        self.pools.append(workers)
        return OneThreadPool()


class OneThreadPool(Pool):
    def submit(self, work: Callable[..., Any], *args: Any) -> None:
        work(*args)

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [work(item) for item in items]

    def close(self) -> None:
        pass


def test_who_waits_too_long_over_sessions_of_its_own_ends_no_connection(fleet: Fleet) -> None:
    """The run is watched over it: a host that is slow to answer a question beside is not lost for it."""
    before = {name: fleet.agent(name) for name in fleet.hosts}

    def late(agent: Agent) -> None:
        raise CommandTimeout("no whole answer", where=agent.host)

    with fleet.apart(fleet.hosts) as apart:
        found = apart.each(late)
        assert set(found.errors) == set(fleet.hosts)
        assert apart.each(lambda agent: agent.clock()).values.keys() == fleet.hosts.keys()  # a new one each
    assert {name: fleet.agent(name) for name in fleet.hosts} == before
    assert fleet.each(lambda agent: agent.clock()).values.keys() == fleet.hosts.keys()


def test_a_fleet_has_its_pool_and_its_clock_from_its_scheduling(tmp_path: Path) -> None:
    scheduling, threads = OneThread(), set()
    hosts = [
        Host(name=name, address="127.0.0.1", transport="local", workdir=str(tmp_path / name))
        for name in NAMES
    ]
    transports = {name: LocalTransport(name) for name in NAMES}

    def work(agent: Agent) -> str:
        threads.add(threading.current_thread())
        scheduling.sleep(3600)  # more than any agent is given for an answer, were it not this clock's
        return str(agent.list_runs())

    with Fleet(hosts, transports, scheduling=scheduling) as fleet:
        assert list(fleet.each(work).values) == list(NAMES)
        assert fleet.begin(work, "host2").result(0) == ("[]", None)
        with fleet.part(["host3", "host1"]) as part:
            assert part.scheduling is scheduling
            assert list(part.each(work).values) == ["host3", "host1"]
        fleet.drop("host1")
        assert fleet.agent("host1").list_runs() == []
    assert threads == {threading.current_thread()}
    assert scheduling.pools == [3, 2]


def test_work_that_has_not_begun_is_cancelled_with_the_fleet(tmp_path: Path) -> None:
    hosts = [
        Host(name=name, address="127.0.0.1", transport="local", workdir=str(tmp_path / name))
        for name in NAMES
    ]
    gate = threading.Event()
    fleet = Fleet(hosts, {name: LocalTransport(name) for name in NAMES}, fan_out=1)
    first = fleet.begin(lambda agent: gate.wait(60), "host1")
    second = fleet.begin(lambda agent: agent.list_runs(), "host2")
    assert not first.done()
    fleet.close()
    assert second.cancelled()
    gate.set()
    assert first.done() or first.result(60) is not None


def test_threads_are_a_constant_at_most_however_many_hosts_there_are() -> None:
    assert [fan_out_of(hosts) for hosts in (0, 1, 16, 64, 128, 1000, 100_000)] == [1, 1, 16, 64, 72, 126, 128]


def test_errors_of_hosts_fold_into_the_gravest() -> None:
    one: HostResults[int] = HostResults({"a": 1}, {"b": AgentError("no", where="b")})
    with pytest.raises(AgentError):
        one.raise_on_error()
    two: HostResults[int] = HostResults({}, {**one.errors, "c": ConnectError("refused", where="c")})
    with pytest.raises(HostsFailed) as caught:
        two.raise_on_error()
    assert caught.value.exit_code == ConnectError.exit_code
    assert HostResults({"a": 1}, {}).raise_on_error() == {"a": 1}
