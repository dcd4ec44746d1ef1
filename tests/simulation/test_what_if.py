"""The estimate of what another choice gives: by itself, by chance, and by the simulator."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.simulation.fault_rates import drawn_faults
from orchestrator.simulation.measured_figures import figures_of_day
from orchestrator.simulation.scaled_plan import scaled_plan
from orchestrator.simulation.simulated_day import simulated_day
from orchestrator.simulation.what_if import Figures, best_interval, estimate, host_losses, variants

FIGURES = Figures(
    mtbf=10_800.0, step=2.0, save_every=300, save=20.0, start=120.0, restart=10.0, notice=60.0, write=5.0
)


def share(figures: Figures) -> float:
    account = estimate(figures)
    return account.productive / account.whole


def drawn(figures: Figures, days: float, seed: int) -> float:
    """The same by chance: attempts that live as long as is drawn, hosts that are away and come back."""
    chance, now, productive = random.Random(seed), 0.0, 0.0
    returns: list[float] = []
    work = (figures.save_every or 0) * figures.step
    while now < days * 86400.0:
        lived = chance.expovariate(1 / figures.mtbf)
        saves = (lived - figures.start - figures.write) // (work + figures.save)
        productive += max(0.0, saves) * work
        now += lived + figures.notice + figures.restart
        returns = [each for each in returns if each > now]
        if chance.random() < figures.host_share:
            returns = sorted([*returns, now + figures.repair])
            if len(returns) > (figures.spares if figures.is_covered else 0):
                now = returns[0]
    return productive / now


@pytest.mark.parametrize(
    "figures",
    [
        FIGURES,
        replace(FIGURES, save_every=1000, start=600.0),
        replace(FIGURES, mtbf=1800.0, write=60.0),
        replace(FIGURES, host_share=0.3, repair=7200.0),
        replace(FIGURES, host_share=0.5, repair=20_000.0, spares=1),
        replace(FIGURES, host_share=0.5, repair=20_000.0, spares=2, is_covered=False),
    ],
)
def test_the_estimate_is_what_chance_gives_in_the_long_run(figures: Figures) -> None:
    assert share(figures) == pytest.approx(drawn(figures, 6000.0, 1), abs=0.01)


@settings(deadline=None)
@given(
    st.builds(
        Figures,
        mtbf=st.floats(60.0, 1e6),
        step=st.floats(0.01, 100.0),
        save_every=st.one_of(st.none(), st.integers(1, 5000)),
        save=st.floats(0.0, 600.0),
        start=st.floats(0.0, 3600.0),
        restart=st.floats(0.0, 3600.0),
        notice=st.floats(0.0, 3600.0),
        write=st.floats(0.0, 600.0),
        spares=st.integers(0, 8),
        host_share=st.floats(0.0, 1.0),
        repair=st.floats(0.0, 1e5),
        is_covered=st.booleans(),
    )
)
def test_the_parts_are_never_negative_and_make_up_the_time_between_two_launches(figures: Figures) -> None:
    parts = estimate(figures).parts()
    assert min(parts.values()) >= 0.0 and all(map(math.isfinite, parts.values()))
    lived = sum(parts[name] for name in ("productive", "lost", "saving", "starting"))
    assert lived == pytest.approx(figures.mtbf, rel=1e-6)
    if figures.is_covered:
        assert share(replace(figures, spares=figures.spares + 1)) >= share(figures) - 1e-9


def test_the_best_interval_is_about_the_root_of_stall_and_time_between_failures() -> None:
    best = best_interval(FIGURES)
    assert best is not None
    assert best * FIGURES.step == pytest.approx(math.sqrt(2 * 20.0 * 10_800.0), rel=0.3)
    others = (share(replace(FIGURES, save_every=steps)) for steps in (best // 2, best * 2))
    assert all(share(replace(FIGURES, save_every=best)) >= other for other in others)
    assert best_interval(replace(FIGURES, save=0.0)) is None


def test_each_variant_changes_one_thing_and_the_first_none() -> None:
    first, *others = variants(replace(FIGURES, host_share=0.2, spares=1))
    assert first.name == "as it is" and first.figures.spares == 1
    by_name = {each.name: each for each in others}
    assert by_name["one more spare"].figures.spares == 2 and by_name["one spare less"].figures.spares == 0
    assert by_name["one more spare"].goodput > first.goodput > by_name["one spare less"].goodput
    assert by_name["save_steps: 150"].figures.save_every == 150
    assert by_name["saves that stall nobody"].goodput > first.goodput
    assert len({each.name for each in others}) == len(others)


def test_without_copies_a_spare_helps_nothing() -> None:
    alone = replace(FIGURES, host_share=0.2, is_covered=False)
    names = {each.name: each.goodput for each in variants(alone)}
    assert share(replace(alone, spares=5)) == share(alone)
    assert "one more spare" not in names
    assert names["copies, and one more spare"] > names["checkpoint.copies: 1"] == names["as it is"]


def test_without_saves_nothing_is_kept_for_good() -> None:
    assert share(replace(FIGURES, save_every=None)) == 0.0


def test_the_published_shares_of_failures_that_take_a_host_away() -> None:
    part, seconds = host_losses()
    assert part == pytest.approx(83 / 407)
    assert 600.0 < seconds < 3600.0


RESTARTS = """\
name: month
task: pretrain
hosts: all
devices_per_host: 8
device_target: Ascend
networking: {mode: rank_table}
parallel: {model_parallel: 8}
model: {preset: 7.1b}
data: {path: /data/corpus.json, tokenizer: /data/tokenizer.json, seq_length: 2048}
train: {steps: 100000000, batch_size: 1}
checkpoint: {save_steps: 100}
restart: {max: 100, window: 1h, wait: 2h, spares: ready}
"""
SERVERS = """\
hosts:
  - {name: like, address: 10.9.9.9, devices: 0-7, chip: 910B}
  - {name: s1, address: 10.9.9.8, devices: 0-7, chip: 910B}
groups:
  ready: [s1]
"""


def test_the_estimate_is_near_what_the_simulator_gives(tmp_path: Path) -> None:
    """A day of a run on four hosts, with a spare, of which something fails every two hours."""
    (tmp_path / "job.yaml").write_text(RESTARTS)
    (tmp_path / "inventory.yaml").write_text(SERVERS)
    scaled = scaled_plan(tmp_path / "job.yaml", tmp_path / "inventory.yaml", 4, seed=1)
    workload, mtbf = scaled.workload(2.0), 7200.0
    faults = drawn_faults(mtbf, 86400.0, scaled.ranks, 1)
    day = simulated_day(scaled.plan, tmp_path, workload=workload, faults=faults, hours=24.0, seed=1)
    found = figures_of_day(day, scaled.plan, workload, mtbf)
    assert found.failures > 5 and found.figures.spares == 1 and len(day.attempts) == 1
    seen = day.account.productive / day.account.whole
    assert share(found.figures) == pytest.approx(seen, abs=0.06), (found, day.account)
