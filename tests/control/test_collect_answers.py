from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.cmd_answers import _print_list
from orchestrator.cli.options import json_text, print_json
from orchestrator.control.collect_answers import Answers, lines_of
from orchestrator.core.errors import AgentError


def test_answers_come_by_index_and_keep_their_blanks(tmp_path: Path) -> None:
    with Answers(tmp_path) as answers:
        answers.add("one", ())
        answers.add("two", [("r", b'{"index": 3, "text": " blue"}'), ("r", b'{"index": 0, "of": "two"}')])
        blue = '{"index": 1, "text": "蓝"}'.encode()
        answers.add("one", [("r", b'{"index": 0, "of": "one"}'), ("r", blue)])
        assert len(answers) == 4
        for _ in range(2):
            assert list(answers) == [
                {"index": 0, "of": "one"},
                {"index": 0, "of": "two"},
                {"index": 1, "text": "蓝"},
                {"index": 3, "text": " blue"},
            ]
        assert list(tmp_path.iterdir()) == []  # a file without a name


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"3",
        b"{}",
        b"",
        b'{"index": "3"}',
        b'{"index": Infinity}',
        b'{"index": true}',
        b'{"index": -1}',
        b'{"index": 9223372036854775808}',
        b'{"index": 1, "text": ' + b"[" * 60 + b"]" * 60 + b"}",
        b"[" * 100_000,
    ],
    ids=[f"line{n}" for n in range(12)],
)
def test_a_line_that_is_no_answer_costs_that_host(line: bytes) -> None:
    with (
        Answers() as answers,
        pytest.raises(AgentError, match=r"h: rank_0\.jsonl holds a line that is no answer") as caught,
    ):
        answers.add("h", [("rank_0.jsonl", line)])
    assert caught.value.exit_code == 4


def test_more_answers_than_can_be_are_refused() -> None:
    with Answers(most=3) as answers, pytest.raises(AgentError, match="h: there are more than 3 answers"):
        answers.add("h", [("rank_0.jsonl", b'{"index": 1}')] * 4)


class Piecewise:
    """An agent that sends files in pieces of so many bytes."""

    host = "h"

    def __init__(self, size: int, more: bytes = b"") -> None:
        self.size = size
        self.more = more

    def small_files(self, *_: object, **__: object) -> Iterator[tuple[str | None, bytes]]:
        yield None, b""
        for name in ("rank_0.jsonl", "rank_1.jsonl"):
            lines = [b'{"index": %d, "text": "%s"}\n' % (n, b"x" * n) for n in range(20)]
            data = b"".join(lines) + self.more + b'{"index": 20'
            for at in range(0, len(data), self.size):
                yield name, data[at : at + self.size]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_line_may_begin_in_one_piece_and_end_in_another(size: int) -> None:
    found = list(lines_of(Piecewise(size), "run"))  # type: ignore[arg-type]
    assert [name for name, _ in found] == ["rank_0.jsonl"] * 20 + ["rank_1.jsonl"] * 20
    assert [json.loads(line)["index"] for _, line in found] == [*range(20), *range(20)]


def test_a_line_without_an_end_is_not_held() -> None:
    agent = Piecewise(1 << 20, b"x" * (17 << 20))
    with pytest.raises(AgentError, match=r"h: rank_0\.jsonl holds a line of more than 16 MiB"):
        for _ in lines_of(agent, "run"):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_is_printed_as_print_json_does(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"index": n, "text": "a\nb\x1b[2J \u202e", "more": [1, {"k": []}]} for n in range(count)]
    with Answers() as answers:
        answers.add("h", [("rank_0.jsonl", json.dumps(row).encode()) for row in rows])
        _print_list(answers)
    said = capsys.readouterr().out
    print_json(rows)
    assert said == capsys.readouterr().out and json.loads(said) == rows


def test_what_a_terminal_would_obey_is_escaped_and_still_json() -> None:
    answer = {"index": 0, "text": " 蓝\u3000é\x9b2J \u202e \u2028 \ud800 \U000e0001\n"}
    line = json_text(answer, ascii_only=False)
    assert json.loads(line) == answer and " 蓝\u3000é" in line
    assert not set("\x9b\u202e\u2028\ud800\U000e0001") & set(line)
