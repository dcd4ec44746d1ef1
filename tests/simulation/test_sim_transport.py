"""The simulated transport: the contract of all transports, in virtual time, and fleets over it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.config.inventory import Host
from orchestrator.core.errors import CommandTimeout, ConnectError, TransportError
from orchestrator.core.protocol import SILENCE_SECONDS
from orchestrator.hosts.scheduling import Signal
from orchestrator.hosts.transport import Transport
from orchestrator.simulation.cluster import Cluster
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.sim_agent import SimProgram
from orchestrator.simulation.sim_host import SimHost
from orchestrator.simulation.sim_transport import SimChannel, SimTransport, Traffic
from orchestrator.simulation.virtual_scheduling import VirtualScheduling
from orchestrator.simulation.virtual_time import World
from orchestrator.simulation.workload import Workload
from orchestrator.testing.transport_contract import TransportContract, exactly, line_of, program


class ContractProgram(SimProgram):
    """A verb of testing/transport_program.py on a simulated host."""

    def __init__(self, argv: tuple[str, ...], channel: SimChannel) -> None:
        verb, *words = argv[argv.index("--") + 1 :]
        self._channel = channel
        self._verb = verb
        getattr(self, f"_{verb}")(*words)

    def feed(self, data: bytes) -> None:
        if self._verb == "echo":
            self._channel.say(data)

    def hung_up(self) -> None:
        if self._verb != "stubborn":
            self._channel.end()

    def _show(self, *words: str) -> None:
        self._channel.say(repr(list(words)).encode())
        self._channel.end()

    def _leave(self, code: str) -> None:
        self._channel.end(int(code))

    def _die(self, name: str) -> None:
        self._channel.end(-getattr(signal, name))

    def _flood(self, count: str) -> None:
        for _ in range(int(count)):
            self._channel.complain(b"x" * 65535 + b"\n")
        self._channel.complain(b"the last words\n")
        self._channel.say(b"done\n")
        self._channel.end(3)

    def _deaf(self) -> None:
        self._channel.say(b"not listening")
        self._channel.end()

    def _hang(self) -> None:
        self._channel.say(b"hello\n")

    def _echo(self) -> None:
        pass

    def _stubborn(self) -> None:
        self._channel.say(b"4000\n")


class ProgramHost(SimHost):
    """A simulated host that has the contract's programs in place of agents."""

    def begin(self, argv: tuple[str, ...], channel: SimChannel) -> SimProgram:
        return ContractProgram(argv, channel)


WITH_THREADS = "it has threads of the system, which the world does not know; below is the same with its own"
DOES_NOT_APPLY = {
    "test_eight_megabytes_there_and_back": WITH_THREADS,
    "test_a_process_that_does_not_read_is_no_error_of_run": WITH_THREADS,
    "test_many_channels_at_once": WITH_THREADS,
    "test_closing_wakes_a_reader": WITH_THREADS,
    "test_many_are_told_without_a_thread_for_each": "who is told is told by an event: there are no threads",
    "test_a_write_that_nobody_takes_is_a_timeout": "programs take all; it is the link that does not: below",
}


def lived(test: Callable[..., None]) -> Callable[..., None]:
    """The test, run by the transport's world."""

    @functools.wraps(test)
    def run(self: object, transport: SimTransport, **given: Any) -> None:
        def live() -> None:
            transport.connect()
            test(self, transport, **given)

        transport._world.run(live)

    return run


def in_its_world(case: type) -> type:
    for name in dir(case):
        if name in DOES_NOT_APPLY:
            setattr(case, name, None)
        elif name.startswith("test_"):
            setattr(case, name, lived(getattr(case, name)))
    return case


@pytest.fixture
def transport() -> SimTransport:
    """Not connected: that takes the time of its world."""
    host = Host(name="ghost", address="10.0.0.1")
    world = World(limit=30.0, stuck=10.0)
    return SimTransport(ProgramHost(world, host, 0, {}, None, ascend=False), Traffic())


@in_its_world
class TestSimTransport(TransportContract):
    def signal(self, transport: Transport) -> Signal:
        assert isinstance(transport, SimTransport)
        return VirtualScheduling(transport._world).signal()

    def test_megabytes_there_and_back_on_many_channels_at_once(self, transport: Transport) -> None:
        assert isinstance(transport, SimTransport)
        scheduling = VirtualScheduling(transport._world)

        def talk(number: int) -> None:
            with transport.open(program("echo")) as channel:
                channel.timeout = 20
                data = os.urandom(1 << 20)
                channel.write(data)
                channel.close_stdin()
                assert exactly(channel, len(data) + 1) == data

        scheduling.pool(8).each(talk, range(8))

    def test_a_write_over_a_link_that_takes_nothing_is_a_timeout(self, transport: Transport) -> None:
        assert isinstance(transport, SimTransport)
        with transport.open(program("echo")) as channel:
            channel.timeout = 0.2
            transport._there.silence(1)
            channel.write(b"there is room for a little")
            with pytest.raises(CommandTimeout, match=r"0.2 s"):
                channel.write(bytes(16 << 20))

    def test_who_is_told_calmly_is_told_of_one_line_that_begins_so_and_comes_alone(
        self, transport: Transport
    ) -> None:
        assert isinstance(transport, SimTransport)
        scheduling = VirtualScheduling(transport._world)
        told: list[str] = []
        with transport.open(program("echo")) as channel:
            channel.on_calm((b"beat,", b"digest,"), lambda: told.append("calmly"))
            channel.on_readable(lambda: told.append("at once"))
            for data in (b"beat, 1\n", b"change, 2\n", b"digest, 3\nchange, 4\n", b"beat, 5"):
                channel.write(data)
                scheduling.sleep(1.0)
                assert channel.read_ready(100) == data
            assert told == ["calmly", "at once", "at once", "at once"]
            told.clear()
            for data in (b"change, 6\n", b"beat, 7\n"):  # the latter behind what nobody has read
                channel.write(data)
                scheduling.sleep(1.0)
            assert told == ["at once", "at once"]

    @pytest.mark.parametrize("how", ["close", "broke"])
    def test_an_end_of_the_connection_wakes_who_reads_and_who_waits(
        self, transport: Transport, how: str
    ) -> None:
        assert isinstance(transport, SimTransport)
        scheduling = VirtualScheduling(transport._world)
        channel = transport.open(program("hang"))
        channel.timeout = 20
        assert line_of(channel) == b"hello\n"

        def wait(work: Callable[[], object]) -> str:
            with pytest.raises(TransportError) as caught:
                work()
            return caught.value.what

        transport._world.after(1.0, getattr(transport, how))
        said = scheduling.pool(2).each(wait, [lambda: channel.read(1), lambda: channel.wait(20)])
        assert scheduling.monotonic() < 3.0
        assert all(("closed" if how == "close" else "the connection broke") in each for each in said)
        with pytest.raises(TransportError, match="not connected"):
            transport.open(program("leave", "0"))
        transport.connect()
        assert transport.run(program("leave", "4")).exit_code == 4


def test_what_does_not_apply_is_of_the_contract() -> None:
    assert all(callable(getattr(TransportContract, name)) for name in DOES_NOT_APPLY)


# Fleets, over the real sessions.


def small_cluster(*names: str) -> Cluster:
    hosts = [Host(name=name, address=f"10.0.0.{number}") for number, name in enumerate(names, 1)]
    return Cluster(World(limit=30.0, stuck=10.0), hosts, Workload(), ascend=False)


def test_a_broken_connection_is_an_error_and_the_next_call_makes_a_new_one() -> None:
    cluster = small_cluster("far")

    def live() -> None:
        with cluster.fleet(VirtualScheduling(cluster.world), timeout=10.0) as fleet:
            assert fleet.each(lambda agent: agent.list_runs()).values == {"far": []}
            assert cluster.traffic.connections == 1
            [channel] = cluster.hosts["far"].link.channels
            channel.lose()
            broken = fleet.each(lambda agent: agent.list_runs())
            assert isinstance(broken.errors["far"], TransportError)
            assert fleet.each(lambda agent: agent.list_runs()).values == {"far": []}
            assert cluster.traffic.connections == 2

    cluster.world.run(live)


@pytest.mark.parametrize("how", ["closed", "given up"])
def test_an_agent_of_which_nobody_took_leave_ends_after_the_silence(how: str) -> None:
    """As that of tests/agent/test_ending.py: neither before that, nor while somebody is there."""
    cluster = small_cluster("far")
    there, scheduling = cluster.hosts["far"], VirtualScheduling(cluster.world)

    def live() -> None:
        fleet = cluster.fleet(scheduling, timeout=10.0)
        fleet.each(lambda agent: agent.list_runs())
        scheduling.sleep(2 * SILENCE_SECONDS)  # the session's beats are heard
        assert len(there.agents) == 1
        there.silence(1)
        scheduling.sleep(5.0)
        if how == "closed":
            fleet.close()
        scheduling.sleep(SILENCE_SECONDS - 10.0)
        assert len(there.agents) == 1
        scheduling.sleep(60.0)
        assert there.agents == []
        fleet.close()

    cluster.world.run(live)


@pytest.mark.parametrize("kind", ["power_off", "refused"])
def test_one_host_that_is_down_hides_no_other(kind: str) -> None:
    cluster = small_cluster("far", "down")

    def live() -> None:
        if kind == "power_off":
            cluster.apply(Fault(time=0.0, kind="power_off", host="down"))
        else:
            cluster.hosts["down"].link.refuses = True
        with cluster.fleet(VirtualScheduling(cluster.world), timeout=10.0) as fleet:
            answers = fleet.each(lambda agent: agent.list_runs())
        assert answers.values == {"far": []}
        assert isinstance(answers.errors["down"], ConnectError)
        assert answers.errors["down"].refused == (kind == "refused")
        with pytest.raises(ConnectError):
            answers.raise_on_error()

    cluster.world.run(live)
