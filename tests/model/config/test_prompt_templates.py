from __future__ import annotations

import pytest

from model.config.prompt_templates import conversation, wrap


def test_the_templates_end_as_their_sources_do():
    plain = wrap("Count {to} three.")
    assert (
        plain.endswith("### Instruction:\nCount {to} three.\n\n### Response:\n") and "### Input" not in plain
    )
    paired = wrap("Add {input}.", "1 and {instruction}")
    assert "paired with an input" in paired
    assert paired.endswith(
        "### Instruction:\nAdd {input}.\n\n### Input:\n1 and {instruction}\n\n### Response:\n"
    )
    assert wrap("你好", template="belle") == "Human: 你好 \n\nAssistant:"
    assert wrap("Add.", "1", template="belle") == "Human: Add.\n1 \n\nAssistant:"


@pytest.mark.parametrize(
    "question",
    [
        "what color is the sky?",
        "Translate to English: Je t'aime.",
        " two spaces before  ",
        "a line\n",
        "类似于阿凡达的电影有哪些?",
    ],
)
def test_without_a_template_a_question_goes_in_as_it_is(question):
    assert wrap(question, template="none") == question
    assert conversation([], question, template="none") == question


def test_turns_are_wrapped_as_they_were_asked():
    turns = [("Hi", "Hello"), ("Who?", "I")]
    assert (
        conversation(turns, "Why?", "x", "belle")
        == "Human: Hi \n\nAssistant:Hello\n\nHuman: Who? \n\nAssistant:I\n\nHuman: Why?\nx \n\nAssistant:"
    )
