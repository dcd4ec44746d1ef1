"""The one codec: values and back, what is ignored and defaulted, what is refused and where."""

# ruff: noqa: UP006, UP035, UP042, UP045  # the hints of Python 3.8, which the agent has
from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, List, Literal, Mapping, Optional, Tuple

import pytest
from pydantic import BaseModel, ConfigDict

from orchestrator.core.codec import DecodeError, NewerFormat, Stored, dumps, from_json, loads, to_json


class Colour(str, enum.Enum):
    RED = "red"


class PlainName(str):
    def __new__(cls, text: str) -> PlainName:
        if "/" in text:
            raise ValueError(f"{text!r} is no plain name")
        return super().__new__(cls, text)


class Knob(BaseModel):
    model_config = ConfigDict(extra="forbid")
    turns: int = 1


@dataclass(frozen=True)
class Leaf:
    name: PlainName
    size: int = 0
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Tree(Stored):
    FORMAT: ClassVar[int] = 3
    leaves: Tuple[Leaf, ...]
    by_name: Mapping[str, Leaf] = field(default_factory=dict)
    pair: Tuple[int, str] = (1, "a")
    path: Optional[Path] = None
    ratio: float = 0.5
    lines: List[str] = field(default_factory=list)
    free: Mapping[str, Any] = field(default_factory=dict)
    knob: Optional[Knob] = None
    alive: bool = True
    side: Literal["left", "right"] = "left"
    other: int | None = None
    by_rank: Mapping[int, Tuple[int, ...]] = field(default_factory=dict)


FULL = Tree(
    leaves=(Leaf(PlainName("a"), 3), Leaf(PlainName("b"))),
    by_name={"x": Leaf(PlainName("c"), -1)},
    pair=(7, "é"),
    path=Path("/tmp/a"),
    ratio=2,
    lines=["one", "two"],
    free={"deep": [{"er": None}]},
    knob=Knob(turns=4),
    alive=False,
    side="right",
    other=4,
    by_rank={0: (1, 2), 11: (), -1: (3,)},
)


def test_a_value_comes_back_from_its_file() -> None:
    text = dumps(FULL)
    assert json.loads(text)["format"] == 3
    assert loads(Tree, text) == FULL
    assert isinstance(loads(Tree, text).leaves[0].colour, Colour)


def test_unknown_keys_are_ignored_at_every_depth_and_missing_ones_have_defaults() -> None:
    data = {"leaves": [{"name": "a", "wings": 2}], "knob": {"turns": 2, "click": True}, "new": {}}
    tree = from_json(Tree, data)
    assert tree == Tree(leaves=(Leaf(PlainName("a")),), knob=Knob(turns=2))


def test_what_was_written_before_there_were_formats_is_read() -> None:
    assert loads(Tree, '{"leaves": []}') == Tree(leaves=())


def test_a_newer_format_is_told_by_its_number() -> None:
    with pytest.raises(NewerFormat, match="format 4, a newer version's; this one reads up to 3"):
        loads(Tree, '{"format": 4, "leaves": "as they are then"}')


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leaves": 3}, "leaves: expected a list, got 3"),
        ({"leaves": [{"name": "a"}, 1]}, r"leaves\[1\]: expected an object, got 1"),
        ({"leaves": [{}]}, r"leaves\[0\].name: is missing"),
        ({"leaves": [{"name": "a/b"}]}, r"leaves\[0\].name: 'a/b' is no plain name"),
        ({"leaves": [{"name": "a", "size": True}]}, r"leaves\[0\].size: expected a whole number, got true"),
        ({"leaves": [{"name": "a", "size": 1 << 63}]}, "size: expected a whole number"),
        ({"leaves": [{"name": "a", "size": 1.5}]}, "size: expected a whole number, got 1.5"),
        ({"leaves": [{"name": "a", "colour": "blue"}]}, "colour: 'blue' is not a valid Colour"),
        ({"by_name": {"x": None}}, "by_name.x: expected an object, got null"),
        ({"pair": [1]}, "pair: expected a list of 2, got a list of 1"),
        ({"path": 7}, "path: expected a text, got 7"),
        ({"ratio": math.nan}, "ratio: expected a number, got NaN"),
        ({"ratio": math.inf}, "ratio: expected a number"),
        ({"ratio": 10**400}, "ratio: expected a whole number"),
        ({"ratio": "1"}, 'ratio: expected a whole number, got "1"'),
        ({"lines": "abc"}, 'lines: expected a list, got "abc"'),
        ({"knob": {"turns": "many"}}, "knob.turns: Input should be a valid integer"),
        ({"alive": 1}, "alive: expected true or false, got 1"),
        ({"side": "up"}, 'side: expected one of left, right, got "up"'),
        ({"other": "1"}, 'other: expected a whole number, got "1"'),
        ({"by_rank": {"1.5": []}}, "by_rank.1.5: expected the digits of a number"),
        ({"by_rank": {"1": [1, "2"]}}, r"by_rank.1\[1\]: expected a whole number"),
        ({"by_rank": {"9" * 99: []}}, "by_rank.9{40}: expected the digits"),
        ({"by_name": {"a\n\x1b[2J" + "x" * 99: 1}}, r"by_name.a\\n\\x1b\[2Jx{34}: expected an object"),
        ({"free": []}, "free: expected an object, got a list of 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        from_json(Tree, {"leaves": [], **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no JSON"),
        (dumps(FULL)[:-9], "it is no JSON"),
        (b"\xff\xfe{}", "it is no JSON"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"leaves": [], "ratio": ' + "9" * 5000 + "}", "it is no JSON"),
        ("[]", "expected an object, got a list of 0"),
        ('{"format": "two"}', 'format: expected a whole number, got "two"'),
    ],
)
def test_a_file_that_is_none_of_ours_is_an_error_of_one_kind(text: str | bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        loads(Tree, text)


def test_the_message_never_shows_much_of_the_value() -> None:
    with pytest.raises(DecodeError) as caught:
        from_json(Tree, {"leaves": "x" * 10_000})
    assert len(str(caught.value)) < 100 and "\n" not in str(caught.value)


def test_values_become_plain_json() -> None:
    assert to_json(Leaf(PlainName("a"))) == {"name": "a", "size": 0, "colour": "red"}
