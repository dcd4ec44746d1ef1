"""A chat that is asked before its model is loaded waits and says for what; other errors end the question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.cmd_chat import piped
from orchestrator.control.chat import once_it_listens
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import AgentError, UsageError
from orchestrator.core.states import RunState


class Worker:
    """Gives an error for each question, then its answer; a run's record goes on with each pause."""

    def __init__(self, *errors: str, states: tuple[RunState, ...] = (RunState.RUNNING,)) -> None:
        self.errors, self.states = list(errors), list(states)
        self.asked = self.pauses = 0
        self.said: list[str] = []

    def ask(self) -> Iterator[str]:
        self.asked += 1
        if self.errors:
            raise AgentError("nobody answers", kind=self.errors.pop(0))
        yield from ("be", "cause")

    def look(self) -> RunRecord:
        state = self.states[min(self.pauses, len(self.states) - 1)]
        phase = "pushing files" if state is RunState.PREPARING else "running"
        return RunRecord("r", "j", "chat", 1, 0.0, state=state, phase=phase)

    def pause(self) -> None:
        self.pauses += 1

    def answer(self) -> list[str]:
        return list(once_it_listens(self.ask, self.look, self.said.append, self.pause))


def test_a_question_waits_for_the_launch_and_the_model() -> None:
    states = (RunState.PREPARING, RunState.PREPARING, RunState.STARTING, RunState.RUNNING)
    worker = Worker("no_run", "not_listening", "not_listening", "not_listening", states=states)
    assert worker.answer() == ["be", "cause"]
    assert (worker.asked, worker.pauses) == (5, 4)
    assert worker.said == [
        "waiting: the run is being launched: pushing files",
        "waiting: the model is being loaded",
    ]


def test_a_run_that_ends_meanwhile_is_not_waited_for() -> None:
    worker = Worker("not_listening", "not_listening", states=(RunState.RUNNING, RunState.FAILED))
    with pytest.raises(UsageError, match="r has failed"):
        worker.answer()
    assert worker.pauses == 1


@pytest.mark.parametrize("kind", ["refused", "no_chat"])
def test_an_answer_that_is_none_is_not_asked_for_again(kind: str) -> None:
    worker = Worker(kind)
    with pytest.raises(AgentError):
        worker.answer()
    assert worker.asked == 1 and not worker.said


def test_a_line_that_is_no_text_is_named_and_what_was_before_it_is_asked(tmp_path: Path) -> None:
    lines = piped([b"why?\n", "\u2028 où?\n".encode(), b"\xff\n"], "utf-8")
    assert [next(lines), next(lines)] == ["why?\n", "\u2028 où?\n"]
    with pytest.raises(UsageError, match="line 3 of the questions: byte 0 is no utf-8"):
        next(lines)
    assert list(piped(["où?".encode()], "ANSI_X3.4-1968")) == ["où?"]
    assert list(piped(["为什么?".encode("gbk")], "gbk")) == ["为什么?"]
