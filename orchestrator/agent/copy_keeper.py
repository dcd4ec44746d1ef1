"""The keeper's side of the copies: it listens for the hosts whose shards it keeps, and takes them in.

A connection is somebody's only once its certificate has been seen; until then it has seconds, and only a few
at a time are waited for. What comes then is bounded by what was offered.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Any, Callable, Dict, Iterator, Mapping, Set, Tuple

from orchestrator.agent.copy_store import CopyStore, NoRoom, Refused, Wanted, wanted_files
from orchestrator.agent.copy_stream import Broken, Stream
from orchestrator.agent.copy_tls import Identity, WrongPeer

__all__ = ["Keeper"]

# An idle process may have to wait for a processor, on either side.
_HANDSHAKE = 30.0
_MOST_UNKNOWN = 64
_SHA256 = 64


class Keeper:
    """Serves the owners of one attempt, a thread for each connection."""

    def __init__(
        self,
        identity: Identity,
        store: CopyStore,
        owners: Mapping[str, Tuple[int, ...]],
        *,
        note: Callable[[str], None] = lambda text: None,
        stream: Callable[[socket.socket], Stream] = Stream,
    ) -> None:
        """`note` is told, from any thread, what was refused."""
        self._identity = identity
        self._store = store
        self._owners = owners
        self._note = note
        self._stream = stream
        self._unknown = threading.BoundedSemaphore(_MOST_UNKNOWN)
        self._lock = threading.Lock()
        self._serving: Set[str] = set()
        self._gone: Dict[str, threading.Event] = {owner: threading.Event() for owner in owners}

    def serve(self, server: socket.socket) -> None:
        """Take connections until the socket is closed."""
        while True:
            self._unknown.acquire()
            try:
                plain, _ = server.accept()
            except OSError:
                self._unknown.release()
                return
            threading.Thread(target=self._welcome, args=(plain,), daemon=True).start()

    def wait_for_byes(self, timeout: float) -> None:
        """Until every owner has said that it has nothing more to send."""
        for event in self._gone.values():
            event.wait(timeout)

    def _welcome(self, plain: socket.socket) -> None:
        try:
            secured, owner = self._identity.accept(plain, self._owners, _HANDSHAKE)
        except (WrongPeer, OSError) as error:  # ssl.SSLError is one of the latter
            self._note(f"somebody was refused: {_short(error)}")
            return
        finally:
            self._unknown.release()
        with contextlib.closing(secured):
            self._serve_one(secured, owner)

    def _serve_one(self, secured: ssl.SSLSocket, owner: str) -> None:
        with self._lock:
            is_busy = owner in self._serving
            self._serving.add(owner)
        stream = self._stream(secured)
        try:
            if is_busy:
                stream.say({"error": "another copy of yours is under way"})
            else:
                self._take(stream, owner)
        except (Broken, Refused, NoRoom) as error:
            self._note(f"{owner}: {error}")
            with contextlib.suppress(OSError):
                stream.say({"error": str(error)})
        except OSError as error:
            self._note(f"{owner}: {_short(error)}")
            with contextlib.suppress(OSError):
                stream.say({"error": f"it cannot be kept: {error.strerror or 'the connection failed'}"})
        finally:
            if not is_busy:
                with self._lock:
                    self._serving.discard(owner)

    def _take(self, stream: Stream, owner: str) -> None:
        offer = stream.hear()
        if offer.get("bye") is True:
            self._gone[owner].set()
            stream.say({"ok": True})
            return
        _, files = wanted_files(offer, self._owners[owner])
        self._store.require_room(sum(each.size for each in files))
        stream.say({"ok": True})
        for wanted in files:
            self._take_file(stream, owner, wanted)
            if wanted is files[-1]:
                self._store.prune(self._owners)
            stream.say({"ok": True})

    def _take_file(self, stream: Stream, owner: str, wanted: Wanted) -> None:
        receiving: Iterator[Any] = self._store.receive(owner, wanted, stream.receive(wanted.size))
        with contextlib.closing(receiving):  # type: ignore[type-var]
            found = next(receiving)
            if stream.line(_SHA256) != found.encode():
                raise Refused("a file that is not what was said of it")
            for _ in receiving:
                pass


def _short(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(text)[:200]
