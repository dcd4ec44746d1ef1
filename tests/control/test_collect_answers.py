from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orchestrator.cli.options import json_text
from orchestrator.control.collect_answers import answers_in, answers_of
from orchestrator.core.errors import OrchestrateError


def test_answers_are_whole_lines_and_keep_their_blanks() -> None:
    data = b'{"index": 3, "text": " blue"}\n{"index": 4, "te'
    assert answers_in("rank_0.jsonl", data, "h") == [{"index": 3, "text": " blue"}]
    assert answers_in("rank_0.jsonl", b"", "h") == []


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"3", b"{}", b'{"index": "3"}', b'{"index": Infinity}', b'{"index": true}', b"[" * 100_000],
)
def test_a_line_that_is_no_answer_costs_that_host(line: bytes) -> None:
    with pytest.raises(OrchestrateError, match=r"h: rank_0\.jsonl holds a line that is no answer"):
        answers_in("rank_0.jsonl", line + b"\n", "h")


class Piecewise:
    """An agent that sends files in pieces of so many bytes."""

    host = "h"

    def __init__(self, size: int) -> None:
        self.size = size

    def small_files(self, *_: object, **__: object) -> Iterator[tuple[str | None, bytes]]:
        yield None, b""
        for name in ("rank_0.jsonl", "rank_1.jsonl"):
            data = (
                b"".join(b'{"index": %d, "text": "%s"}\n' % (n, b"x" * n) for n in range(20))
                + b'{"index": 20'
            )
            for at in range(0, len(data), self.size):
                yield name, data[at : at + self.size]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_line_may_begin_in_one_piece_and_end_in_another(size: int) -> None:
    found = answers_of(Piecewise(size), "run")  # type: ignore[arg-type]
    assert [answer["index"] for answer in found] == [*range(20), *range(20)]


def test_what_a_terminal_would_obey_is_escaped_and_still_json() -> None:
    answer = {"index": 0, "text": " 蓝\u3000é\x9b2J \u202e \u2028 \ud800 \U000e0001\n"}
    line = json_text(answer, ascii_only=False)
    assert json.loads(line) == answer and " 蓝\u3000é" in line
    assert not set("\x9b\u202e\u2028\ud800\U000e0001") & set(line)
