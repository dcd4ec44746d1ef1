"""The server of a run's control socket: takes requests and tells subscribers, and waits for none of them.

A connection sends one line of JSON and gets one back. With the verb `watch` it stays, and gets a line for
each event (`core.push`) as the `StatusFeed` has them due. What a peer does not take stays here, at most one
answer or event of it: the rest of a line that was begun is finished before the next event is made. One that
says nothing, or too much, is dropped.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
from typing import Any, Callable, Dict, List

from orchestrator.agent.status_feed import StatusFeed
from orchestrator.core.codec import DecodeError, from_json, to_json
from orchestrator.core.push import Mark

__all__ = ["ControlServer"]

_LONGEST = 1 << 20
_BLOCK = 1 << 16
# In which a peer has to have said what it wants, and to have taken the answer.
_PATIENCE = 2.0
_MOST_PEERS, _MOST_WATCHING = 128, 64

Reply = Dict[str, Any]


class _Peer:
    """One connection: what came of its request, and what it has not taken yet of what it was sent."""

    __slots__ = ("deadline", "inbox", "outbox", "socket", "watches")

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.socket = connection
        self.deadline = deadline
        self.inbox = bytearray()
        self.outbox = b""
        self.watches = False


class ControlServer:
    """`answer` makes the reply to a request; ValueError and KeyError are for what it does not understand."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        feed: StatusFeed,
        answer: Callable[[Reply], Reply],
        clock: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._feed = feed
        self._answer = answer
        self._clock = clock
        self._peers: List[_Peer] = []
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def push(self, time: float) -> None:
        """Tell subscribers what is due to them, `time` by the host's clock, and drop who took too long."""
        now = self._clock()
        for peer in list(self._peers):
            if peer.deadline <= now:
                self._drop(peer)
            elif peer.watches:
                self._tell(peer, now, time)

    def wait(self) -> float:
        """Seconds until `push` has something to do if nothing happens."""
        now = self._clock()
        waits = [peer.deadline - now for peer in self._peers]
        for peer in self._peers:
            # Who has not taken the last event is told the next when it has: the selector says so.
            pause = self._feed.wait(peer, now) if peer.watches and not peer.outbox else None
            waits.append(math.inf if pause is None else pause)
        return max(0.0, min(waits, default=math.inf))

    def close(self) -> None:
        for peer in list(self._peers):
            self._drop(peer)

    def _accept(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return  # the peer is gone again
        if len(self._peers) >= _MOST_PEERS:
            connection.close()
            return
        connection.setblocking(False)
        peer = _Peer(connection, self._clock() + _PATIENCE)
        self._peers.append(peer)
        self._selector.register(
            connection, selectors.EVENT_READ, lambda mask, peer=peer: self._serve(peer, mask)
        )

    def _serve(self, peer: _Peer, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            self._read(peer)
        if mask & selectors.EVENT_WRITE and peer in self._peers:
            self._flush(peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(_BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        if peer.watches or peer.outbox:
            return  # it has said what it wants
        peer.inbox += data
        line, end, _ = peer.inbox.partition(b"\n")
        if end:
            self._take(peer, bytes(line))
        elif len(peer.inbox) > _LONGEST:
            self._drop(peer)

    def _take(self, peer: _Peer, line: bytes) -> None:
        try:
            request = json.loads(line)
            is_watch = request["verb"] == "watch"
            reply = self._watch(peer, request) if is_watch else self._answer(request)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self._drop(peer)
            return
        peer.outbox = json.dumps(reply).encode() + b"\n"
        self._flush(peer)

    def _watch(self, peer: _Peer, request: Reply) -> Reply:
        if sum(each.watches for each in self._peers) >= _MOST_WATCHING:
            return {"refused": f"{_MOST_WATCHING} others watch this run already", "remedy": ""}
        try:
            said = request.get("since")
            since = None if said is None else from_json(Mark, said)
            every, beat = (from_json(float, request[name]) for name in ("every", "beat"))
        except DecodeError as error:
            return {"refused": f"`watch` cannot be told that: {error}", "remedy": ""}
        peer.watches = True
        peer.deadline = math.inf
        peer.inbox.clear()
        self._feed.subscribe(peer, since, every, beat, self._clock())
        return {**self._answer({"verb": "status"}), "sequence": self._feed.sequence}

    def _tell(self, peer: _Peer, now: float, time: float) -> None:
        while not peer.outbox and peer in self._peers:
            event = self._feed.due(peer, now, time)
            if event is None:
                return
            told = {"event": event.EVENT, "data": to_json(event)}
            peer.outbox = json.dumps(told).encode() + b"\n"
            self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        """Send what it takes now."""
        try:
            peer.outbox = peer.outbox[peer.socket.send(peer.outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(peer)
            return
        if not peer.outbox and not peer.watches:
            self._drop(peer)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.outbox else 0)
        known = self._selector.get_key(peer.socket)
        if known.events != wanted:
            self._selector.modify(peer.socket, wanted, known.data)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self._feed.unsubscribe(peer)
            self._selector.unregister(peer.socket)
            peer.socket.close()
