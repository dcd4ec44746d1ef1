"""A session with one host's agent: one channel, one interpreter, many requests.

Private to this folder: everybody else asks through `agent_client`, which checks what a host answers.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from orchestrator.core.errors import AgentError, AnswerError, CommandTimeout, TransportError
from orchestrator.core.protocol import BEAT, BEAT_SECONDS
from orchestrator.hosts.boot import QUIET, Bundle, open_agent
from orchestrator.hosts.conversation import Answer, Conversation, Event, Limits
from orchestrator.hosts.transport import Deadline, Transport

__all__ = ["Payload", "Session"]

_BLOCK = 1 << 16
_WRITTEN_AT_ONCE = 1 << 20
_MOST_WAITING_EVENTS = 256
_BEAT_PATIENCE = 5.0


class _Stream(Protocol):
    """Bytes that are not in memory all at once; the length is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


Payload = bytes | _Stream


class Session:
    """One agent on one host; usable from several threads, one request at a time.

    Every answer has to be whole in the time that its request is given, by `clock`; see `Deadline`. What the
    agent says without being asked goes to `on_event`, in the thread that happens to read, or waits in
    `events`, of which the oldest are dropped when nobody takes them.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        python: str,
        workdir: str,
        bundle: Bundle,
        timeout: float = 60.0,
        quiet: float = QUIET,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.host = transport.host
        self.events: deque[Event] = deque(maxlen=_MOST_WAITING_EVENTS)
        self._on_event = on_event or self.events.append
        self._timeout = timeout
        self._clock = clock
        self._talk = Conversation(transport.host)
        self._asking = threading.Lock()
        # One thread reads at a time. While a request is under way (`_wanted`) that is who asked; a listener
        # that was reading before leaves what it got in `_stashed`.
        self._reading = threading.Condition()
        self._is_read = self._wanted = False
        self._stashed: Answer | AgentError | None = None
        self._heard = clock()
        self._channel, rest = open_agent(
            transport, python, workdir, bundle, timeout=timeout, quiet=quiet, clock=clock
        )
        self._talk.feed(rest)
        _BEATS.add(self)

    def beat(self) -> None:
        """Let the agent know that somebody is here, if nothing has been asked for a while.

        An agent that hears nothing for long takes its control node for gone, and ends.
        """
        if self._clock() - self._heard < BEAT_SECONDS or not self._asking.acquire(blocking=False):
            return  # what is being asked is heard
        try:
            self._heard = self._clock()
            self._channel.timeout = _BEAT_PATIENCE
            self._channel.write(BEAT)
        except TransportError:
            pass  # the next request says what is wrong
        finally:
            self._asking.release()

    def stream(
        self,
        verb: str,
        args: Mapping[str, Any],
        limits: Limits,
        *,
        payload: Payload = b"",
        timeout: float | None = None,
        buffer: memoryview | None = None,
    ) -> Iterator[tuple[Any, memoryview]]:
        """One request, its answers as they come, each with the bytes behind it.

        The bytes are in `buffer`, if there is one, where those of the next answer overwrite them. Leaving the
        answers, or a broken connection, closes the session. Raises AgentError where the agent refuses,
        AnswerError where an answer is none or over `limits`, TransportError where the agent is gone.
        """
        with self._asking:
            self._wanted = True
            try:
                self._send(self._talk.ask(verb, args, len(payload), limits), payload, timeout)
                deadline, more = Deadline(timeout or self._timeout, self._clock), True
                while more:
                    answer = self._answer(verb, deadline)
                    more = answer.more
                    data = self._data(verb, answer.size, buffer, deadline)
                    given = self._clock()
                    yield answer.result, data
                    deadline.pause(self._clock() - given)
                    if not limits.together:
                        deadline = Deadline(timeout or self._timeout, self._clock)
            finally:
                # Answers that nobody took would be taken for those of the next request.
                if not self._talk.is_answered or self._talk.receiver.left:
                    self.close()
                with self._reading:
                    self._wanted = False
                    self._reading.notify_all()

    def listen(self, seconds: float) -> None:
        """Take what the agent says without being asked, for so long; requests of other threads go first.

        Raises AnswerError, or TransportError where the agent is gone.
        """
        deadline = Deadline(seconds, self._clock)
        while (left := deadline.left()) > 0:
            with self._reading:
                if self._is_read or self._wanted:
                    self._reading.wait(left)
                    continue
                self._is_read = True
            try:
                message = self._message("", deadline, stop=lambda: self._wanted)
                if message is not None:
                    self._stashed = message
            except CommandTimeout:
                return
            finally:
                self._let_others_read()

    def close(self) -> None:
        _BEATS.discard(self)
        self._channel.close()

    def refuse(self, what: str) -> AnswerError:
        """The error of an answer that is not what was asked for; nothing more is asked of this agent."""
        self.close()
        return self._talk.broken(what)

    def _send(self, header: bytes, payload: Payload, timeout: float | None) -> None:
        self._heard = self._clock()
        self._channel.timeout = timeout or self._timeout
        if isinstance(payload, bytes) and len(payload) < _BLOCK:
            # One packet instead of two.
            self._channel.write(header + payload)
            return
        self._channel.write(header)
        for chunk in [payload] if isinstance(payload, bytes) else payload:
            with memoryview(chunk) as view:
                # In pieces, so that a slow line has its time for each of them.
                for start in range(0, len(view), _WRITTEN_AT_ONCE):
                    self._channel.write(view[start : start + _WRITTEN_AT_ONCE])

    def _answer(self, verb: str, deadline: Deadline) -> Answer:
        """The next answer, by whomever it is read."""
        with self._reading:
            while self._is_read and self._reading.wait(max(0.0, deadline.left())):
                pass
            if self._is_read:
                raise self._late(verb, deadline)
            self._is_read, message = True, self._stashed
            self._stashed = None
        try:
            message = message or self._message(verb, deadline, stop=lambda: False)
        finally:
            self._let_others_read()
        if not isinstance(message, Answer):
            raise message or self._late(verb, deadline)
        return message

    def _let_others_read(self) -> None:
        with self._reading:
            self._is_read = False
            self._reading.notify_all()

    def _message(self, verb: str, deadline: Deadline, stop: Callable[[], bool]) -> Answer | AgentError | None:
        """What comes next and is no event; None where `stop` says so before."""
        while True:
            try:
                message = self._talk.next()
            except AgentError as refusal:
                return refusal
            except AnswerError:
                self.close()
                raise
            if isinstance(message, Event):
                self._on_event(message)
                if stop():
                    return None
            elif message is not None:
                return message
            else:
                self._talk.feed(self._more(verb, deadline))

    def _more(self, verb: str, deadline: Deadline) -> bytes:
        with self._in_time(verb, deadline):
            data = self._channel.read(_BLOCK)
        if not data:
            raise self._ended()
        deadline.received(len(data))
        return data

    def _data(self, verb: str, size: int, buffer: memoryview | None, deadline: Deadline) -> memoryview:
        if buffer is not None and size > len(buffer):
            raise self.refuse(f"sent {size} bytes where {len(buffer)} fit")
        data = memoryview(bytearray(size)) if buffer is None else buffer[:size]
        filled = 0
        while filled < size:
            if piece := self._talk.receiver.take(size - filled):
                count = len(piece)
                data[filled : filled + count] = piece
            else:
                with self._in_time(verb, deadline):
                    count = self._channel.read_into(data[filled:])
                if not count:
                    raise self._ended()
                self._talk.receiver.took(count)
                deadline.received(count)
            filled += count
        return data

    @contextlib.contextmanager
    def _in_time(self, verb: str, deadline: Deadline) -> Iterator[None]:
        left = deadline.left()
        if left <= 0:
            raise self._late(verb, deadline)
        self._channel.timeout = left
        try:
            yield
        except CommandTimeout:
            raise self._late(verb, deadline) from None

    def _late(self, verb: str, deadline: Deadline) -> CommandTimeout:
        return CommandTimeout(f"no whole answer to `{verb}` within {deadline.seconds:g} s", where=self.host)

    def _ended(self) -> TransportError:
        what = "has ended" if self._talk.receiver.is_between_frames else "ended in the middle of an answer"
        said = self._channel.last_words()
        return TransportError(f"the agent {what}{said and f': {said}'}", where=self.host)


class _Beats:
    """The thread that lets idle sessions beat: one for all, started with the first of them."""

    def __init__(self) -> None:
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, session: Session) -> None:
        with self._lock:
            self._sessions.add(session)
            if self._thread is None or not self._thread.is_alive():  # a fork leaves threads behind
                self._thread = threading.Thread(target=self._run, name="beats", daemon=True)
                self._thread.start()

    def discard(self, session: Session) -> None:
        with self._lock:
            self._sessions.discard(session)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._lock:
                sessions = list(self._sessions)
            while sessions:  # and none is kept while this sleeps
                sessions.pop().beat()


_BEATS = _Beats()
