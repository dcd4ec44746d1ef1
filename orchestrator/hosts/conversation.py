"""The control node's side of a session, apart from input and output: requests out, answers and events in.

Every answer is held against the limits of its request before anything is made of it: bytes, items, depth.
What it means is not looked at here; `agent_client` checks it against its type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import AgentError, AnswerError
from orchestrator.core.protocol import ProtocolError, Receiver, frame
from orchestrator.core.visible_text import visible

__all__ = ["Answer", "Conversation", "Event", "Limits", "shown"]

_LONGEST_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may be: bytes of its JSON and of the data behind it, values in it, how deep they lie.

    `answers` is how many there may be to one request, `total` the bytes of all of them. `together`: they have
    to come in the time of one, and do not get each its own. Of what is said unasked, `answers` and `total`
    are what may come in place of an answer.
    """

    text: int = 1 << 20
    data: int = 0
    items: int = 100_000
    depth: int = 16
    answers: int = 1
    total: int = 1 << 62
    together: bool = False


_DECODE = json.JSONDecoder().raw_decode
# What answers nobody is a notice, not a file, unless one asks for more.
_NOTICES = Limits(1 << 16, answers=1000)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `size` bytes of data follow, and, if there is `more`, other answers."""

    result: Any
    size: int
    more: bool


@dataclass(frozen=True, slots=True)
class Event:
    """What an agent said unasked: a name, and JSON that nobody has checked, `size` bytes of it."""

    name: str
    data: Any
    size: int = field(default=0, compare=False)


def shown(text: object, limit: int = _LONGEST_SHOWN) -> str:
    """A host's words as part of a line: nothing in them that a terminal obeys, cut where they are long."""
    line = visible(str(text)[:limit].expandtabs(4))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


class Conversation:
    """Requests and their answers, one request at a time.

    `ask` gives the bytes to send. Then `feed` it with what comes, and take what `next` makes of it; the data
    behind an answer is taken from `receiver`. Raises AnswerError once the peer breaks the rules: nothing that
    comes after that means anything.
    """

    def __init__(self, host: str) -> None:
        self.receiver = Receiver(parse=self._parse)
        self._host = host
        self._limits = self._unasked = _NOTICES
        self._number = self._length = 0
        self._answers = self._events = self._said = self._total = 0
        self.is_answered = True

    def ask(self, verb: str, args: Mapping[str, Any], size: int, limits: Limits) -> bytes:
        """The bytes of a request, behind which `size` bytes of data go."""
        self._number += 1
        self._limits = limits
        self._answers = self._events = self._said = self._total = 0
        self.is_answered = False
        self.receiver.longest = max(limits.text, self._unasked.text)
        return frame({"id": self._number, "verb": verb, "args": args, "bytes": size})

    def allow(self, unasked: Limits) -> None:
        """From now on take so much of what the agent says without being asked."""
        self._unasked = unasked
        self.receiver.longest = max(self._limits.text, unasked.text)

    def feed(self, data: bytes) -> None:
        self.receiver.feed(data)

    def next(self) -> Answer | Event | None:
        """What has come whole, None where nothing has. AgentError where the agent refuses the request."""
        try:
            header = self.receiver.header()
        except ProtocolError as error:
            raise self.broken(f"sent something that is no answer: {error}") from None
        if header is None:
            return None
        if "event" in header:
            return self._event(header)
        if self.is_answered or header.get("id") != self._number:
            raise self.broken("answered another question than was asked")
        if header.get("ok") is False:
            raise self._refusal(header)
        return self._answer(header)

    def _answer(self, header: Mapping[str, Any]) -> Answer:
        more = header.get("more", False)
        if header.get("ok") is not True or not isinstance(more, bool):
            raise self.broken("sent something that is no answer")
        size = self.receiver.left
        self._answers += 1
        self._total += size
        if self._answers > self._limits.answers:
            raise self.broken(f"sent more than {self._limits.answers} answers")
        if size > self._limits.data:
            raise self.broken(f"sent {size} bytes where at most {self._limits.data} were asked for")
        if self._total > self._limits.total:
            raise self.broken(f"sent more than {self._limits.total} bytes")
        self.is_answered = not more
        return Answer(header.get("result"), size, more)

    def _refusal(self, header: Mapping[str, Any]) -> AgentError:
        self.is_answered = True
        error = header.get("error")
        if not isinstance(error, Mapping) or self.receiver.left:
            raise self.broken("refused without a reason")
        what, remedy, kind = (shown(error.get(name, "")) for name in ("what", "remedy", "kind"))
        return AgentError(what, where=self._host, remedy=remedy, kind=kind)

    def _event(self, header: Mapping[str, Any]) -> Event:
        if not self.is_answered:
            self._events += 1
            self._said += self._length
        if not isinstance(header["event"], str) or self.receiver.left:
            raise self.broken("sent an event that is none")
        most = self._unasked
        if self._events > most.answers or self._said > most.total:
            raise self.broken(f"sent {self._events - 1} events in place of an answer")
        return Event(shown(header["event"], 60), header.get("data"), self._length)

    def _parse(self, line: bytes) -> Any:
        """JSON within the limits, counted before it is parsed: values take far more room than text."""
        limits = self._unasked if line.startswith(b'{"event"') else self._limits
        if len(line) > limits.text:
            raise self.broken(f"sent an answer over {limits.text} bytes")
        nested = line.count(b"[") + line.count(b"{")
        if line.count(b",") + nested > limits.items:
            raise self.broken(f"sent an answer of more than {limits.items} values")
        self._total += len(line)
        self._length = len(line)
        value = _loaded(line)
        if nested > limits.depth and not _is_flat(value, limits.depth):
            raise self.broken(f"sent an answer that is nested more than {limits.depth} deep")
        return value

    def broken(self, what: str) -> AnswerError:
        """The error of a peer that breaks the rules: what it has done."""
        return AnswerError(
            f"the agent {what}", where=self._host, remedy="see what runs there in the agent's place"
        )


def _loaded(line: bytes) -> Any:
    """As `json.loads`, in half the time for what is an object and nothing else."""
    if line.startswith(b"{"):
        text = line.decode("utf-8", "surrogatepass")
        value, end = _DECODE(text)
        if end == len(text):
            return value
    return json.loads(line)


def _is_flat(value: Any, depth: int) -> bool:
    """Whether no value lies deeper."""
    if not isinstance(value, (list, dict)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner if isinstance(each, (list, dict)))
