"""What a supervisor takes of a worker's metrics: everything new, in order, and nothing without bounds."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.metrics_lines import MetricsReader, Said, said_in
from orchestrator.core.records import Phase


def line(**values: Any) -> str:
    return json.dumps(values) + "\n"


def test_every_line_that_has_come_between_two_looks(tmp_path: Path) -> None:
    """A save that follows a step at once must not hide it."""
    path, reader = tmp_path / "rank_0.jsonl", MetricsReader()
    assert reader.news(path) == []
    path.write_text(line(step=1, loss=2.0) + line(phase="save", step=1))
    assert reader.news(path) == [{"step": 1, "loss": 2.0}, {"phase": "save", "step": 1}]
    assert reader.news(path) == []
    with path.open("a") as file:
        file.write(line(phase="step", saved=1) + line(step=2) + line(step=3) + '{"step": 4, "lo')
        file.flush()
        assert [each.get("step") for each in reader.news(path)] == [None, 2, 3]
        file.write('ss": 1.5}\n')
    assert reader.news(path) == [{"step": 4, "loss": 1.5}]


def test_a_last_line_without_its_end_counts_once(tmp_path: Path) -> None:
    path, reader = tmp_path / "m", MetricsReader()
    path.write_text('{"step": 1}')
    assert reader.news(path) == [{"step": 1}]
    with path.open("a") as file:
        file.write('\n{"step": 2}\n')
    assert reader.news(path) == [{"step": 2}]


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_a_file_that_begins_anew_is_read_from_its_beginning(tmp_path: Path, how: str) -> None:
    path, reader = tmp_path / "m", MetricsReader()
    path.write_text("".join(line(step=step) for step in range(1, 30)))
    assert len(reader.news(path)) == 29
    if how == "replaced":
        (tmp_path / "new").write_text("".join(line(step=step) for step in range(100, 140)))
        os.replace(tmp_path / "new", path)
        assert [each["step"] for each in reader.news(path)] == list(range(100, 140))
    else:
        path.write_text(line(step=7))
        assert reader.news(path) == [{"step": 7}]


def test_of_what_is_far_too_much_the_end_is_read(tmp_path: Path) -> None:
    path, reader = tmp_path / "m", MetricsReader()
    path.write_text("x" * 5_000_000 + "\n" + "".join(line(step=step) for step in range(100_000)))
    found = reader.news(path)
    assert found[-1] == {"step": 99_999} and len(found) <= 512
    with path.open("a") as file:
        file.write("y" * 1_000_000)  # a line without an end
    assert reader.news(path) == []
    with path.open("a") as file:
        file.write("\n" + line(step=5))
    assert reader.news(path) == [{"step": 5}]


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    reader = MetricsReader()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text(line(step=1))
    assert reader.news(tmp_path / "pipe") == [] and reader.news(tmp_path / "link") == []


@pytest.mark.parametrize("seed", range(50))
def test_however_a_file_grows_nothing_is_lost_and_nothing_comes_twice(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    path, reader = tmp_path / "m", MetricsReader()
    lines = [line(step=step, pad="p" * chance.randrange(40)) for step in range(200)]
    data, found = "".join(lines).encode(), list[int]()
    with path.open("ab", buffering=0) as file:
        while data:
            count = chance.randrange(1, 400)
            file.write(data[:count])
            data = data[count:]
            if chance.random() < 0.7:
                found += [each["step"] for each in reader.news(path)]
    found += [each["step"] for each in reader.news(path)]
    assert found == list(range(200))


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ({"phase": "compile", "time": 5, "can": ["stacks"]}, Said(Phase.COMPILE, None, 5.0, ("stacks",))),
        ({"phase": "save", "step": 100, "time": 5.5}, Said(Phase.SAVE, 100, 5.5)),
        ({"phase": "step", "saved": 100}, Said(Phase.STEP, saved=100)),
        (
            {"phase": "save", "saved": 100, "stall_s": 0.5, "write_s": 9},
            Said(Phase.SAVE, saved=100, stall=0.5, write=9.0),
        ),
        ({"phase": "step", "saved": 1, "stall_s": -1, "write_s": 1e9}, Said(Phase.STEP, saved=1)),
        ({"step": 3, "stall_s": 0.5, "write_s": 9}, Said(None, 3, is_progress=True)),
        ({"phase": "step", "step": 3, "compute_s": 0.5}, Said(Phase.STEP, 3, compute=0.5, is_progress=True)),
        ({"step": 3, "compute_s": 0.5}, Said(None, 3, compute=0.5, is_progress=True)),
        ({"step": 3, "phase": "train"}, Said(None, 3, is_progress=True)),  # a user's word
        ({"phase": "warm_up", "time": 5}, Said(None, None, 5.0)),  # a newer worker's
        ({"loss": 1.0}, Said(is_progress=True)),
        ({"can": ["stacks"]}, Said(can=("stacks",))),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_line_says(told: dict[str, Any], meant: Said) -> None:
    assert said_in(told) == meant


ODD = [None, True, -1, 10**30, 1e300, float("nan"), float("inf"), "", "7", [], {}, [[]], {"a": 1}, "\x1b[31m"]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_odd_says_nothing(odd: Any) -> None:
    said = said_in({"phase": odd, "step": odd, "time": odd, "can": odd, "saved": odd, "compute_s": odd})
    assert (said.phase, said.step, said.time, said.can, said.saved, said.compute) == (
        None,
        None,
        None,
        (),
        None,
        None,
    )
    assert said_in({"phase": "save", "saved": odd, "can": [odd, "a b", "x" * 65, "ok"]}).can == ("ok",)


def test_words_are_few() -> None:
    assert len(said_in({"can": [f"w{number}" for number in range(10_000)]}).can) == 16
