"""Digests as agents of ours write them are checked in one walk, with the same result as all others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.codec import to_json
from orchestrator.core.push import Digest
from orchestrator.hosts import answer_checks
from orchestrator.hosts.answer_checks import pushed_of

OWN = frozenset({8, 9})
LINE = {"step": 7, "total_steps": 100, "loss": 1.5, "lr": 1e-4, "time": 1.7e9, "note": "warm"}
USUAL: dict[str, Any] = to_json(
    Digest(
        3, 1.7e9, 6, 7, {"9": 6}, 2.0, 8, {**LINE, "first": {**LINE, "step": 1}}, {"8": 0.5, "9": 0.25}
    )
)

ODD = st.one_of(
    st.sampled_from([None, True, -1, 0, 7, 1 << 60, -1e15, 1e15, float("nan"), float("inf"), -0.5, 2.0]),
    st.sampled_from(["", "7", "8", "a\x1bb", "x" * 1001, [], {}, {"8": 7}, {"8": 0.5}, {"77": 7}, {"\u0668": 7}]),
)
NAMES = st.sampled_from(["step", "total_steps", "loss", "skipped", "note", "a\x1bb", "x" * 1001, "first"])


def closely(data: Any) -> object:
    """What is made of it without the short way, or that it is refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_checks, "_usual_digest", lambda data, own: None)
        return shortly(data)


def shortly(data: Any) -> object:
    try:
        return repr(sorted(vars_of(pushed_of("digest", data, "run", 16, OWN)).items()))
    except ValueError:
        return "refused"


def vars_of(digest: Any) -> dict[str, Any]:
    found: dict[str, Any] = to_json(digest)
    return json.loads(json.dumps(found, sort_keys=True))  # type: ignore[no-any-return]


def test_what_agents_write_takes_the_short_way() -> None:
    found = answer_checks._usual_digest(USUAL, OWN)
    assert found is not None and "note" not in found.numbers["first"]
    assert {**to_json(found), "numbers": USUAL["numbers"]} == USUAL
    assert shortly(USUAL) == closely(USUAL) != "refused"


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_both_ways_have_the_same_result(data: st.DataObject) -> None:
    told = json.loads(json.dumps(USUAL))
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from(["", "", "steps", "compute", "numbers", "numbers", "first"]))
        inner = told["numbers"].get("first") if where == "first" else told.get(where) if where else told
        if isinstance(inner, dict):
            names = NAMES if where in ("numbers", "first") else st.sampled_from([*USUAL, "8", "9", "10"])
            name = data.draw(names)
            if data.draw(st.integers(0, 5)):
                inner[name] = data.draw(ODD)
            else:
                inner.pop(name, None)
        if not isinstance(told.get("numbers"), dict):
            break
    assert shortly(told) == closely(told)
