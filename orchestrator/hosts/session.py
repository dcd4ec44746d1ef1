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
from orchestrator.core.protocol import BEAT, BEAT_SECONDS, frame
from orchestrator.core.push import Beat, Digest
from orchestrator.hosts.boot import QUIET, Bundle, open_agent
from orchestrator.hosts.conversation import Answer, Conversation, Event, Limits
from orchestrator.hosts.run_address import RunAddress
from orchestrator.hosts.scheduling import SYSTEM
from orchestrator.hosts.transport import Deadline, Transport

__all__ = ["Payload", "Session"]

_BLOCK = 1 << 16
_WRITTEN_AT_ONCE = 1 << 20
_MOST_AT_ONCE = 256
_BEAT_PATIENCE = 5.0
# What lines begin with that nobody has to act on, as agents write them (`core.push`).
_CALM = tuple(frame({"event": kind.EVENT, "data": 0}).partition(b",")[0] for kind in (Digest, Beat))


class _Stream(Protocol):
    """Bytes that are not in memory all at once; the length is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


Payload = bytes | _Stream


class _Allowance:
    """How much may be said unasked: a burst, then so much a second. Who says more floods us."""

    def __init__(self, burst: float, pace: float, now: float) -> None:
        self._burst, self._pace = burst, pace
        self._left, self._last = burst, now

    def takes(self, amount: float, now: float) -> bool:
        self._left = min(self._burst, self._left + self._pace * max(0.0, now - self._last)) - amount
        self._last = now
        return self._left >= 0


class Session:
    """One agent on one host; usable from several threads, one request at a time.

    Every answer has to be whole in the time that its request is given, by `clock`; see `Deadline`. What the
    agent says without being asked is taken by `heard`. What comes of it while a request waits for its answer
    is kept for that, within the bounds of `allow`.
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
    ) -> None:
        self.host = transport.host
        self.addresses: Mapping[str, RunAddress] = {}  # by run
        self._events: deque[Event] = deque()
        self._timeout = timeout
        self._clock = clock
        self._talk = Conversation(transport.host)
        self._number = _Allowance(20_000, 100.0, clock())
        self._bytes = _Allowance(1 << 25, float(1 << 20), clock())
        self._asking, self._writing, self._ending = (threading.Lock() for _ in range(3))
        self._later: tuple[str, Deadline] | None = None  # a request whose answer `heard` takes
        self._tell: Callable[[], None] | None = None
        self._heard = clock()
        self._channel, rest = open_agent(
            transport, python, workdir, bundle, timeout=timeout, quiet=quiet, clock=clock
        )
        self._talk.feed(rest)
        if clock in (time.monotonic, SYSTEM.monotonic):  # another's time is none of the thread's that beats
            _BEATS.add(self)

    def beat(self) -> None:
        """Let the agent know that somebody is here, if nothing has been asked for a while.

        An agent that hears nothing for long takes its control node for gone, and ends.
        """
        if self._clock() - self._heard < BEAT_SECONDS or not self._writing.acquire(blocking=False):
            return  # what is being asked is heard
        try:
            self._heard = self._clock()
            self._channel.timeout = _BEAT_PATIENCE
            self._channel.write(BEAT)
        except TransportError:
            pass  # the next request says what is wrong
        finally:
            self._writing.release()

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
            try:
                self._send(
                    self._talk.ask(verb, self._addressed(args), len(payload), limits), payload, timeout
                )
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
        if self._tell is not None:
            self._tell()  # what has been read with the answer, nobody is told of

    def on_readable(self, tell: Callable[[], None], calm: Callable[[], None] | None = None) -> None:
        """From now on have `tell` called, from any thread, when `heard` may have something; see Channel.

        `calm` in its place where that is only how far ranks are, or that somebody is there.
        """
        self._tell = tell
        if calm is not None:
            self._channel.on_calm(_CALM, calm)
        self._channel.on_readable(tell)

    def allow(self, unasked: Limits) -> None:
        """From now on take so much of what the agent says without being asked."""
        self._talk.allow(unasked)

    def begin(
        self, verb: str, args: Mapping[str, Any], limits: Limits, *, timeout: float | None = None
    ) -> None:
        """A request whose one answer, without bytes behind it, is taken by `heard`; other requests wait."""
        self._asking.acquire()
        self._later = (verb, Deadline(timeout or self._timeout, self._clock))
        try:
            self._send(self._talk.ask(verb, self._addressed(args), 0, limits), b"", timeout)
        except BaseException:
            self._end_later()
            self.close()
            raise
        if self._tell is not None:
            self._tell()  # who was told before found this under way

    def heard(self, most: int = _MOST_AT_ONCE) -> list[Event | Answer | AgentError]:
        """What has come, at most so much of it: events, and the answer or refusal of what was begun.

        Never waits, and is asked by one thread at a time. Raises AnswerError, also where the agent says more
        than anybody can want; CommandTimeout where an answer is late; TransportError where the agent is gone.
        """
        found: list[Event | Answer | AgentError] = []
        while self._events and len(found) < most:
            found.append(self._events.popleft())
        is_idle = self._later is None
        if is_idle and not self._asking.acquire(blocking=False):
            return found  # who asks reads, and tells when that is done
        try:
            while len(found) < most and (message := self._next_now()) is not None:
                found.append(message)
        except BaseException:
            self._end_later()
            raise
        finally:
            if is_idle:
                self._asking.release()
        return found

    def forget_events(self) -> None:
        """What was said before the last answer is of no use to who listens from now on."""
        self._events.clear()

    def close(self) -> None:
        _BEATS.discard(self)
        self._channel.close()

    def refuse(self, what: str) -> AnswerError:
        """The error of an answer that is not what was asked for; nothing more is asked of this agent."""
        self.close()
        return self._talk.broken(what)

    def _addressed(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """With which attempt is meant and on whose claim, where somebody has said so."""
        address = self.addresses.get(args.get("run_id", ""))
        return args if address is None else address.added_to(args)

    def _send(self, header: bytes, payload: Payload, timeout: float | None) -> None:
        with self._writing:
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
        """The next answer; what is said before it waits for `heard`."""
        while True:
            message = self._next()
            if isinstance(message, Event):
                self._events.append(message)
            elif isinstance(message, Answer):
                return message
            elif message is not None:
                raise message
            else:
                self._talk.feed(self._more(verb, deadline))

    def _next(self) -> Answer | Event | AgentError | None:
        """What has come whole."""
        try:
            message = self._talk.next()
            if isinstance(message, Event):
                self._note(message)
        except AgentError as refusal:
            return refusal
        except AnswerError:
            self.close()
            raise
        return message

    def _next_now(self) -> Answer | Event | AgentError | None:
        """The next that is there; an answer or a refusal ends the request that was begun."""
        talk = self._talk
        # Nothing is looked for where nothing has come: most who have something to say say one thing.
        while talk.receiver.is_between_frames or (message := self._next()) is None:
            data = self._channel.read_ready(_BLOCK)
            if data is None:
                if self._later is not None and self._later[1].left() <= 0:
                    self.close()
                    raise self._late(*self._later)
                return None
            if not data:
                self.close()
                raise self._ended()
            talk.feed(data)
            if self._later is not None:
                self._later[1].received(len(data))
        if not isinstance(message, Event):
            if isinstance(message, Answer) and message.more:
                raise self.refuse("sent several answers where one was asked for")
            self._end_later()
        return message

    def _end_later(self) -> None:
        with self._ending:
            later, self._later = self._later, None
        if later is not None:
            self._asking.release()

    def _note(self, event: Event) -> None:
        """Raises AnswerError where there is no end of them."""
        now = self._clock()
        if not self._number.takes(1.0, now) or not self._bytes.takes(float(event.size), now):
            raise self._talk.broken("floods us with what nobody has asked for")

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
