"""Prompt templates: the text that stands before an answer."""

from __future__ import annotations

__all__ = ["TEMPLATES", "wrap"]

TEMPLATES = ("alpaca", "belle", "none")

_TASK = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
_PLAIN = f"{_TASK}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n"
_WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. {_REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def wrap(instruction: str, input: str = "", template: str = "alpaca") -> str:
    """The prompt that stands before the answer, as Stanford's Alpaca or BELLE was trained with it.

    An empty input takes Alpaca's template without one.
    """
    if template == "alpaca":
        # Not str.format: the texts may hold braces.
        head, tail = (_WITH_INPUT if input else _PLAIN).split("{instruction}")
        return head + instruction + tail.replace("{input}", input, 1)
    question = f"{instruction}\n{input}" if input else instruction
    return f"Human: {question} \n\nAssistant:" if template == "belle" else f"{question}\n"
