"""Fault schedules: read from YAML with file, line and key, and drawn by published rates from a seed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.core.log_signatures import Meaning, meaning_of
from orchestrator.simulation.fault_rates import SHARES, drawn_faults
from orchestrator.simulation.faults import FAULT_KEYS, Fault, read_faults

HOSTS = {"a": range(8), "b": range(8, 16)}
HOUR = 3600.0


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_faults(path, HOSTS)
    return [line.removeprefix(f"{path}") for line in caught.value.lines()]


def test_a_schedule_is_read_in_the_order_of_its_times(tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(
        """\
faults:
  - {time: 1h30m, kind: partition, host: b, seconds: 10m, scope: all}
  - {time: 90s, kind: exit, rank: 7, code: 3, lines: ["RuntimeError: no memory"]}
  - {time: 250ms, kind: clock_jump, host: a, jump: -3600}
  - {time: 12.5, kind: monitor_kill}
"""
    )
    assert read_faults(path, HOSTS) == (
        Fault(0.25, "clock_jump", host="a", jump=-3600.0),
        Fault(12.5, "monitor_kill"),
        Fault(90.0, "exit", rank=7, code=3, lines=("RuntimeError: no memory",)),
        Fault(5400.0, "partition", host="b", seconds=600.0, scope="all"),
    )


def test_every_problem_is_told_with_its_line_and_key(tmp_path: Path) -> None:
    text = """\
faults:
  - {time: 2, kind: power_of, host: a}
  - {time: -1, kind: kill, rank: 1}
  - {time: soon, kind: kill, rank: 1}
  - {tim: 1, kind: kill, rank: 1}
  - {time: .inf, kind: kill, rank: -1}
"""
    kinds = ", ".join(FAULT_KEYS)
    assert problems(tmp_path, text) == [
        f":2: faults[0].kind: expected one of {kinds}; got 'power_of' (did you mean `power_off`?)",
        ":3: faults[1].time: must be at least 0, got -1",
        ":4: faults[2].time: expected a duration such as 90s, 10m or 3h, got 'soon'",
        ":5: faults[3].tim: unknown key (did you mean `time`?)",
        ":5: faults[3].time: is missing",
        ":6: faults[4].time: expected a finite number, got inf",
        ":6: faults[4].rank: must be at least 0, got -1",
    ]


def test_what_does_not_fit_the_kind_or_the_run_is_told(tmp_path: Path) -> None:
    text = """\
faults:
  - {time: 2, kind: kill, rank: 16}
  - {time: 2, kind: reboot, host: c}
  - {time: 2, kind: clock_jump, host: a, seconds: 1}
  - time: 4
    kind: freeze
    host: a
"""
    assert problems(tmp_path, text) == [
        ":2: faults[0].rank: no rank 16 is in the run (it has ranks 0-15)",
        ":3: faults[1].host: no host 'c' is in the run (known: a, b)",
        ":4: faults[2].jump: is missing; kind clock_jump needs it",
        ":4: faults[2].seconds: is not used by kind clock_jump (it takes host, jump)",
        ":5: faults[3].rank: is missing; kind freeze needs it",
        ":7: faults[3].host: is not used by kind freeze (it takes rank, seconds)",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "faults: 3", "faults: [3]", "faults: {a: 1}", "fault: []", "faults: [{time: 1}]", "a: b: c"],
)
def test_what_is_no_schedule_gets_a_line_and_no_traceback(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_how_long_a_fault_lasts() -> None:
    assert Fault(10, "partition", host="a").until == math.inf
    assert Fault(10, "partition", host="a", seconds=5).until == 15
    assert Fault(10, "reboot", host="a").until == 190
    assert Fault(10, "monitor_kill").until == 20


def test_the_shares_are_those_of_the_published_table() -> None:
    """419 in all, of which the 6 silent data corruptions end no process."""
    assert sum(share.count for share in SHARES) == 419 - 6


def test_what_is_drawn_for_a_share_says_that_it_failed_by_itself() -> None:
    for share in SHARES:
        if share.kind == "exit":
            assert meaning_of(share.keys["lines"]) is Meaning.CULPRIT, share.component


def test_the_same_seed_gives_the_same_faults() -> None:
    drawn = drawn_faults(3 * HOUR, 1000 * HOUR, HOSTS, seed=7)
    assert drawn == drawn_faults(3 * HOUR, 1000 * HOUR, HOSTS, seed=7)
    assert drawn != drawn_faults(3 * HOUR, 1000 * HOUR, HOSTS, seed=8)


def test_as_many_are_drawn_as_the_mean_time_between_them_says() -> None:
    drawn = [fault for fault in drawn_faults(3 * HOUR, 6000 * HOUR, HOSTS, seed=1) if fault.kind != "return"]
    assert len(drawn) == pytest.approx(2000, abs=5 * math.sqrt(2000))
    kinds = Counter(fault.kind for fault in drawn)
    for kind in {share.kind for share in SHARES}:
        share = sum(each.count for each in SHARES if each.kind == kind) / 413
        assert kinds[kind] / len(drawn) == pytest.approx(share, abs=5 * math.sqrt(share / 2000))
    assert {fault.host for fault in drawn} == {"a", "b", None}
    assert {fault.rank for fault in drawn} == {*range(16), None}
    assert sorted(drawn, key=lambda fault: fault.time) == drawn


def test_who_lost_power_returns() -> None:
    drawn = drawn_faults(HOUR, 4000 * HOUR, HOSTS, seed=3)
    off = [fault for fault in drawn if fault.kind == "power_off" and fault.time < 3999 * HOUR]
    back = {(fault.host, fault.time) for fault in drawn if fault.kind == "return"}
    assert off and {(fault.host, fault.time + HOUR) for fault in off} == back


@pytest.mark.parametrize("mtbf", [0.0, -1.0, 1.0])
def test_more_faults_than_a_simulation_takes_are_refused(mtbf: float) -> None:
    with pytest.raises(UsageError, match="are the most"):
        drawn_faults(mtbf, 24 * HOUR, HOSTS, seed=0)
