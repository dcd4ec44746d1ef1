"""paramiko's transport, changed where measurements or its issues asked for it. Nothing else subclasses it.

- `exit-signal` is kept: paramiko drops the message, and a killed process would look like a lost one.
- Keys are renewed after 32 GiB, not after 512 MiB, and a renewal no longer breaks the connection.
- A peer that vanished is found, by the kernel and by questions that need an answer.
- AES-GCM first: one pass over the data where CTR with HMAC makes two.
- Host certificates are asked for where an authority is known, and only there.
- What a peer says before it is known to be the host is bounded.
- Who waits for the handshake bounds it, by the last sign of progress; no thread keeps its time.
- A packet is read with one system call where it can be, not with two.
- The reader thread wakes once a second during a login, not ten times; after it only to ask a peer that has
  been silent for long whether it is there.
"""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import socket
import threading
import time
from typing import Any

import paramiko
from paramiko.common import (
    MSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_WINDOW_ADJUST,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.packet import Packetizer

from orchestrator.core.errors import ConnectError
from orchestrator.hosts.socket_timeouts import timeval
from orchestrator.hosts.ssh.ssh_errors import Dropped
from orchestrator.hosts.transport import words_of

__all__ = ["NO_STATUS", "Packets", "Wire", "give_room", "send_signal"]

NO_STATUS = 1 << 20
"""`exit_status` of a channel whose process has not ended; paramiko's own -1 is also death by SIGHUP."""

_UNKNOWN_SIGNAL = -64
_READ_AT_ONCE = 1 << 14
_LONGEST_GREETING = 1 << 16
_LONGEST_PACKET = 1 << 19
# What sshd says to those for whom it has no room now.
_FULL = re.compile(rb"\A\s*(Exceeded MaxStartups|Not allowed at this time)")


class _Buffered:
    """A socket that is read in large pieces: paramiko asks for the length of a packet, then for the rest.

    Each is a system call, and a wait for the interpreter's lock among the threads of all connections.
    """

    def __init__(self, sock: Any) -> None:
        self.send = sock.send
        self.close = sock.close
        self._recv = sock.recv
        self._data = b""
        self._taken = 0

    def take(self, size: int) -> bytes | None:
        """So many bytes, where they are there."""
        end = self._taken + size
        if size <= 0 or end > len(self._data):
            return None
        found = self._data[self._taken : end]
        self._taken = end
        return found

    def recv(self, size: int) -> bytes:
        taken = self._taken
        if taken == len(self._data):
            try:
                self._data, taken = self._recv(max(size, _READ_AT_ONCE)), 0
            except BlockingIOError:  # the kernel's way to say that the time is over, see `_wait_at_most`
                raise TimeoutError from None
        found = self._data[taken : taken + size]
        self._taken = taken + len(found)
        return found


class Packets(Packetizer):
    # Half of what RFC 4344 §3.2 allows for AES, 2^32 blocks. The default of 2^29 bytes is for 64-bit blocks,
    # and made every stream of 512 MB a renewal of keys.
    REKEY_BYTES = 1 << 35

    def __init__(self, sock: Any) -> None:
        self._there = _Buffered(sock)
        super().__init__(self._there)  # type: ignore[arg-type]
        self.heard = time.monotonic()
        self._greeting = bytearray()
        self._was_dropped = False

    def why(self, host: str) -> ConnectError | None:
        """The error of a host that did not greet as SSH does: what it said, or that it just hung up."""
        said = words_of(bytes(self._greeting))
        if self._greeting.startswith(b"SSH-") or b"\nSSH-" in self._greeting:
            return None
        other = "if that is not the server's sshd, check address, port and what lies between, such as a proxy"
        if not self._was_dropped:
            what = f"it does not greet as SSH does: {said}"
            return ConnectError(what, where=host, remedy=other) if said else None
        if not said or _FULL.search(self._greeting):
            what = f"the host closed the connection at once{said and f': {said}'}"
            return Dropped(
                what, where=host, remedy="too many connections at once: see sshd's MaxStartups there"
            )
        return ConnectError(f"the host closed the connection; it said: {said}", where=host, remedy=other)

    def _read_timeout(self, timeout: float) -> bytes:
        # Up to the greeting. paramiko bounds neither how long a line is nor how long lines may come.
        try:
            data: bytes = super()._read_timeout(timeout)  # type: ignore[misc]
        except (EOFError, ConnectionError):
            self._was_dropped = True
            raise
        self.heard = time.monotonic()
        self._greeting += data
        if len(self._greeting) > _LONGEST_GREETING:
            raise paramiko.SSHException("the host talks without end in place of a greeting")
        return data

    def start_handshake(self, timeout: float) -> None:
        """Nothing: paramiko starts a thread for each login, to end it after 15 s however busy both are."""

    def read_all(self, n: int, check_rekey: bool = False) -> Any:
        # How long a packet is, is the peer's word; no SSH has longer ones (OpenSSH: 256 KiB).
        if n > _LONGEST_PACKET:
            raise paramiko.SSHException(f"the host announces a packet of {n} bytes")
        # The rest of a packet is there, nearly always, where its beginning is: once what came with the
        # greeting has been read, which paramiko keeps apart.
        is_ahead = check_rekey or self._Packetizer__remainder  # type: ignore[attr-defined]
        found = None if is_ahead else self._there.take(n)
        return super().read_all(n, check_rekey) if found is None else found

    def read_message(self) -> Any:
        message = super().read_message()
        self.heard = time.monotonic()
        return message


class Wire(paramiko.Transport):
    """The transport_factory of every SSHClient here."""

    packetizer: Packets
    # Longer than hosts that are watched are silent, as long as they are not too many: a question and its
    # answer cost as much as what they say.
    question_seconds = 16.0
    silence_seconds = 30.0
    packets: type[Packets] = Packets
    _active_check_timeout = 1.0
    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    )
    _preferred_macs = (
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    )

    def __init__(self, sock: Any, disabled_algorithms: Any = None) -> None:
        if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX:  # that is a ProxyCommand
            _find_dead_peers(sock, self.silence_seconds)
        self._put_off: list[paramiko.Message] = []
        self._takes_certificates = False
        super().__init__(sock, disabled_algorithms=disabled_algorithms, packetizer_class=self.packets)
        _wait_at_most(sock, self._active_check_timeout)

    def prefer_host_keys(self, kinds: set[str], *, certificates: bool = False) -> None:
        """Ask for a key of a type that is on record, as OpenSSH does: others could not be compared.

        With `certificates` ask for those first: an authority that is known may vouch for the host.
        """
        names = {"rsa-sha2-512": "ssh-rsa", "rsa-sha2-256": "ssh-rsa"}
        options = self.get_security_options()
        options.key_types = sorted(options.key_types, key=lambda kind: names.get(kind, kind) not in kinds)
        self._takes_certificates = certificates

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        plain = self._filter_algorithm("keys")
        certified = (
            tuple(f"{name}-cert-v01@openssh.com" for name in plain) if self._takes_certificates else ()
        )
        return certified + plain

    def _filter_algorithm(self, kind: str) -> tuple[str, ...]:
        # paramiko holds each against those that are disabled, for some 16 lists in each login.
        if self.disabled_algorithms:
            return tuple(super()._filter_algorithm(kind))  # type: ignore[misc]
        return tuple(getattr(self, f"_preferred_{kind}"))

    def _log(self, level: int, message: Any, *args: Any) -> None:
        if self.logger.isEnabledFor(level):  # before it looks at what it is given
            super()._log(level, message, *args)  # type: ignore[misc]

    def watch_peer(self) -> None:
        """From now on fail when the peer says nothing for `silence_seconds` though it was asked."""
        self.packetizer.set_keepalive(self.question_seconds, self._ask)
        # Hundreds of threads that wake every second, only to find nothing, are much of what an idle monitor
        # costs. So they wake when there is something to ask; who hangs up wakes them by the socket.
        _wait_at_most(self.sock, self.question_seconds)

    def hang_up(self) -> None:
        """close(), at once: a shutdown wakes the reader thread, closing alone does not."""
        if isinstance(self.sock, socket.socket):
            with contextlib.suppress(OSError):  # not connected any more
                self.sock.shutdown(socket.SHUT_RDWR)
        self.close()
        if self.completion_event is not None:  # paramiko leaves whoever waits for the handshake waiting
            self.completion_event.set()

    def _ask(self) -> None:
        # paramiko's keepalive wants no reply, so that it never learns of a peer's death.
        if time.monotonic() - self.packetizer.heard > self.silence_seconds:
            raise OSError(errno.ETIMEDOUT, f"nothing heard for {self.silence_seconds:g} s")
        question = paramiko.Message()
        question.add_byte(cMSG_GLOBAL_REQUEST)
        question.add_string("keepalive@openssh.com")
        question.add_boolean(True)
        self._send_user_message(question)

    def _parse_debug(self, message: paramiko.Message) -> None:
        """Nothing: sshd sends one in each login, and paramiko writes it out byte by byte for a log."""

    def _send_user_message(self, data: paramiko.Message) -> None:
        # While keys are renewed, user messages wait until that is done. The reader thread must not wait: it
        # is the one that renews them, and would give up after 30 s with "Key-exchange timed out".
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._put_off.append(data)
        else:
            super()._send_user_message(data)  # type: ignore[misc]

    def _parse_newkeys(self, message: paramiko.Message) -> None:
        super()._parse_newkeys(message)  # type: ignore[misc]
        put_off, self._put_off = self._put_off, []
        for each in put_off:
            super()._send_user_message(each)  # type: ignore[misc]


def _wait_at_most(sock: Any, seconds: float) -> None:
    """The timeout of what is sent and received, kept by the kernel where it can be.

    Where Python keeps it, it asks `poll` before each call: as many system calls again, for each of which it
    lets go of the interpreter's lock and waits for it anew.
    """
    if not isinstance(sock, socket.socket):  # a channel of a jump host
        sock.settimeout(seconds)
        return
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, timeval(seconds))
    sock.settimeout(None)


def _find_dead_peers(sock: socket.socket, seconds: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: bytes that are not acknowledged for so long end it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def send_signal(channel: paramiko.Channel, number: signal.Signals) -> None:
    """Ask sshd to signal the channel's process group (RFC 4254 §6.9; OpenSSH does since 7.9)."""
    request = paramiko.Message()
    request.add_byte(cMSG_CHANNEL_REQUEST)
    request.add_int(channel.remote_chanid)
    request.add_string("signal")
    request.add_boolean(False)
    request.add_string(number.name.removeprefix("SIG"))
    channel.transport._send_user_message(request)  # type: ignore[union-attr]


def give_room(channel: paramiko.Channel, count: int) -> None:
    """Let the host send so many bytes more (RFC 4254 §5.2)."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
    message.add_int(channel.remote_chanid)
    message.add_int(count)
    channel.transport._send_user_message(message)  # type: ignore[union-attr]


def _handle_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    start = message.packet.tell()
    if message.get_text() != "exit-signal":
        message.packet.seek(start)
        channel._handle_request(message)  # type: ignore[attr-defined]
        return
    message.get_boolean()
    name = "SIG" + message.get_text()
    known = signal.Signals.__members__
    channel.exit_status = -known[name] if name in known else _UNKNOWN_SIGNAL
    channel.status_event.set()


Wire._channel_handler_table = {  # type: ignore[attr-defined]
    **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
    MSG_CHANNEL_REQUEST: _handle_request,
}
