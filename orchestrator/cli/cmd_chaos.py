"""`orchestrate chaos RUN`"""

from __future__ import annotations

from typing import Any, get_args

import click

from orchestrator import api
from orchestrator.cli.options import complete_run, json_option, print_json
from orchestrator.cli.sentences import worker_name
from orchestrator.cli.units import Duration, byte_size
from orchestrator.config.tasks import TRAINING
from orchestrator.control.chaos import ChaosKind, ChosenFault, choose_fault, inject_fault
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import UsageError
from orchestrator.core.host_answers import Injected

__all__ = ["command"]

_KINDS = [kind.replace("_", "-") for kind in get_args(ChaosKind)]


@click.command("chaos")
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--kind",
    "written",
    type=click.Choice(_KINDS),
    required=True,
    help="kill: SIGKILL to a worker's processes; freeze: SIGSTOP; fill-disk: no space left for the workdir.",
)
@click.option("--rank", type=click.IntRange(min=0), help="To which rank. Default: the last that runs.")
@click.option("--host", metavar="HOST", help="Where: its first rank that runs, or its disk.")
@click.option(
    "--for",
    "seconds",
    type=Duration(least=1.0, most=86400.0),
    metavar="TIME",
    help="How long, such as 30s: then a frozen worker goes on. A disk: 60 s by default, 1 h at most.",
)
@click.option("--yes", is_flag=True, help="Do it. Without this it is only said what would be done.")
@json_option
def command(
    run: str,
    written: str,
    rank: int | None,
    host: str | None,
    seconds: float | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Hurt one worker or one disk of RUN, which must be active, to see what comes of it.

    Nothing but processes of this run is touched, and a disk is freed by the host itself, also where this
    machine is gone meanwhile. Without --yes nothing is done, and the exit code is 2.
    """
    if rank is not None and host is not None:
        raise UsageError("a rank and a host are two places", remedy="give --rank or --host")
    control = api.find(run)
    record = api.status(control)
    kind: ChaosKind = written.replace("-", "_")  # type: ignore[assignment]
    fault = choose_fault(record, kind, rank=rank, host=host, seconds=seconds)
    if not yes:
        if as_json:
            print_json(_data(record, fault, None))
        else:
            click.echo(f"would {_what(fault)}")
            click.echo(_expect(record, fault, seconds))
        raise UsageError("nothing was done", remedy="--yes does it")
    done = inject_fault(control, fault)
    if as_json:
        print_json(_data(record, fault, done))
        return 0
    click.echo(f"{_what(fault)}: done{_how(done)}")
    click.echo(_expect(record, fault, done.seconds))
    click.echo(f"Look: orchestrate status {record.run_id}")
    return 0


def _what(fault: ChosenFault) -> str:
    if fault.kind == "fill_disk":
        return f"fill the disk of the workdir on {fault.host}"
    return f"{fault.kind} {worker_name(fault.rank)} on {fault.host}"


def _how(done: Injected) -> str:
    if done.rank is not None:
        return f" (pid {done.pid})"
    return f" ({byte_size(done.filled)} taken, {byte_size(done.free)} free)"


def _expect(record: RunRecord, fault: ChosenFault, seconds: float | None) -> str:
    """What is to be seen now, by what this version makes of it."""
    if fault.kind == "kill":
        others = "all other ranks are stopped" if record.world_size > 1 else "nothing of it is left"
        return (
            f"Expect: within seconds the run has failed, {others}, and the cause is "
            f"{worker_name(fault.rank)} on {fault.host}, killed by signal 9."
        )
    if fault.kind == "freeze":
        who = "no rank makes a step" if record.task in TRAINING else f"{worker_name(fault.rank)} stands still"
        until = "until the run is stopped" if seconds is None else f"for {seconds:g} s, then it goes on"
        return f"Expect: {who} {until}. A rank that stands still ends no run."
    until = "60 s" if seconds is None else f"{seconds:g} s"
    return (
        f"Expect: for {until} whatever writes there fails. The run goes on; a rank that ends because it "
        "cannot write (a checkpoint, say) makes the run fail, and is its cause."
    )


def _data(record: RunRecord, fault: ChosenFault, done: Injected | None) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "kind": fault.kind.replace("_", "-"),
        "host": fault.host,
        "rank": fault.rank,
        "done": done is not None,
        "seconds": fault.seconds if done is None else done.seconds,
        "pid": None if done is None or not done.pid else done.pid,
        "filled": None if done is None else int(done.filled),
        "free": None if done is None else int(done.free),
    }
