"""A collection's plan for people: what `collect-ckpt --dry-run` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from orchestrator.checkpoint.cut.complete_steps import step_name
from orchestrator.cli.terminal import Console
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.transfer.collect_run import DryRun

__all__ = ["collection_data", "print_collection"]


def print_collection(found: DryRun, output: Path) -> None:
    """Step, bytes per host and in all, what is left out and why."""
    console = Console(soft_wrap=True, highlight=False)
    choice, plan = found.choice, found.plan
    at = step_name((choice.epoch, choice.step))
    console.print(f"{at}, {len(plan.tensors)} tensors", markup=False)
    for line in choice.notes():
        console.print(line, markup=False)
    console.print(_hosts(found))
    read, written = byte_size(plan.nbytes), byte_size(found.layout.size)
    console.print(f"in all {read} are read, {written} are written to {output}", markup=False)
    for reason, count in Counter(reason for _, reason in plan.skipped).items():
        console.print(f"left out: {count} tensors, {reason}", markup=False)
    for rank, host in found.absent.items():
        console.print(f"rank {rank} on {host} has no file of this step: replicas are read", markup=False)
    if found.unreachable:
        console.print(f"not reached and not needed: {fold(found.unreachable)}", markup=False)
    console.print("nothing was written (--dry-run)")


def collection_data(found: DryRun, output: Path) -> dict[str, Any]:
    """The same as data."""
    return {
        "path": str(output),
        "epoch": found.choice.epoch,
        "step": found.choice.step,
        "incomplete": [{"epoch": epoch, "step": step} for epoch, step in found.choice.incomplete],
        "tensors": len(found.plan.tensors),
        "bytes_read": found.plan.nbytes,
        "bytes_written": found.layout.size,
        "bytes_per_host": dict(found.plan.bytes_per_host),
        "left_out": dict(Counter(reason for _, reason in found.plan.skipped)),
        "absent": {str(rank): host for rank, host in found.absent.items()},
        "unreachable": list(found.unreachable),
    }


def _hosts(found: DryRun) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column, justify in (("HOST", "left"), ("RANKS", "left"), ("BYTES", "right"), ("READ", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left", no_wrap=True)
    for host, nbytes in sorted(found.plan.bytes_per_host.items()):
        ranks = sorted({copy.rank for copy in found.plan.copies if copy.host == host})
        direct = found.direct.get(host, 0)
        how = "directly" if direct == nbytes else "by its agent" if not direct else "partly directly"
        shown = ",".join(map(str, ranks[:16])) + (" …" if len(ranks) > 16 else "")
        table.add_row(host, shown, byte_size(nbytes), how)
    return table
