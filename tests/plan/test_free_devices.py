"""Which devices of a host a run gets: of one HCCS ring where that can be, and never another run's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.inventory import Chip, Device, Host
from orchestrator.plan.complete_plan import on_free_devices
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.placement import choose_devices
from tests.config.support import inventory, job, lines_of

HOSTS = """\
defaults: {devices: 0-7, chip: 910A}
hosts:
  - name: n[1-2]
    address: 10.0.0.[1-2]
    device_ips: ["29.1.0.[1-2]", "29.2.0.[1-2]", "29.3.0.[1-2]", "29.4.0.[1-2]",
                 "29.1.1.[1-2]", "29.2.1.[1-2]", "29.3.1.[1-2]", "29.4.1.[1-2]"]
"""
JOB = """\
name: x
task: command
devices_per_host: {}
command: [run]
networking: {{mode: rank_table}}
"""


def _host(chip: Chip | None = "910A", devices: int = 8) -> Host:
    listed = tuple(Device(id=number) for number in range(devices))
    return Host(name="n", chip=chip, devices=listed)


def _plan(folder: Path, devices: int) -> LaunchPlan:
    return make_plan(job(folder, JOB.format(devices)), inventory(folder, HOSTS))


@pytest.mark.parametrize(
    ("chip", "count", "busy", "expected"),
    [
        ("910A", 1, (), (0,)),
        ("910A", 4, (), (0, 1, 2, 3)),
        ("910A", 8, (), (0, 1, 2, 3, 4, 5, 6, 7)),
        # The fullest ring that has room, so that the other one stays whole.
        ("910A", 2, (0, 1), (2, 3)),
        ("910A", 1, (4,), (5,)),
        ("910A", 2, (0, 1, 2), (4, 5)),
        ("910A", 4, (0,), (4, 5, 6, 7)),
        ("910A", 4, (0, 4), None),
        ("910A", 8, (0,), None),
        (None, 4, (0, 4), (1, 2, 3, 5)),
        ("910B", 4, (0, 4), (1, 2, 3, 5)),
        ("910B", 2, (0, 1), (2, 3)),
        ("910_93", 6, (1,), (0, 2, 3, 4, 5, 6)),
    ],
)
def test_the_devices_that_are_chosen(
    chip: str | None, count: int, busy: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    chosen = choose_devices(_host(chip), count, busy)
    assert (chosen and tuple(device.id for device in chosen)) == expected


@given(
    st.sampled_from([None, "910A", "910B", "910_93"]),
    st.sampled_from([1, 2, 4, 8]),
    st.sets(st.integers(0, 7), max_size=7),
)
def test_no_two_runs_share_a_device_and_small_ones_stay_in_a_ring(
    chip: str | None, count: int, busy: set[int]
) -> None:
    chosen = choose_devices(_host(chip), count, busy)
    if chosen is None:
        return
    ids = {device.id for device in chosen}
    assert len(ids) == count and not ids & busy
    if chip == "910A" and count <= 4:
        assert len({number // 4 for number in ids}) == 1


def test_a_910a_that_lists_devices_of_no_common_ring(tmp_path: Path) -> None:
    hosts = inventory(tmp_path, "hosts:\n  - {name: a, chip: 910A, devices: '0,1,4,5'}\n")
    lines = lines_of(tmp_path, lambda: make_plan(job(tmp_path, JOB.format(4)), hosts))
    assert lines == [
        "job.yaml:3: devices_per_host: 4 ranks wanted on a, where no HCCS ring (devices 0-3, 4-7) has as many"
        " devices (lower it, or list more `devices:` of one ring)"
    ]


def test_a_plan_moves_off_busy_devices_with_all_that_names_them(tmp_path: Path) -> None:
    planned = _plan(tmp_path, 2)
    moved = on_free_devices(planned, {"n1": (0, 1), "n2": (5,)})
    assert moved.manifests["n1"].devices == (2, 3)
    assert [worker.device_id for worker in moved.manifests["n1"].workers] == [2, 3]
    assert [worker.env["DEVICE_ID"] for worker in moved.manifests["n1"].workers] == ["2", "3"]
    assert moved.manifests["n2"] == planned.manifests["n2"]
    assert [(item.rank, item.host, item.device_id, item.device_ip) for item in moved.placements] == [
        (0, "n1", 2, "29.3.0.1"),
        (1, "n1", 3, "29.4.0.1"),
        (2, "n2", 0, "29.1.0.2"),
        (3, "n2", 1, "29.2.0.2"),
    ]


def test_two_runs_of_one_host_get_disjoint_devices(tmp_path: Path) -> None:
    first = _plan(tmp_path, 4)
    second = on_free_devices(
        _plan(tmp_path, 4), {name: first.manifests[name].devices for name in ("n1", "n2")}
    )
    for name in ("n1", "n2"):
        assert first.manifests[name].devices == (0, 1, 2, 3)
        assert second.manifests[name].devices == (4, 5, 6, 7)


@pytest.mark.parametrize("busy", [{}, {"n1": ()}, {"n1": (7,)}, {"n1": (0, 4), "n2": ()}])
def test_a_plan_that_needs_not_or_cannot_move_stays(tmp_path: Path, busy: dict[str, tuple[int, ...]]) -> None:
    planned = _plan(tmp_path, 4)
    assert on_free_devices(planned, busy) is planned


def test_model_parallel_groups_are_not_cut_by_hosts(tmp_path: Path) -> None:
    text = JOB.format(6) + "parallel: {data_parallel: 3, model_parallel: 4}\n"
    hosts = inventory(tmp_path, "hosts:\n  - {name: 'n[1-2]', devices: 0-7, chip: 910B}\n")
    lines = lines_of(tmp_path, lambda: make_plan(job(tmp_path, text), hosts))
    assert lines == [
        "job.yaml:6: parallel.model_parallel: model_parallel 4 on 6 devices_per_host: hosts would cut the"
        " model-parallel groups (let one of the two divide the other)"
    ]
