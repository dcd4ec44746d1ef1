"""`orchestrate diagnose [RUN]`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.language import language
from orchestrator.cli.options import json_option, meant_run, print_json, run_argument
from orchestrator.cli.render_diagnosis import bundle_lines, diagnosis_data, diagnosis_text
from orchestrator.cli.terminal import Console
from orchestrator.control.diagnose import diagnose
from orchestrator.control.support_bundle import write_bundle
from orchestrator.core.errors import HostsFailed
from orchestrator.core.visible_text import visible
from orchestrator.diagnosis.judge import judge
from orchestrator.hosts.fleet import error_lines, fleet_of
from orchestrator.plan.launch_plan import read_plan

__all__ = ["command"]


@click.command("diagnose")
@run_argument
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Pack what support needs into FILE (.tar.gz), without the values of the job's env.",
)
@json_option
def command(run: str | None, bundle: Path | None, as_json: bool) -> int:
    """Say why a run failed, or hangs: who, how sure, on what evidence, and what to do.

    All hosts are asked for logs, kernel lines, memory, disks and the health of devices; nothing is changed.
    In Chinese where the locale is Chinese. The exit code is 0 once there is a diagnosis, also one that is
    not sure; 3 where no host could be asked, and only what was known before has been judged.
    """
    control = meant_run(run)
    plan = read_plan(control.plan)
    lang = language()
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        found = diagnose(control, plan, fleet, judge)
        data = diagnosis_data(found, lang)
        written = None if bundle is None else write_bundle(bundle, control, plan, found, data, fleet)
    if as_json:
        if written is not None:
            data["bundle"] = {
                "path": str(written.path),
                "masked": written.masked,
                "left_out": written.left_out,
            }
        print_json(data)
    else:
        Console(soft_wrap=True).print(diagnosis_text(found, lang))
    if written is not None:
        for line in bundle_lines(written):
            click.echo(f"orchestrate: {visible(line)}", err=True)
    if found.errors and len(found.errors) == len(fleet.hosts):
        for line in error_lines(HostsFailed(found.errors)):
            click.echo(f"orchestrate: {line}", err=True)
        return 3
    return 0
