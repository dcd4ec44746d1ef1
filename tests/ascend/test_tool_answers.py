"""What the tools of many hosts say is parsed once where it is the same, and refused anew each time."""

from __future__ import annotations

import pytest

from orchestrator.ascend.tool_answers import ToolAnswer, smi
from orchestrator.core.errors import ToolOutputError


class Parser:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> tuple[str]:
        self.texts.append(text)
        if text == "bad":
            raise ToolOutputError("it is bad")
        return (text,)


def test_what_many_hosts_say_is_parsed_once() -> None:
    parse, other = Parser(), Parser()
    answers = [ToolAnswer(smi(number), text) for number, text in enumerate(("up", "up", "down", "up"))]
    assert [answer.read(parse) for answer in answers] == [("up",), ("up",), ("down",), ("up",)]
    assert [answer.read(parse) for answer in answers] == [("up",), ("up",), ("down",), ("up",)]
    assert parse.texts == ["up", "down"]
    assert answers[0].read(other) == ("up",) and other.texts == ["up"]


def test_a_text_that_is_refused_names_the_call_of_each_host() -> None:
    parse = Parser()
    for number in (1, 2):
        with pytest.raises(ToolOutputError, match="it is bad") as caught:
            ToolAnswer(smi(number), "bad").read(parse)
        assert f"npu-smi info {number}" in caught.value.remedy


def test_long_texts_are_not_kept_for_other_hosts() -> None:
    parse = Parser()
    for number in (1, 2):
        ToolAnswer(smi(number), "x" * 5000).read(parse)
    assert len(parse.texts) == 2
