"""The table of decisions as people read it: a row each, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.recovery.decide import ROWS
from orchestrator.recovery.decision_table import TEXTS, table_text

GUIDES = Path(__file__).parents[2] / "docs/guides"


def test_every_row_has_its_texts_in_both_languages() -> None:
    assert set(TEXTS) == {row.ground for row in ROWS}
    for ground, text in TEXTS.items():
        for english in (text.when_en, text.then_en):
            assert english and english == english.strip() and english.isascii(), ground
        for chinese in (text.when_zh, text.then_zh):
            assert re.search(r"[\u4e00-\u9fff]", chinese), ground


def test_the_table_is_in_the_order_in_which_rows_are_tried() -> None:
    for language in ("en", "zh"):
        lines = table_text(language).splitlines()
        assert len(lines) == len(ROWS) + 2 and all(line.count("|") == 5 for line in lines)
        assert [line.split("`")[-2] for line in lines[2:]] == [row.ground.value for row in ROWS]


@pytest.mark.parametrize(
    ("language", "page"), [("en", "a-run-that-survives.md"), ("zh", "a-run-that-survives.zh-CN.md")]
)
def test_the_guide_has_the_table_as_it_is(language: str, page: str) -> None:
    text = (GUIDES / page).read_text(encoding="utf-8")
    assert table_text(language) in text, f"docs/guides/{page}: put in what table_text({language!r}) says"
