"""Talk to a run whose job is a chat: questions go through the host's agent, answers stream back."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import TracebackType

from orchestrator.control.runs import current_record
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["Chat", "Message", "Usage"]

# The first token of a large model may take minutes: the graph is compiled for it.
_TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost."""

    tokens: int
    seconds: float


class Chat:
    """A conversation with the first rank of a run. Each question carries the turns before it."""

    def __init__(self, control: ControlDir) -> None:
        """Raises UsageError: the run is over, or is no chat."""
        self._plan = read_plan(control.plan)
        record = current_record(control)
        if self._plan.task != "chat":
            raise UsageError(f"{control.run_id} is no chat: its task is {self._plan.task}")
        if record.state.is_terminal:
            raise UsageError(f"{control.run_id} has {record.state}", remedy="launch its job again")
        self._fleet: Fleet = fleet_of([self._plan.master], self._plan.ssh)
        self.usage = Usage(0, 0.0)

    def ask(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer to the last message, piece by piece; leaving the iteration ends the answer.

        `usage` tells of it once it is whole. Raises AgentError: the worker refused the question, or is gone.
        """
        host = self._plan.master.name
        turns = [{"role": message.role, "content": message.content} for message in messages]
        agent = self._fleet.agent(host)
        is_whole = False
        try:
            for event in agent.chat(self._plan.run_id, {"messages": turns}, timeout=_TIMEOUT):
                if event.error is not None:
                    raise AgentError(event.error, where=host, kind="refused")
                if event.done:
                    self.usage = Usage(event.tokens, event.seconds)
                else:
                    yield event.text
            is_whole = True
        finally:
            if not is_whole:
                self._fleet.drop(host)

    def close(self) -> None:
        self._fleet.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
