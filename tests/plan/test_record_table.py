"""Records as tables: what comes back, that it is shared, and what is said of a table that is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.codec import DecodeError
from orchestrator.plan.record_table import lists_of, lists_read, records_read, table_of


@dataclass(frozen=True)
class Leaf:
    name: str
    number: int = 0


@dataclass(frozen=True)
class Row:
    key: str
    count: int
    share: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    leaves: tuple[Leaf, ...] = ()
    words: tuple[str, ...] = ()
    deep: Mapping[str, Any] = field(default_factory=dict)
    only: Leaf | None = None


def again(rows: list[Row]) -> list[Row]:
    """The rows as they come back from text."""
    return records_read(Row, json.loads(json.dumps(table_of(Row, rows))))


texts = st.text(max_size=4)
numbers = st.integers(-(2**63), 2**63 - 1)
leaves = st.builds(Leaf, texts, numbers)
rows = st.builds(
    Row,
    texts,
    numbers,
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.sampled_from(["RANK", "values", "at", "map", ""]), texts),
    st.lists(leaves, max_size=3).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
    st.dictionaries(texts, st.none() | numbers | st.lists(texts, max_size=1), max_size=2),
    st.none() | leaves,
)


@given(st.lists(rows, max_size=6))
def test_records_come_back_as_they_were(given_rows: list[Row]) -> None:
    back = again(given_rows)
    assert back == given_rows
    assert [list(row.env) for row in back] == [list(row.env) for row in given_rows]


@given(st.lists(rows, min_size=1, max_size=2), st.integers(1, 4))
def test_equal_records_come_back_too(given_rows: list[Row], times: int) -> None:
    assert again(given_rows * times) == given_rows * times


@given(st.lists(st.lists(leaves, max_size=3).map(tuple), max_size=5))
def test_lists_come_back_as_they_were(lists: list[tuple[Leaf, ...]]) -> None:
    assert lists_read(Leaf, json.loads(json.dumps(lists_of(Leaf, lists)))) == lists


def many(count: int = 100) -> list[Row]:
    """Rows like those of a launch: most is the same, some have leaves of their own behind those of all."""
    common = tuple(Leaf(f"file{number}") for number in range(50))
    return [
        Row(
            f"host{number}",
            8,
            env={"RANK": str(number), "SIZE": str(count)},
            leaves=(*common, Leaf(f"own{number}")) if number % 2 else common,
            words=("python", "train.py"),
            deep={"of": "all"},
        )
        for number in range(count)
    ]


def test_what_all_share_stands_once_and_is_one_object() -> None:
    table = table_of(Row, many())
    text = json.dumps(table)
    assert [text.count(word) for word in ("file7", "train.py", '"SIZE"', "own3")] == [1, 1, 1, 6]
    assert table["same"].keys() == {"count", "share", "words", "deep", "only"}
    assert table["each"]["env"] == {"map": {"RANK": [str(number) for number in range(100)], "SIZE": "100"}}
    assert table["each"]["leaves"]["spans"][:4] == [[0, 50], [0, 51], [0, 50], [0, 50, 51, 52]]
    first, second, third = again(many())[:3]
    assert first.leaves is third.leaves and first.leaves[0] is second.leaves[0]
    assert first.words is second.words and first.deep is second.deep


def test_records_that_are_equal_and_no_one_object_stand_once() -> None:
    rows = [Row(f"host{number}", 1, leaves=(Leaf("a"), Leaf(f"{number % 2}"))) for number in range(4)]
    rows = [*rows, Row("last", 2)]
    assert table_of(Row, rows)["each"]["leaves"] == {
        "rows": {"same": {"number": 0}, "each": {"name": ["a", "0", "1"]}},
        "spans": [[0, 2], [0, 1, 2, 3], [0, 2], [0, 1, 2, 3], []],
    }


def test_a_key_that_is_missing_has_its_default_and_one_too_many_is_passed_over() -> None:
    data = {"same": {"count": 3, "newer": 1}, "each": {"key": ["a", "b"], "more": "?"}, "other": 2}
    assert records_read(Row, data) == [Row("a", 3), Row("b", 3)]
    assert records_read(Row, {}) == records_read(Row, {"same": {"count": 1}}) == []


def _with(place: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        *way, last = place
        found: Any = table
        for step in way:
            found = found[step]
        found[last] = value

    return change


LEAVES = ["each", "leaves"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with(["each"], []), "each: expected an object, got a list of 0"),
        (_with(["same"], 1), "same: expected an object, got 1"),
        (_with(["same", "count"], "x"), 'same.count: expected a whole number, got "x"'),
        (_with(["same"], {}), "each.count: is missing"),
        (_with(["each", "key"], "x"), 'each.key: expected an object, got "x"'),
        (_with(["each", "key", 2], 1), "each.key[2]: expected a text, got 1"),
        (_with(["each", "count"], [1, 2]), "each.count: expected 4 values, got 2"),
        (_with(["each", "count"], [1, 1 << 63, 1, 1]), "each.count[1]: expected a whole number, got 92233"),
        (_with(["each", "count"], [1, True, 1, 1]), "each.count[1]: expected a whole number, got true"),
        (_with(["each", "env"], {}), "each.env: expected a column"),
        (_with(["each", "env", "map"], {"A": "b"}), "each.env.map: it has no list"),
        (_with(["each", "env", "map", "RANK"], ["0", 1]), "each.env.map.RANK[1]: expected a text, got 1"),
        (_with(["each", "env", "map", "N"], ["0"]), "each.env.map.N: expected 4 texts, got 1"),
        (_with(["each", "only"], {"values": [None], "at": [0, 0, 0, 1]}), "each.only.at: there are 1 values"),
        (
            _with(["each", "only"], {"values": [None], "at": [0, 0, 0, -1]}),
            "each.only.at: there are 1 values",
        ),
        (
            _with(["each", "only"], {"values": [3], "at": []}),
            "each.only.values[0]: expected an object, got 3",
        ),
        (_with(["each", "only"], {"values": []}), "each.only.at: expected a list, got null"),
        (_with(["each", "count"], {"rows": {}, "spans": []}), "each.count: expected a column"),
        (_with([*LEAVES, "rows"], None), "each.leaves.rows: expected an object, got null"),
        (
            _with([*LEAVES, "rows", "each", "name", 1], 1),
            "each.leaves.rows.each.name[1]: expected a text, got 1",
        ),
        (_with([*LEAVES, "spans"], [[0, 1]]), "each.leaves: expected 4 values, got 1"),
        (_with([*LEAVES, "spans", 1], [0, 99]), "each.leaves.spans[1]: no spans of 52 rows"),
        (_with([*LEAVES, "spans", 1], [-1, 1]), "each.leaves.spans[1]: no spans of 52 rows"),
        (_with([*LEAVES, "spans", 1], [2, 1]), "each.leaves.spans[1]: no spans of 52 rows"),
        (_with([*LEAVES, "spans", 1], [0]), "each.leaves.spans[1]: no spans of 52 rows"),
        (_with([*LEAVES, "spans", 1], ["0"]), 'each.leaves.spans[1][0]: expected a whole number, got "0"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(change: Callable[[Any], None], said: str) -> None:
    table = json.loads(json.dumps(table_of(Row, many(4))))
    change(table)
    with pytest.raises(DecodeError) as caught:
        records_read(Row, table)
    assert str(caught.value).startswith(said)


def test_a_small_file_takes_no_large_memory() -> None:
    """Each is of a few hundred kilobytes, and would be gigabytes."""
    count = 20_000
    spans = [[0, end] for end in range(1, count)]
    pool = {"each": {"name": ["x"] * count}}
    with pytest.raises(DecodeError, match="spans: they repeat too much"):
        lists_read(Leaf, {"rows": pool, "spans": spans})
    env = {"map": {"RANK": ["x"] * count, **{str(number): "" for number in range(count)}}}
    with pytest.raises(DecodeError, match="it repeats too much"):
        records_read(Row, {"same": {"count": 1, "key": ""}, "each": {"env": env}})
