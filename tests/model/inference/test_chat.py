from __future__ import annotations

from model.cli.cmd_chat import KEYS, talk
from model.config.prompt_templates import wrap
from model.errors import ModelError
from model.inference.chat import Chat
from model.inference.sampling import Sampling


def chat(answers, room=1000, template="belle"):
    """A chat that gives the answers in turn, word by word; `prompts` are what it was asked with."""
    prompts, left = [], iter(answers)

    def pieces(prompt, sampling):
        prompts.append(prompt)
        for word in next(left):
            if word is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield word

    made = Chat(pieces, len, sampling=Sampling(8), template=template, room=room)
    return made, prompts


def reader(*lines):
    """Stands for the keyboard; an exception among the lines is raised, and the input ends after the last."""
    left = iter(lines)

    def read():
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def test_earlier_turns_stand_before_the_question(capsys):
    made, prompts = chat([["Hello", " you"], ["Fine"]])
    talk(made, reader("Hi", "How are you?"))
    assert prompts[1] == "Human: Hi \n\nAssistant:Hello you\n\nHuman: How are you? \n\nAssistant:"
    assert capsys.readouterr().out == "Hello you\nFine\n\n"


def test_what_is_not_in_the_terminals_encoding_ends_nothing(capsys):
    made, prompts = chat([["Fine"]])
    broken = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    talk(made, reader("Hi \udcff", broken, "How are you?"))
    assert prompts == ["Human: How are you? \n\nAssistant:"]
    assert capsys.readouterr().out.count("that line is not in the terminal's encoding") == 2


def test_the_oldest_turns_go_first_when_it_gets_long():
    made, prompts = chat([["a" * 30], ["b" * 30], ["c"]], room=140, template="none")
    for question in ("one", "two", "three"):
        assert list(made.ask(question))
    assert "one" in prompts[1]
    made.room = 50
    prompt = made._prompt("four")
    assert "one" not in prompt and "two" not in prompt and prompt.endswith("four")


def test_ctrl_c_stops_the_answer_and_not_the_chat(capsys):
    made, _ = chat([["Once", " upon", KeyboardInterrupt], ["Yes"]])
    talk(made, reader("A story", KeyboardInterrupt, "Go on?"))
    out = capsys.readouterr().out
    assert out == f"Once upon …\n\n{KEYS}\nYes\n\n"
    assert made.turns == [("A story", "Once upon"), ("Go on?", "Yes")]


def test_commands_and_templates():
    made, prompts = chat([["x"], ["y"]], template="alpaca")
    talk(made, reader("Hi", "/clear", "", "Ho", "/quit", "never read"))
    assert prompts == [wrap("Hi"), wrap("Ho")]


def test_a_question_that_cannot_be_answered_is_a_line(capsys):
    def refuse(prompt, sampling):
        raise ModelError("a prompt of 99 tokens leaves no room", where="prompt")

    made = Chat(refuse, len, sampling=Sampling(8), template="none", room=50)
    talk(made, reader("long", "/quit"))
    assert capsys.readouterr().out == "error: prompt: a prompt of 99 tokens leaves no room\n"
