"""A launch plan for people: what `launch --dry-run` prints."""

from __future__ import annotations

import re
import shlex

from rich.console import Console
from rich.table import Table

from orchestrator.plan import LaunchPlan
from orchestrator.records import Manifest, WorkerSpec

__all__ = ["print_plan"]

# Values of such variables are not shown: a dry run ends up in tickets and chats.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def print_plan(plan: LaunchPlan) -> None:
    """Print hosts, placement, files and the first worker's command; secrets are masked."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"run {plan.run_id}: {plan.world_size} ranks on {len(plan.hosts)} hosts")
    console.print(_placements(plan))
    first = plan.manifests[plan.master.name]
    console.print("\n[bold]files on every host[/], besides manifest.json")
    for line in _files(plan, first):
        console.print(f"  {line}", markup=False)
    if first.scheduler is not None:
        console.print(f"\n[bold]scheduler[/] on {plan.master.name}, port {first.port or 'chosen at launch'}")
    worker = first.workers[0]
    console.print(f"\n[bold]rank {worker.rank}[/] on {plan.master.name} (the other ranks alike)")
    console.print(f"  {shlex.join(worker.argv)}", markup=False)
    for line in _environment(worker):
        console.print(f"  {line}", markup=False)
    if plan.rank_table is not None:
        console.print("\n[bold]rank_table.json[/]")
        console.print(plan.rank_table, markup=False)
    console.print("\nnothing was touched (--dry-run)")


def _placements(plan: LaunchPlan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("HOST", "ADDRESS", "RANKS", "DEVICES", "DP MP PP OF FIRST AND LAST"):
        table.add_column(column, no_wrap=True)
    for host in plan.hosts:
        mine = [placement for placement in plan.placements if placement.host == host.name]
        first, last = mine[0], mine[-1]
        table.add_row(
            host.name,
            host.address,
            f"{first.rank}-{last.rank}",
            ",".join(str(placement.device_id) for placement in mine),
            f"{first.dp} {first.mp} {first.pp} .. {last.dp} {last.mp} {last.pp}",
        )
    return table


def _files(plan: LaunchPlan, manifest: Manifest) -> list[str]:
    lines = ["worker.yaml"]
    if plan.rank_table is not None:
        lines.append("rank_table.json")
    code = [item for item in manifest.inputs if item.path.startswith("code/")]
    if code:
        lines.append(f"code/ ({len(code)} files: the bundled model)")
    for item in manifest.inputs:
        if not item.path.startswith("code/"):
            lines.append(f"{item.path}  <- {plan.sources[item.sha256]} ({item.sha256[:12]})")
    lines += [f"{path}  (must be there already)" for path in plan.host_paths]
    return lines


def _environment(worker: WorkerSpec) -> list[str]:
    return [
        f"{name}={'***' if _SECRET.search(name) else value}" for name, value in sorted(worker.env.items())
    ]
