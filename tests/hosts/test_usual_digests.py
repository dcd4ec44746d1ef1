"""Digests as agents of ours write them are checked in one walk, with the same result as all others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.core.codec import to_json
from orchestrator.core.push import Digest
from orchestrator.hosts.answer_checks import _usual_digest, pushed_of

OWN = frozenset({8, 9})
LINE = {"step": 7, "total_steps": 100, "loss": 1.5, "lr": 1e-4, "time": 1.7e9, "note": "warm"}
USUAL: dict[str, Any] = to_json(
    Digest(3, 1.7e9, 6, 7, {"9": 6}, 2.0, 8, {**LINE, "first": {**LINE, "step": 1}}, {"8": 0.5, "9": 0.25})
)

MISSING = object()
ODD = (
    *(MISSING, None, True, -1, 0, 7, 1 << 60, -1e15, 1e15, float("nan"), float("inf"), -0.5, 2.0, [], {}),
    *("", "7", "a\x1bb", "x" * 1001, {"8": 7}, {"8": 0.5}, {"77": 7}, {"8": 8}, {"\u0668": 7}, {"step": 2}),
    *({"8": -1.0}, {"8": 1e15}, {"8": True}, {f"name_{number}": 1 for number in range(70)}),
)
IN_NUMBERS = ("step", "total_steps", "loss", "skipped", "note", "a\x1bb", "x" * 1001, "first")
PLACES = [
    *((name,) for name in (*USUAL, "more")),
    *((where, rank) for where in ("steps", "compute") for rank in ("8", "9", "10", "0" * 12, "x")),
    *(("numbers", name) for name in IN_NUMBERS),
    *(("numbers", "first", name) for name in IN_NUMBERS),
]


def closely(data: Any) -> object:
    """What is made of it without the short way, or that it is refused."""
    return shortly({**data, "of a newer version": None})


def shortly(data: Any) -> object:
    try:
        return repr(sorted(vars_of(pushed_of("digest", data, "run", 16, OWN)).items()))
    except ValueError:
        return "refused"


def vars_of(digest: Any) -> dict[str, Any]:
    found: dict[str, Any] = to_json(digest)
    return json.loads(json.dumps(found, sort_keys=True))  # type: ignore[no-any-return]


def test_what_agents_write_takes_the_short_way() -> None:
    found = _usual_digest(USUAL, OWN)
    assert found is not None and "note" not in found.numbers["first"]
    assert {**to_json(found), "numbers": USUAL["numbers"]} == USUAL
    assert shortly(USUAL) == closely(USUAL) != "refused"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(place)[:20])
def test_both_ways_have_the_same_result(place: tuple[str, ...]) -> None:
    for value in ODD:
        told = json.loads(json.dumps(USUAL))
        inner = told
        for name in place[:-1]:
            inner = inner[name]
        if value is MISSING:
            inner.pop(place[-1], None)
        else:
            inner[place[-1]] = value
        assert shortly(told) == closely(told), value
