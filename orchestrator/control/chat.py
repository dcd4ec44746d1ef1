"""Talk to a run whose job is a chat: questions go through the host's agent, answers stream back."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord
from orchestrator.control.runs import current_record
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["Chat", "Message", "Usage", "once_it_listens"]

# The first token of a large model may take minutes: the graph is compiled for it.
_TIMEOUT = 900.0
_PAUSE = 1.0


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


# What a host says of a run that is only being made ready, or whose worker still loads the model.
_NOT_YET = ("no_run", "not_listening")


def once_it_listens(
    ask: Callable[[], Iterator[str]],
    look: Callable[[], RunRecord],
    report: Callable[[str], None],
    pause: Callable[[], None],
) -> Iterator[str]:
    """The pieces that `ask` gives, asked again after each `pause` until somebody listens.

    `report` is told for what is waited, when that changes. Raises UsageError where `look` finds the run over,
    and what `ask` raises once somebody listens.
    """
    told = ""
    while True:
        try:
            yield from ask()
            return
        except AgentError as error:
            if error.kind not in _NOT_YET:
                raise
        record = look()
        if record.state.is_terminal:
            raise UsageError(f"{record.run_id} has {record.state}", remedy="see `orchestrate status`")
        is_launched = record.state is not RunState.PREPARING
        waits = "the model is being loaded" if is_launched else f"the run is being launched: {record.phase}"
        if record.state is RunState.RESTARTING:
            waits = "the run restarts"
        if waits != told:
            report(f"waiting: {waits}")
            told = waits
        pause()


class Chat:
    """A conversation with the first rank of a run. Each question carries the turns before it."""

    def __init__(self, control: ControlDir, report: Callable[[str], None] = lambda line: None) -> None:
        """`report` is told for what is waited. Raises UsageError: the run is over, or is no chat."""
        self._plan = read_plan(control.plan)
        self._control, self._report, self._has_answered = control, report, False
        record = current_record(control)
        if self._plan.task != "chat":
            raise UsageError(f"{control.run_id} is no chat: its task is {self._plan.task}")
        if record.state.is_terminal:
            raise UsageError(f"{control.run_id} has {record.state}", remedy="launch its job again")
        self._fleet: Fleet = fleet_of([self._plan.master], self._plan.ssh)
        self._fleet.address(address_of(record))
        self.usage = Usage(0, 0.0)

    def ask(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer to the last message, piece by piece; leaving the iteration ends the answer.

        Waits while the model is loaded. `usage` tells of the answer once it is whole. Raises AgentError: the
        worker refused the question, or is gone; UsageError: the run has ended.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        if self._has_answered:
            yield from self._pieces(turns)
        else:
            yield from once_it_listens(
                lambda: self._pieces(turns),
                lambda: current_record(self._control),
                self._report,
                lambda: time.sleep(_PAUSE),
            )

    def _pieces(self, turns: Sequence[Mapping[str, str]]) -> Iterator[str]:
        host = self._plan.master.name
        agent = self._fleet.agent(host)
        is_over = False
        try:
            for event in agent.chat(self._plan.run_id, {"messages": turns}, timeout=_TIMEOUT):
                self._has_answered = True
                if event.error is not None:
                    raise AgentError(event.error, where=host, kind="refused")
                if event.done:
                    self.usage = Usage(event.tokens, event.seconds)
                else:
                    yield event.text
            is_over = True
        except AgentError as error:
            is_over = error.kind in _NOT_YET  # that was the whole answer
            raise
        finally:
            if not is_over:
                self._fleet.drop(host)

    def close(self) -> None:
        self._fleet.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
