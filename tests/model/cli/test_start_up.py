"""The start of `python -m model`: a verb brings in what it needs, and not what the others do."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from model.__main__ import _VERBS, _parser, main


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (verbs,) = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    return dict(verbs.choices)


def test_all_verbs_are_there_whichever_is_asked_for() -> None:
    assert list(verbs_of(_parser())) == list(_VERBS)
    some = verbs_of(_parser(only="convert"))
    assert list(some) == list(_VERBS)
    assert [name for name, own in some.items() if own.get_default("run")] == ["convert"]
    assert all(own.get_default("run") for own in verbs_of(_parser(only="nonsense")).values())


@pytest.mark.parametrize("words", [["convert", "a", "b"], ["--help"], []], ids=["verb", "help", "nothing"])
def test_whatever_is_asked_an_answer_comes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as ended:  # argparse's own
        code = ended.code
    said = "".join(capsys.readouterr())
    assert (code, "Traceback" in said) in {(0, False), (2, False)} and said


def test_a_conversion_starts_without_what_training_needs() -> None:
    """Its start was a sixth of the time that 2 GB take."""
    script = "import sys; from model.__main__ import _parser; _parser(only='convert'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    unwanted = {"mindspore", "tokenizers", "ssl", "model.weights.hub", "model.config.settings"}
    assert not unwanted & set(done.stdout.split())
