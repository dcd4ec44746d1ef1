"""`orchestrate simulate [JOB]`"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click

from orchestrator.cli.options import (
    complete_run,
    inventory_option,
    json_option,
    meant_run,
    print_json,
    say_notes,
)
from orchestrator.cli.render_simulation import day_data, day_lines
from orchestrator.cli.render_what_if import estimate_data, estimate_lines
from orchestrator.cli.units import Duration, Number
from orchestrator.config.host_ranges import MAX_HOSTS
from orchestrator.control.run_record import read_record
from orchestrator.control.shared_heap import share_heap
from orchestrator.core.errors import UsageError
from orchestrator.plan.launch_plan import read_plan
from orchestrator.simulation.fault_rates import drawn_faults
from orchestrator.simulation.faults import Fault, Ranks, read_faults
from orchestrator.simulation.measured_figures import Measured, figures_of_day, figures_of_run
from orchestrator.simulation.scaled_plan import ScaledPlan, scaled_plan
from orchestrator.simulation.simulated_day import SimulatedDay, simulated_day
from orchestrator.simulation.timeline import OutOfTime
from orchestrator.simulation.workload import Workload

__all__ = ["command"]

_LEAST_HOURS, _MOST_HOURS = 0.001, 24 * 366


@click.command("simulate")
@click.argument("job", required=False, type=click.Path(path_type=Path, dir_okay=False))
@inventory_option
@click.option(
    "--hosts",
    type=click.IntRange(1, MAX_HOSTS),
    metavar="N",
    help="On so many hosts made after the job's first one, with as many replicas as fill them.",
)
@click.option(
    "--hours",
    type=Number(_LEAST_HOURS, _MOST_HOURS),
    default=24.0,
    show_default=True,
    help="How long.",
)
@click.option(
    "--faults",
    "fault_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What goes wrong when, as YAML.",
)
@click.option(
    "--mtbf",
    type=Duration(least=1.0),
    metavar="TIME",
    help="Faults at random, one in the whole cluster every TIME on average (3h), of published kinds.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of all that is random; the same seed gives the same day.",
)
@click.option(
    "--relaunch",
    type=Duration(),
    metavar="TIME",
    help="A person launches a failed run again after TIME, from its last complete checkpoint.",
)
@click.option(
    "--step", type=Duration(), metavar="TIME", help="What a step takes. Default: that of --from, else 2s."
)
@click.option(
    "--what-if",
    "what_if",
    is_flag=True,
    help="Also estimate what one more spare, another save interval or copies would give.",
)
@click.option(
    "--from",
    "of_run",
    metavar="RUN",
    shell_complete=complete_run,
    help="Take step time, save stall, start time and failures of this run; without JOB only estimate.",
)
@json_option
def command(
    job: Path | None,
    inventory: Path | None,
    hosts: int | None,
    hours: float,
    fault_file: Path | None,
    mtbf: float | None,
    seed: int,
    relaunch: float | None,
    step: float | None,
    what_if: bool,
    of_run: str | None,
    as_json: bool,
) -> int:
    """Live through hours of JOB on simulated servers, with the real monitor, verdicts and verbs.

    No server is asked and nothing is started. A run that fails in the simulation is a result, and the exit
    code is 0. Where the job has `restart` it goes on by itself; else it ends with the first failure that
    nobody (--relaunch) launches again after. --what-if needs failures: --mtbf, or those of a run (--from).
    """
    if fault_file is not None and mtbf is not None:
        raise UsageError("two sources of faults", remedy="give --faults or --mtbf")
    measured = None if of_run is None else _measured(of_run, mtbf)
    if job is None:
        if measured is None:
            raise UsageError("no job to simulate", remedy="name a job, or with --from a run to estimate from")
        _show_estimate(measured, as_json)
        return 0
    if measured is not None and fault_file is None:
        mtbf = measured.figures.mtbf
    scaled = scaled_plan(job, inventory, hosts, seed=seed)
    faults = _faults(scaled.ranks, fault_file, mtbf, hours * 3600.0, seed)
    if what_if and not faults and mtbf is None:
        raise UsageError("nothing fails, so that no choice gives anything", remedy="give --mtbf, or --faults")
    say_notes(scaled.notes)
    workload = _workload(scaled, step, measured)
    share_heap()  # simulated hosts have threads, too
    with tempfile.TemporaryDirectory(prefix="orchestrate-simulate-") as folder:
        try:
            day = simulated_day(
                scaled.plan,
                Path(folder),
                workload=workload,
                faults=faults,
                hours=hours,
                seed=seed,
                relaunch=relaunch,
            )
        except OutOfTime as error:
            raise UsageError(str(error), remedy="take fewer hosts, or fewer hours") from error
    found = figures_of_day(day, scaled.plan, workload, mtbf) if what_if else None
    _show_day(day, scaled.ranks, seed, found, as_json)
    return 0


def _show_day(day: SimulatedDay, ranks: Ranks, seed: int, found: Measured | None, as_json: bool) -> None:
    counts = (len(ranks), sum(map(len, ranks.values())))
    if as_json:
        estimated = {} if found is None else {"what_if": estimate_data(found)}
        print_json({**day_data(day, *counts, seed), **estimated})
        return
    for line in day_lines(day, *counts, seed):
        click.echo(line)
    if found is not None:
        click.echo("")
        _show_estimate(found, False, day)


def _measured(name: str, mtbf: float | None) -> Measured:
    """The figures of a run that is known here."""
    control = meant_run(name, started=True)
    return figures_of_run(read_record(control), read_plan(control.plan), mtbf)


def _workload(scaled: ScaledPlan, step: float | None, measured: Measured | None) -> Workload:
    """What the workers do; what was measured in the place of what is assumed."""
    if measured is None:
        return scaled.workload(2.0 if step is None else step)
    figures = measured.figures
    workload = scaled.workload(figures.step if step is None else step)
    first = max(0.0, figures.start - workload.imports)
    return replace(workload, save=figures.save, first_step=first)


def _show_estimate(found: Measured, as_json: bool, day: SimulatedDay | None = None) -> None:
    if as_json:
        print_json(estimate_data(found))
        return
    for line in estimate_lines(found, None if day is None else day.account):
        click.echo(line)


def _faults(
    ranks: Ranks, path: Path | None, mtbf: float | None, seconds: float, seed: int
) -> tuple[Fault, ...]:
    if path is not None:
        return read_faults(path, ranks)
    return () if mtbf is None else drawn_faults(mtbf, seconds, ranks, seed)
