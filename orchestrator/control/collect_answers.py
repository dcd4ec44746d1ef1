"""The answers of a prediction job, from all hosts, in the order of its prompts."""

from __future__ import annotations

import json
import re
from typing import Any

from orchestrator.core.errors import OrchestrateError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["answers_in", "answers_of", "collect_answers"]


_MOST_BYTES = 1 << 32
_NAMES = re.compile(r"rank_\d+\.jsonl", re.ASCII)


def collect_answers(control: ControlDir) -> list[dict[str, Any]]:
    """Every answer there is so far: one object a prompt, by `index`.

    Raises UsageError where the run's task makes none, HostsFailed or the error of a host that could not be
    reached, OrchestrateError where an answer file cannot be read.
    """
    plan = read_plan(control.plan)
    if plan.task != "predict":
        what = f"{plan.run_id} is a run of task {plan.task}: only those of task predict write answers"
        remedies = {"chat": "orchestrate chat", "command": "orchestrate logs has what the program printed"}
        raise UsageError(
            what, remedy=remedies.get(plan.task, "orchestrate collect-ckpt has what was trained")
        )
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        found = fleet.each(lambda agent: answers_of(agent, plan.run_id))
    found.raise_on_error()
    answers = [answer for mine in found.values.values() for answer in mine]
    return sorted(answers, key=lambda answer: answer["index"])


def answers_of(agent: Agent, run_id: str) -> list[dict[str, Any]]:
    """The answers on one host. Files come in pieces: a line may begin in one and end in another."""
    answers: list[dict[str, Any]] = []
    before: str | None = None
    begun: list[bytes] = []
    for name, data in agent.small_files(run_id, "answers", _NAMES, total=_MOST_BYTES):
        if name != before:
            before, begun = name, []
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            answers += answers_in(str(name), b"".join([*begun, whole, newline]), agent.host)
            begun = []
        begun.append(rest)
    return answers


def answers_in(name: str, data: bytes, host: str) -> list[dict[str, Any]]:
    """The whole lines of one file of a host. Raises OrchestrateError where one is no answer."""
    answers = []
    # The last line may just be being written.
    for line in data.split(b"\n")[:-1]:
        try:
            answer = json.loads(line)
            if type(answer["index"]) is not int:
                raise TypeError
            answers.append(answer)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise OrchestrateError(f"{name} holds a line that is no answer", where=host) from error
    return answers
