"""Prompt templates: the text that stands before an answer."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["TEMPLATES", "conversation", "wrap"]

TEMPLATES = ("alpaca", "belle", "none")

_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
_PLAIN = f"{_TASK}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n"
_WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. {_REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def wrap(instruction: str, input: str = "", template: str = "alpaca") -> str:
    """The prompt that stands before the answer. An empty input takes Alpaca's template without one.

    "none" adds nothing. "alpaca" ends with a line feed as MindFormers' make_mindrecord.py and the `text` of
    the published data set do; "belle" ends as BELLE's model cards do: `Human: … \n\nAssistant:`.
    """
    if template == "alpaca":
        # Not str.format: the texts may hold braces.
        head, tail = (_WITH_INPUT if input else _PLAIN).split("{instruction}")
        return head + instruction + tail.replace("{input}", input, 1)
    question = f"{instruction}\n{input}" if input else instruction
    return f"Human: {question} \n\nAssistant:" if template == "belle" else question


# What stands between an answer and the next question.
_BETWEEN = "\n\n"


def conversation(
    turns: Iterable[tuple[str, str]], question: str, input: str = "", template: str = "alpaca"
) -> str:
    """The prompt of a question that has questions and answers before it, each wrapped as it was asked."""
    before = (f"{wrap(asked, template=template)}{answer}{_BETWEEN}" for asked, answer in turns)
    return "".join(before) + wrap(question, input, template)
