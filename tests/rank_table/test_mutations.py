"""Ten thousand damaged rank tables: each is understood or refused with clear lines, and never written."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import ConfigError
from orchestrator.rank_table.findings import errors_of, problems_of
from orchestrator.rank_table.merge import merge
from orchestrator.rank_table.read_table import parse_rank_table
from orchestrator.rank_table.rules import check_file
from tests.rank_table.support import reading, super_pod_table, table

SEEDS = [table(1, devices=2), table(1, 2, devices=2), super_pod_table(1, 2, devices=2)]
KEYS = ["device_id", "rank_id", "server_id", "server_list", "super_pod_list", "rank_list", "status", "x", ""]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["0", "1", "-1", "007", "1.0", "1.2", "2.0", "10.0.0.1", "fe80::1", "٣", "\ud800", "\0", ","]
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container with every key of it."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            _places(value[key], found)
    return found


def _mutate(data: Any, values: list[Any], rng: random.Random) -> None:
    places = _places(data, [])
    if not places:
        return
    holder, key = rng.choice(places)
    action = rng.randrange(5)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, list):
        holder.append(deepcopy(holder[key]))
    elif action == 2 and isinstance(holder, dict):
        holder[rng.choice(KEYS)] = holder.pop(key)
    elif action == 3:
        other, name = rng.choice(places)
        holder[key] = deepcopy(other[name])
    else:
        holder[key] = deepcopy(rng.choice(values))


def _look(data: bytes, folder: Path) -> None:
    """What the commands do with a file; every outcome but a table or clear lines is a bug."""
    try:
        found = parse_rank_table(data, "t.json")
        findings = check_file(found)
        lines = [str(line) for line in problems_of("t.json", findings)]
        made = merge([found, reading(SEEDS[0], "other.json")])
    except ConfigError as error:
        lines = error.lines()
        assert lines
    else:
        # What was merged is as good as what the rules let pass.
        again = parse_rank_table(made.table.to_json().encode(), "m.json")
        assert not errors_of(check_file(again)), lines
    assert all(line.isprintable() and len(line) < 2000 for line in lines), lines
    assert not list(folder.iterdir())


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(VALUES, min_size=4, max_size=4), st.integers(0, 2**32))
def test_values_of_any_kind_anywhere(tmp_path: Path, values: list[Any], number: int) -> None:
    rng = random.Random(number)
    for _ in range(50):
        seed = deepcopy(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 3)):
            _mutate(seed, values, rng)
        _look(json.dumps(seed).encode(), tmp_path)


def test_bytes_of_any_kind_anywhere(tmp_path: Path) -> None:
    rng = random.Random("rank tables")
    texts = [json.dumps(seed, indent=indent).encode() for seed in SEEDS for indent in (None, 4)]
    pieces = [b"", b'"', b"[", b"}", b",", b":", b"\xff", b"\0", b"1", b"-", b"//", b"nul"]
    for _ in range(5000):
        data = bytearray(rng.choice(texts))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = rng.choice(pieces)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        _look(bytes(data), tmp_path)
