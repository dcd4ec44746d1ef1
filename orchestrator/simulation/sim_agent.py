"""A simulated host's agent as its session sees it: it is booted over its stdin, then answers frame by frame.

The bytes are those of `hosts.boot` and `core.protocol`; what the answers are is in `sim_verbs`.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.agent.request_loop import Answer
from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.protocol import Receiver, frame
from orchestrator.core.push import Mark
from orchestrator.simulation.sim_shards import reading_seconds
from orchestrator.simulation.sim_values import Packet, Value, answer_packet, event_packet
from orchestrator.simulation.sim_verbs import THINKING, answers_to
from orchestrator.simulation.sim_watch import SimWatch

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun
    from orchestrator.simulation.sim_transport import SimChannel

__all__ = ["DirectSimAgent", "SimAgent", "SimProgram"]

# The version of the simulated Python: not that of this process, so that nothing compiled is sent.
_PYTHON = "00000000"
_START = 0.25  # seconds from its first byte until an agent listens


class SimProgram:
    """Any other program: one that ends at once and says nothing."""

    def __init__(self, channel: SimChannel) -> None:
        channel.end()

    def feed(self, data: bytes) -> None:
        pass

    def hung_up(self) -> None:
        pass


class SimAgent(SimProgram):
    """One session's agent. Requests are answered in their order, each after the time that its verb takes."""

    def __init__(self, host: SimHost, channel: SimChannel) -> None:
        self.host = host
        self.is_alive = True
        self._watch: SimWatch | None = None
        self._channel = channel
        self._boot: bytearray | None = bytearray()
        self._ask: Mapping[str, Any] | None = None
        self._receiver = Receiver()
        self._waiting: deque[tuple[dict[str, Any], bytes]] = deque()
        self._header: dict[str, Any] | None = None
        self._body = bytearray()
        self._is_busy = False
        host.agents.append(self)

    def feed(self, data: bytes) -> None:
        if not self.is_alive:
            return
        if self._boot is not None:
            self._boot += data
            self._go_on_booting()
        else:
            self._receiver.feed(data)
            self._take_requests()

    def hung_up(self) -> None:
        if self.is_alive:
            self.vanish()
            self.host.agents.remove(self)
            self._channel.end()

    def vanish(self) -> None:
        """The process is gone."""
        self.is_alive = False
        if self._watch is not None:
            self._watch.close()

    def watch(self, run: SimRun, since: Mark | None, every: float, beat: float) -> int:
        """Tell what is new of a run from now on, in the place of what was told before."""
        if self._watch is not None:
            self._watch.close()
        self._watch = SimWatch(self.host, run, self._tell, every=every, beat=beat)
        return self._watch.open(since)

    def _tell(self, event: str, data: Any) -> None:
        self._say(self.host.lied({"event": event, "data": Value.plain(data)}, "watch"))

    # The start, as the program of hosts/boot.py goes about it.

    def _go_on_booting(self) -> None:
        assert self._boot is not None
        if self._ask is None:
            # What a shell would take comes first; the program is the line behind it, what it asks the next.
            lines = bytes(self._boot).split(b"\n")
            begins = next((number for number, line in enumerate(lines) if line[:5] == b"exec("), None)
            if begins is None or len(lines) < begins + 3:
                return
            self._ask = json.loads(lines[begins + 1])
            self._boot = bytearray(b"\n".join(lines[begins + 2 :]))
            if self._ask["sha256"] not in self.host.agent_versions:
                if self.host.is_full:
                    self._fail("No space left on device")
                    return
                self._word("need", _PYTHON)
        if self._ask["sha256"] not in self.host.agent_versions:
            data, newline, rest = self._zip_and_modules()
            if not newline:
                return
            self._boot = bytearray(rest)
            if hashlib.sha256(data).hexdigest() != self._ask["sha256"]:
                self._fail("the agent arrived damaged")
                return
            self.host.agent_versions.add(self._ask["sha256"])
        rest, self._boot = bytes(self._boot), None
        self._word("ready")
        self._receiver.feed(rest)
        self._take_requests()

    def _zip_and_modules(self) -> tuple[bytes, bytes, bytes]:
        """The zip, the line behind it, and what follows; no line until it is whole.

        The line tells of modules that are compiled for our version of Python: of none, for another one.
        """
        assert self._boot is not None and self._ask is not None
        size = self._ask["size"]
        line, newline, rest = bytes(self._boot[size:]).partition(b"\n")
        if newline and not line.startswith(b"0 "):
            raise ValueError(f"compiled modules for Python {_PYTHON}: {bytes(line[:80])!r}")
        return bytes(self._boot[:size]), newline, rest

    def _fail(self, what: str) -> None:
        self._word("error", json.dumps(f"{self.host.workdir}/agent: {what}"))
        self.host.world.after(_START, self.hung_up)

    def _word(self, *words: str) -> None:
        line = " ".join(("orchestrate-agent", *words)).encode() + b"\n"
        self.host.world.after(_START, lambda: self._channel.say(line))

    # The session.

    def _take_requests(self) -> None:
        while True:
            if self._header is None:
                self._header = self._receiver.header()
                if self._header is None:
                    return
            self._body += self._receiver.take(self._receiver.left)
            if self._receiver.left:
                return
            header, body, self._header, self._body = self._header, bytes(self._body), None, bytearray()
            if "beat" not in header:
                self._waiting.append((header, body))
                self._begin()

    def _begin(self) -> None:
        if self._waiting and not self._is_busy:
            self._is_busy = True
            verb, args = str(self._waiting[0][0].get("verb")), self._waiting[0][0].get("args", {})
            seconds = THINKING.get(verb, THINKING[""]) + reading_seconds(self.host, verb, args)
            seconds += self.host.answers_late
            self.host.world.after(seconds, self._answer)

    def _answer(self) -> None:
        self._is_busy = False
        if not self.is_alive:
            return
        request, body = self._waiting.popleft()
        for answer in self._answers(request, body):
            self._reply(request, answer)
        self._begin()

    def _reply(self, request: Mapping[str, Any], answer: Answer) -> None:
        name = {"id": request["id"]} if "id" in request else {}
        answer.result = Value.plain(answer.result)
        header = self.host.lied({**name, **answer.header()}, str(request.get("verb")))
        self._say(header, bytes(answer.data))

    def _answers(self, request: Mapping[str, Any], body: bytes) -> list[Answer]:
        try:
            return list(answers_to(self, str(request.get("verb")), request.get("args", {}), body))
        except AgentError as error:
            return [Answer.refusal(error.what, error.remedy, error.kind)]
        except CheckpointError as error:
            return [Answer.refusal(str(error), "", "checkpoint")]
        except OSError as error:
            return [Answer.refusal(f"{error.filename}: {error.strerror}", "free space there", "os_error")]

    def _say(self, header: Mapping[str, Any] | bytes, data: bytes = b"") -> None:
        if self.is_alive:
            self._channel.say((header if isinstance(header, bytes) else frame(dict(header))) + data)


class DirectSimAgent(SimAgent):
    """The agent of a session without bytes; it needs no boot, but its interpreter has to start."""

    def __init__(self, host: SimHost, channel: SimChannel) -> None:
        super().__init__(host, channel)
        self._boot = None
        self._is_busy = True
        host.world.after(_START, self._started)

    def feed(self, data: Any) -> None:
        if self.is_alive:
            self._waiting.append(data.content)
            self._begin()

    def _started(self) -> None:
        self._is_busy = False
        self._begin()

    def _tell(self, event: str, data: Any) -> None:
        self._send(event_packet(event, data))

    def _reply(self, request: Mapping[str, Any], answer: Answer) -> None:
        self._send(answer_packet(request["id"], answer))

    def _send(self, packet: Packet) -> None:
        if self.is_alive:
            self._channel.say(packet)  # type: ignore[arg-type]
