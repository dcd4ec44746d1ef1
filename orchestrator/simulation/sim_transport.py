"""A simulated network: transports and channels whose bytes take virtual time, get lost, or never come.

Below the real session: what it writes reaches a simulated host after the link's delay, and what the host says
comes back in the same way, in order. A link may be silent (bytes wait, as in TCP, until it is not, or until
the connection is given up), refuse connections or logins, or be slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.core.errors import AuthenticationError, ConnectError, TransportError
from orchestrator.core.protocol import SILENCE_SECONDS
from orchestrator.hosts.transport import Channel, StderrTail, Transport, is_calm
from orchestrator.simulation.virtual_time import World

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost

__all__ = ["Link", "SimChannel", "SimTransport", "Traffic"]

# After so many seconds in which a peer that is asked says nothing, its connection is given up (hosts/ssh).
_SILENCE = 30.0
_QUEUE = 256 * 1024
_ROUND_TRIPS = 6  # of TCP and SSH, until a login stands
_RETRANSMISSION = 0.2  # after which TCP sends again what is not acknowledged; each time after twice as long


@dataclass
class Traffic:
    """What has gone over a network, of all hosts."""

    connections: int = 0
    asked: int = 0
    told: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


@dataclass
class Link:
    """The way to a host: `delay` is for one direction, in seconds, `login` for an sshd to let us in.

    `silences` counts the reasons for which no byte passes, `dead` says that the host is off, so that nothing
    of a connection is left when it is there again.
    """

    delay: float = 0.0003
    login: float = 0.15
    bytes_per_s: float = 1e8
    silences: int = 0
    is_off: bool = False
    refuses: bool = False  # connections: the host is there, its sshd is not
    refuses_login: bool = False
    channels: list[SimChannel] = field(default_factory=list)

    @property
    def is_silent(self) -> bool:
        return self.is_off or self.silences > 0


class SimTransport(Transport):
    """The way from the control node to one simulated host; `timeout` is for a connection, in seconds."""

    def __init__(self, host: SimHost, traffic: Traffic, *, timeout: float = 10.0) -> None:
        super().__init__(host.name)
        self._there = host
        self._world = self.world = host.world
        self._traffic = traffic
        self._timeout = timeout
        self._is_connected = False
        self._boot = ""
        self._unanswered: float | None = None  # since then bytes wait that nobody has acknowledged
        self._channels: list[SimChannel] = []

    def connect(self) -> None:
        if self._is_connected and self._boot != self._there.boot and not self._there.link.is_silent:
            # It stands as far as we know; the host has forgotten it, and says so to the next bytes it gets.
            self._pause("a connection of before", self._until_sent_again())
            self.broke()
        if self._is_connected:
            return
        link = self._there.link
        self._traffic.connections += 1
        if link.is_silent:
            self._pause("a connection", self._timeout)
            raise ConnectError("timed out", where=self.host, remedy="is the host up?")
        self._pause("a connection", 2 * link.delay)
        if link.refuses:
            error = ConnectError("Connection refused", where=self.host, remedy="is its sshd running?")
            error.refused = True
            raise error
        self._pause("a login", _ROUND_TRIPS * link.delay + link.login)
        if link.is_silent:
            self._pause("a login", self._timeout)
            raise ConnectError("timed out", where=self.host, remedy="is the host up?")
        if link.refuses_login:
            raise AuthenticationError("Authentication failed.", where=self.host, remedy="check `user`")
        self._is_connected = True
        self._boot, self._unanswered = self._there.boot, None

    def _until_sent_again(self) -> float:
        """Seconds until TCP sends the next time what waits for an acknowledgement."""
        waited = 0.0 if self._unanswered is None else self._world.now - self._unanswered
        due, again = 0.0, _RETRANSMISSION
        while due < waited:
            due, again = due + again, 2 * again
        return due - waited

    def unanswered(self, are: bool) -> None:
        """Bytes were sent on a silent link, or have arrived after all."""
        if not are or self._unanswered is None:
            self._unanswered = self._world.now if are else None

    def close(self) -> None:
        self._is_connected = False
        for channel in self._channels:
            channel.close()
        self._channels.clear()

    def broke(self) -> None:
        """The connection is no more; what reads from it hears of that."""
        self._is_connected = False
        for channel in self._channels:
            channel.break_off()
        self._channels.clear()

    def _open(self, argv: tuple[str, ...]) -> Channel:
        return self.open_as(SimChannel, argv)

    def open_as(self, kind: type[SimChannel], argv: tuple[str, ...]) -> Channel:
        """A channel of this kind, and the program at its other end."""
        if not self._is_connected:
            raise self._not_connected()
        channel = kind(self.host, argv, self._there, self, self._traffic)
        self._channels.append(channel)
        return channel

    def _pause(self, what: str, seconds: float) -> None:
        self._world.park(f"{what} to {self.host}", seconds, told=lambda _: None)


class SimChannel(Channel):
    """One program on a simulated host and its streams."""

    def __init__(
        self, host: str, argv: tuple[str, ...], there: SimHost, transport: SimTransport, traffic: Traffic
    ) -> None:
        super().__init__(host, argv)
        self._there = there
        self._link = there.link
        self._world: World = there.world
        self._transport = transport
        self._traffic = traffic
        self._came = bytearray()
        self._has_ended = self._is_broken = self._is_closed = False
        self._is_shut = False
        self._exit_code: int | None = None
        self._stderr = StderrTail()
        self._reader: object | None = None
        self._waiting: list[object] = []
        self._tell: Callable[[], None] | None = None
        self._calm: tuple[tuple[bytes, ...], Callable[[], None]] | None = None
        self._outward = self._inward = 0.0  # when the last byte of each direction arrives
        self._held: list[tuple[bool, bytes]] = []  # on a silent link, with whether it is on its way to us
        self._held_bytes = 0
        self._link.channels.append(self)
        self.program = there.begin(argv, self)
        if self._link.is_silent:
            self.fall_silent()

    # The control node's end.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._world.is_mine:  # else it is the beats of real time, which is none here
            self._write(bytes(data))

    def _write(self, data: bytes) -> None:
        self._require_open()
        self._traffic.asked += 1
        self._traffic.bytes_out += len(data)
        if self._has_ended:
            raise TransportError(f"`{self.argv[0]}` no longer reads its input", where=self.host)
        if self._link.is_silent:
            self._transport.unanswered(True)
            self._held.append((False, data))
            self._held_bytes += len(data)
            if self._held_bytes > _QUEUE:
                self._world.park(f"room to {self.host}", self.timeout, told=self._register)
                self._require_open()
                raise self._timed_out(self.timeout)
            return
        self._send(data)

    def close_stdin(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self._hang_up()

    def _hang_up(self) -> None:
        """The program sees the end of its stdin, behind what was written to it."""
        arrives = max(self._outward, self._world.now + self._link.delay)
        self._world.after(arrives - self._world.now, self.program.hung_up)

    def read(self, size: int) -> bytes:
        self._require_open()
        if not self._came and not self._has_ended:
            self._world.park(f"an answer of {self.host}", self.timeout, told=self._register)
            self._reader = None
        return self._taken(size)

    def _taken(self, size: int) -> bytes:
        if self._came:
            data = bytes(self._came[:size])
            del self._came[:size]
            return data
        if self._has_ended:
            return b""
        self._require_open()
        raise self._timed_out(self.timeout)

    def on_readable(self, tell: Callable[[], None]) -> None:
        """Have `tell` called whenever there is something to read, or nothing will come any more."""
        self._tell = tell
        if self._came or self._has_ended or self._is_broken or self._is_closed:
            tell()

    def on_calm(self, begins: tuple[bytes, ...], tell: Callable[[], None]) -> None:
        """Have this called in place of `tell` where all that has come is not urgent, as over SSH."""
        self._calm = (begins, tell)

    def read_ready(self, size: int) -> bytes | None:
        """What has come, None where nothing has, b"" at the end. Raises TransportError as `read`."""
        if not self._came and not self._has_ended:
            self._require_open()
            return None
        return self._taken(size)

    def wait(self, timeout: float | None = None) -> int:
        if not self._has_ended:
            self._require_open()
            self._world.park(f"the end of {self.argv[0]} on {self.host}", timeout, told=self._waiting.append)
        if self._has_ended and self._exit_code is not None:
            return self._exit_code
        self._require_open()
        raise self._timed_out(timeout)

    def stderr_bytes(self) -> bytes:
        return bytes(self._stderr)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._forget()
        if self._link.is_silent:
            self._miss_beats()
        else:
            self._hang_up()
        self._notify()

    # The host's end.

    def say(self, data: bytes) -> None:
        """The program writes to its stdout."""
        if self._is_broken or self._is_closed:
            return
        self._traffic.told += 1
        if self._link.is_silent:
            self._held.append((True, data))
        else:
            self._bring(data)

    def complain(self, data: bytes) -> None:
        """The program writes to its stderr."""
        self._stderr.feed(data)

    def end(self, code: int = 0) -> None:
        """The program has ended, and its stdout with it."""
        if self._exit_code is None:
            self._exit_code = code
            self._world.after(max(0.0, self._inward - self._world.now) + self._link.delay, self._finish)

    def break_off(self) -> None:
        """The connection is gone."""
        if not self._is_broken and not self._is_closed:
            self._is_broken = True
            self._forget()
            self._miss_beats()
            self._notify()

    def _miss_beats(self) -> None:
        """Nobody tells the host of the end: its agent ends once it has heard nothing for so long."""
        self._world.after(SILENCE_SECONDS, self.program.hung_up)

    # The link.

    def fall_silent(self) -> None:
        """Nothing passes any more; after a while the peer is given up."""
        self._world.after(_SILENCE, self._give_up)

    def come_back(self) -> None:
        """What was sent meanwhile arrives."""
        self._transport.unanswered(False)
        held, self._held, self._held_bytes = self._held, [], 0
        for is_inward, data in held:
            if is_inward:
                self._bring(data)
            else:
                self._send(data)

    def lose(self) -> None:
        """The host no longer knows of this connection: it answers the next question with a reset."""
        if not self._is_broken and not self._is_closed:
            self._transport.broke()

    def _give_up(self) -> None:
        if self._link.is_silent:
            self.lose()

    def _send(self, data: bytes) -> None:
        link = self._link
        self._outward = max(self._outward, self._world.now + link.delay) + len(data) / link.bytes_per_s
        self._world.after(self._outward - self._world.now, lambda: self._arrive(data))

    def _arrive(self, data: bytes) -> None:
        if self._link.is_off or self._is_broken:
            return
        self.program.feed(data)

    def _bring(self, data: bytes) -> None:
        link = self._link
        self._inward = max(self._inward, self._world.now + link.delay) + len(data) / link.bytes_per_s
        self._world.after(self._inward - self._world.now, lambda: self._receive(data))

    def _receive(self, data: bytes) -> None:
        if self._is_broken or self._is_closed:
            return
        if self._link.is_silent:
            self._held.append((True, data))
            return
        self._traffic.bytes_in += len(data)
        is_alone = not self._came
        self._keep(data)
        is_heard_alone = is_alone and self._reader is None
        if is_heard_alone and self._calm is not None and self._is_calm(data, self._calm[0]):
            self._calm[1]()
        else:
            self._notify()

    def _is_calm(self, data: bytes, begins: tuple[bytes, ...]) -> bool:
        return is_calm(data, begins)

    def _keep(self, data: bytes) -> None:
        self._came += data

    def _finish(self) -> None:
        self._has_ended = True
        self._notify()

    def _register(self, token: object) -> None:
        self._reader = token

    def _notify(self) -> None:
        if self._reader is not None:
            self._world.wake(self._reader)
        if self._has_ended or self._is_broken or self._is_closed:
            waiting, self._waiting = self._waiting, []
            for token in waiting:
                self._world.wake(token)
        if self._tell is not None:
            self._tell()

    def _forget(self) -> None:
        if self in self._link.channels:
            self._link.channels.remove(self)

    def _require_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()
        if self._is_broken:
            raise TransportError("the connection broke", where=self.host)
