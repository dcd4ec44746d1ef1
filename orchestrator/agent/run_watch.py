"""The watch of one run in an agent's session: its supervisor's events, or what its files say instead.

A supervisor that lives and knows `watch` tells its events as they are to be sent on (`control_server`). One
of an earlier version does not know it, one that hangs does not answer, one that was killed says no more: then
the agent looks at the files, every `every` seconds and at once where something ended, as corrected by
`host_runs`, and tries the supervisor again. It looks until the run is over.
"""

from __future__ import annotations

import json
import math
import select
import socket
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

from orchestrator.agent import attempt_guard, control_socket, processes
from orchestrator.agent import host_runs as runs
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.agent.status_feed import SHORTEST
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.protocol import frame
from orchestrator.core.push import OF_FILES, Beat, Gone, Mark, Pushed, Snapshot
from orchestrator.core.record_class import replace
from orchestrator.core.records import HostStatus

__all__ = ["RunWatch", "watch"]

_BLOCK = 1 << 16
_LONGEST = 1 << 26
# Of seconds in which a supervisor that listens answers, unless it hangs.
_PATIENCE = 2.0
# To be heard takes no time, unless too many wait for one that hangs.
_SHORT_PATIENCE = 0.5
# The first pause between two looks at files after something has ended; each next is twice as long.
_SHORT_PAUSE = 0.02
# So many of its beats, or intervals, a supervisor may leave out.
_MISSED = 3
# An earlier version's supervisor writes its status every second, and does not say so.
_EARLIER_INTERVAL = 10.0


def watch(request: Request) -> Iterator[Answer]:
    """Tell what is new of a run from now on, see `core.push`; asked again, in another way."""
    args = request.args
    said = args.get("since")
    since = None if said is None else from_json(Mark, said)
    every, beat = from_json(float, args["every"]), from_json(float, args["beat"])
    watched = RunWatch(attempt_guard.in_force(Workdir(request.root), args), every, beat)
    yield Answer({"sequence": watched.open(since)}, watch=watched)


class RunWatch:
    """What is new of a run, as frames to send; made by `watch`, and asked by the loop of the session."""

    def __init__(
        self,
        run: RunDir,
        every: float,
        beat: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        patience: float = _PATIENCE,
    ) -> None:
        """Nothing is told before `open`; `every` and `beat` are in seconds, see `core.push`."""
        self._run = run
        self._every = max(every, SHORTEST)
        self._beat = max(beat, SHORTEST)
        self._clock = clock
        self._wall_clock = wall_clock
        self._patience = patience
        self._link: Optional[socket.socket] = None
        self._data = bytearray()
        self._is_old = self._is_done = False
        # When the supervisor was last heard, None while it is not believed to speak.
        self._heard: Optional[float] = None
        self._sequence = OF_FILES
        self._told: Optional[HostStatus] = None
        # When the supervisor was seen to end, None while it is not.
        self._ended_at: Optional[float] = None
        self._said = self._look_at = clock()
        self._pause = _SHORT_PAUSE

    def open(self, since: Optional[Mark]) -> int:
        """Begin after `since`; the sequence that holds now. Raises AgentError where there is no such run."""
        status = runs.status(self._run)
        if processes.is_alive(status.supervisor):
            found = self._connect(since)
            if found is not None:
                return found
        return self._sequence

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._heard = None, None
        self._data.clear()

    def relay(self, stdin: int) -> Iterator[bytes]:
        """Frames as they come, until `stdin` has something to read."""
        while True:
            yield from self.news()
            poll = select.poll()
            poll.register(stdin, select.POLLIN)
            if self._link is not None:
                poll.register(self._link, select.POLLIN)
            ready = poll.poll(math.ceil(self._wait() * 1000))
            if any(handle == stdin for handle, _ in ready):
                return

    def news(self) -> List[bytes]:
        """What is to be sent by now; never waits for the supervisor."""
        frames = self._receive() if self._link is not None else []
        now = self._clock()
        if self._heard is not None and now - self._heard > _MISSED * self._beat + self._patience:
            self._heard = None  # it hangs: the line is kept, but what the files say counts
            self._look_soon()
        if self._heard is None and not self._is_done and now >= self._look_at:
            frames += [_frame(event) for event in self._look()]
        if frames:
            self._said = now
        return frames

    def _wait(self) -> float:
        now = self._clock()
        if self._is_done:
            return 3600.0
        until = self._look_at
        if self._heard is not None:
            until = self._heard + _MISSED * self._beat + self._patience
        return min(max(0.0, until - now) + 0.001, 3600.0)

    # The supervisor's side.

    def _connect(self, since: Optional[Mark]) -> Optional[int]:
        """Ask the supervisor to be told; its sequence, None where it does not answer or knows no `watch`."""
        self.close()
        request = {
            "verb": "watch",
            "run_id": self._run.root.name,
            "since": to_json(since),
            "every": self._every,
            "beat": self._beat,
        }
        try:
            link = control_socket.connect(self._run.control_socket, _SHORT_PATIENCE)
        except OSError:
            return None
        self._link = link
        try:
            control_socket.reply(link, request)
            answer = self._answer(link)
        except socket.timeout:
            link.setblocking(False)  # it hangs, and may go on
            return None
        except (OSError, ValueError):
            self.close()
            return None
        link.setblocking(False)
        if answer is None or "refused" in answer:
            self._is_old = answer is None
            self.close()
            return None
        self._heard, self._ended_at = self._clock(), None
        sequence = answer.get("sequence")
        return sequence if isinstance(sequence, int) else None

    def _answer(self, link: socket.socket) -> Optional[Dict[str, Any]]:
        """The first line; None where the supervisor, of an earlier version, closes without one."""
        deadline = self._clock() + self._patience
        while b"\n" not in self._data:
            link.settimeout(max(0.001, deadline - self._clock()))
            data = link.recv(_BLOCK)
            if not data:
                return None
            self._data += data
        line, _, rest = self._data.partition(b"\n")
        self._data = bytearray(rest)
        found = json.loads(bytes(line))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        return found

    def _receive(self) -> List[bytes]:
        """The whole lines that have come; what begins no event is no line of a watch."""
        assert self._link is not None
        has_ended = False
        while len(self._data) <= _LONGEST:
            try:
                data = self._link.recv(_BLOCK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                has_ended = True
                break
            self._data += data
        lines = self._take_lines()
        if lines and self._heard is None:
            # It went on after it was silent: what was told in its place has no place among its sequences.
            self._reconnect()
            return self._take_lines()
        if lines:
            self._heard = self._clock()
        if has_ended or len(self._data) > _LONGEST:
            self.close()
            self._look_soon()
            self._ended_at = self._clock()
        return lines

    def _take_lines(self) -> List[bytes]:
        *lines, rest = self._data.split(b"\n")
        self._data = bytearray(rest)
        return [bytes(line) + b"\n" for line in lines if line.startswith(b'{"event": ')]

    def _reconnect(self) -> None:
        if self._connect(None) is not None:
            self._told = None
            self._pause = self._every

    # The files' side.

    def _look_soon(self) -> None:
        self._told = None
        self._pause = _SHORT_PAUSE
        self._look_at = self._clock()

    def _look(self) -> Iterator[Union[Pushed, Gone]]:
        now = self._clock()
        self._look_at = now + min(self._pause, self._every)
        self._pause = min(self._pause * 2, self._every)
        time = self._wall_clock()
        try:
            status = runs.status(self._run)
        except AgentError as error:
            # Else it may be read again; who hears nothing asks, and is told why.
            if error.kind == "no_run":
                self._is_done = True
                yield Gone(time, error.what, error.kind)
            return
        lives = processes.is_alive(status.supervisor)
        if lives and not self._is_old and self._link is None and self._connect(None) is not None:
            self._told = None
            return  # it tells all there is
        if not lives and self._ended_at is None:
            self._ended_at, self._pause = now, _SHORT_PAUSE
            self._look_at = now + _SHORT_PAUSE
        if status.is_over:
            self._look_at = now + self._beat
        elif self._ended_at is not None and not all(rank.state.is_terminal for rank in status.everyone()):
            # It was killed, and its guardian has not written yet what became of the ranks.
            if now - self._ended_at < self._patience:
                return
            status = status if lives else replace(status, phase="stopping")
        yield from self._told_of(status, lives, time)

    def _told_of(self, status: HostStatus, lives: bool, time: float) -> Iterator[Pushed]:
        is_news = self._told is None or _news_of(self._told) != _news_of(status)
        is_late = self._clock() >= self._said + self._beat
        if is_news:
            self._sequence += 1
            self._told = status
        if is_news or (is_late and lives and _is_stale(status, time)):
            # Of one that hangs the age is news, too; a beat would say that it is well.
            yield Snapshot(self._sequence, time, status, status.supervisor if lives else None)
        elif is_late:
            yield Beat(self._sequence, time)


def _news_of(status: HostStatus) -> HostStatus:
    return replace(status, updated=0.0, clock=None)


def _is_stale(status: HostStatus, time: float) -> bool:
    return time - status.updated > _MISSED * (status.interval or _EARLIER_INTERVAL)


def _frame(event: Any) -> bytes:
    return frame({"event": event.EVENT, "data": to_json(event)})
