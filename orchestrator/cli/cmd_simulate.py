"""`orchestrate simulate JOB`"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from orchestrator.cli.options import inventory_option, json_option, print_json
from orchestrator.cli.render_simulation import day_data, day_lines
from orchestrator.cli.units import Duration, Number
from orchestrator.config.host_ranges import MAX_HOSTS
from orchestrator.core.errors import UsageError
from orchestrator.simulation.fault_rates import drawn_faults
from orchestrator.simulation.faults import Fault, Ranks, read_faults
from orchestrator.simulation.scaled_plan import scaled_plan
from orchestrator.simulation.simulated_day import simulated_day
from orchestrator.simulation.timeline import OutOfTime

__all__ = ["command"]

_LEAST_HOURS, _MOST_HOURS = 0.001, 24 * 366


@click.command("simulate")
@click.argument("job", type=click.Path(path_type=Path, dir_okay=False))
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
    "--step", type=Duration(), default="2s", metavar="TIME", show_default=True, help="What a step takes."
)
@json_option
def command(
    job: Path,
    inventory: Path | None,
    hosts: int | None,
    hours: float,
    fault_file: Path | None,
    mtbf: float | None,
    seed: int,
    relaunch: float | None,
    step: float,
    as_json: bool,
) -> int:
    """Live through hours of JOB on simulated servers, with the real monitor, verdicts and verbs.

    No server is asked and nothing is started. A run that fails in the simulation is a result, and the exit
    code is 0. Without --relaunch the simulation ends with the first failure: there is no automatic restart.
    """
    if fault_file is not None and mtbf is not None:
        raise UsageError("two sources of faults", remedy="give --faults or --mtbf")
    scaled = scaled_plan(job, inventory, hosts, seed=seed)
    faults = _faults(scaled.ranks, fault_file, mtbf, hours * 3600.0, seed)
    for note in scaled.notes:
        click.echo(f"orchestrate: note: {note}", err=True)
    with tempfile.TemporaryDirectory(prefix="orchestrate-simulate-") as folder:
        try:
            day = simulated_day(
                scaled.plan,
                Path(folder),
                workload=scaled.workload(step),
                faults=faults,
                hours=hours,
                seed=seed,
                relaunch=relaunch,
            )
        except OutOfTime as error:
            raise UsageError(str(error), remedy="take fewer hosts, or fewer hours") from error
    counts = (len(scaled.ranks), sum(map(len, scaled.ranks.values())))
    if as_json:
        print_json(day_data(day, *counts, seed))
    else:
        for line in day_lines(day, *counts, seed):
            click.echo(line)
    return 0


def _faults(
    ranks: Ranks, path: Path | None, mtbf: float | None, seconds: float, seed: int
) -> tuple[Fault, ...]:
    if path is not None:
        return read_faults(path, ranks)
    return () if mtbf is None else drawn_faults(mtbf, seconds, ranks, seed)
