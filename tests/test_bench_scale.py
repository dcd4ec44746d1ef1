"""The figures of "How far it scales": rows become curves and a table, simulated ones marked."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.scale import Scale, as_data, from_attempts, goals, per_host
from bench.scale_figures import PICTURES_OF_THE_PAGE, drawn, read_rows, table

REAL = Scale(
    64,
    simulated=False,
    launch_wall=9.5,
    launch_cpu=2.08,
    again_cpu=1.765,
    monitor_cpu=1.2,
    threads=70,
    stop_wall=3.4,
)
SIMULATED = Scale(1000, simulated=True, launch_cpu=4.5, monitor_cpu=3.0, monitor_memory=200_000_000)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for name, rows, fixed in (("sim", [SIMULATED], None), ("real", [REAL], 1.45)):
        paths.append(tmp_path / name)
        paths[-1].write_text(json.dumps(as_data(rows, fixed, (0.0, 0.0), 60.0)))
    return paths


def test_the_cost_of_a_host_is_without_what_one_launch_costs() -> None:
    assert per_host(REAL.launch_cpu, 64, 1.45) == pytest.approx(10.0)
    assert per_host(None, 64, 1.44) is None and per_host(2.0, 1, 1.44) is None


def test_what_simulated_attempts_tell_becomes_a_row() -> None:
    steady = {"controller_launch_cpu": 4.0, "controller_watch_share": 0.03, "memory": 5, "told": None}
    row = from_attempts(1000, steady, {**steady, "told": 1.5})
    assert row.simulated and row.monitor_cpu == pytest.approx(3.0) and row.launch_cpu == 4.0
    assert (row.told, row.monitor_memory) == (1.5, 5)
    nothing = from_attempts(1000, {**steady, "controller_watch_share": None}, steady)
    assert nothing.monitor_cpu is None and nothing.told is None


def test_only_what_was_measured_is_held_against_its_goal() -> None:
    found = {goal.name: goal.holds for goal in goals([REAL, SIMULATED], 1.44)}
    assert found == {
        "monitor at 64 hosts": True,
        "launch CPU per host, 64 hosts": True,
        "stop, 64 hosts": False,
        "monitor at 1000 simulated hosts": True,
        "memory at 1000 simulated hosts": True,
        "controller's launch CPU per host, 1000 simulated hosts": False,
    }


def test_simulated_rows_are_marked_in_the_table_and_in_the_curves(files: list[Path]) -> None:
    rows = read_rows(files)
    real, simulated = table(rows).splitlines()[2:]
    assert real.startswith("| 64 | 9.5 | 10.0 | 5.0 | 1.20 |") and simulated.startswith(
        "| 1,000 simulated |  | 4.5 |  | 3.00 |"
    )
    cpu = next(each for each in PICTURES_OF_THE_PAGE if each.file == "scale_cpu.svg")
    picture = ElementTree.fromstring(drawn(cpu, rows) or "")
    name = "{http://www.w3.org/2000/svg}"
    assert [each.get("fill") == "white" for each in picture.iter(f"{name}circle")] == [False, True, False]
    lines = [each.get("stroke-dasharray") for each in picture.iter(f"{name}polyline")]
    assert lines == [None, "6 4", None]  # launches on new hosts, simulated ones, launches again


def test_what_was_not_measured_is_not_drawn(files: list[Path]) -> None:
    loss = next(each for each in PICTURES_OF_THE_PAGE if each.file == "scale_loss.svg")
    assert drawn(loss, read_rows(files)) is None
