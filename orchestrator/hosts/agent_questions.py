"""The way in which an agent is asked: one request, and answers that are made of their type or refused.

What a host says is a stranger's data, see `agent_client`, whose verbs are asked in this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from orchestrator.core.codec import DecodeError, from_json
from orchestrator.core.errors import AnswerError
from orchestrator.hosts.answer_checks import made_visible
from orchestrator.hosts.conversation import Limits, shown
from orchestrator.hosts.session import Payload, Session

__all__ = ["AgentQuestions"]

T = TypeVar("T")

_SMALL = Limits()


class AgentQuestions:
    """One session with an agent, asked from any number of threads, one question at a time."""

    def __init__(self, session: Session) -> None:
        self.host = session.host
        self._session = session

    def close(self) -> None:
        self._session.close()

    def _ask(
        self,
        kind: type[T],
        verb: str,
        *,
        limits: Limits = _SMALL,
        raw: tuple[str, ...] | None = (),
        payload: Payload = b"",
        timeout: float | None = None,
        **args: Any,
    ) -> T:
        """One answer, made of its type; texts made visible but for those at the keys `raw` (None: all)."""
        (result, _), *_ = self._stream(verb, limits, payload=payload, timeout=timeout, **args)
        return self._made(kind, result if raw is None else self._shown(result, raw))

    def _shown(self, result: Any, raw: tuple[str, ...]) -> Any:
        """What a host says, as it may be shown."""
        return made_visible(result, raw=raw)

    def _ask_for_data(self, kind: type[T] | None, verb: str, most: int, **args: Any) -> tuple[T, bytes]:
        limits = Limits(data=most)
        (result, data), *_ = self._stream(verb, limits, **args)
        return (None if kind is None else self._made(kind, result)), bytes(data)  # type: ignore[return-value]

    def _do(self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any) -> None:
        """A request whose answer says nothing but that it is done."""
        for _ in self._stream(verb, _SMALL, payload=payload, timeout=timeout, **args):
            pass

    def _stream(
        self, verb: str, limits: Limits, *, payload: Payload = b"", timeout: float | None = None, **args: Any
    ) -> Iterator[tuple[Any, memoryview]]:
        return self._session.stream(verb, args, limits, payload=payload, timeout=timeout)

    def _made(self, kind: type[T], data: Any) -> T:
        try:
            return from_json(kind, data)
        except DecodeError as error:
            raise self._none(error) from None

    def _expect(self, fits: bool, what: str) -> None:
        if not fits:
            raise self._none(f"expected {what}")

    def _none(self, why: object) -> AnswerError:
        return self._session.refuse(f"sent an answer that is none: {shown(why, 200)}")
