"""A launch plan for people: what `launch --dry-run` prints."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from difflib import unified_diff
from typing import Any

from rich.table import Table

from orchestrator.agent.worker_environment import SCHEDULER_HOST
from orchestrator.cli.render_rank_table import print_whole, servers_view
from orchestrator.cli.terminal import Console, headed, wrapped
from orchestrator.config.container import Container
from orchestrator.config.host_ranges import fold
from orchestrator.config.run_yaml_secrets import HIDDEN, without_secrets
from orchestrator.core.codec import to_json
from orchestrator.core.paths import RUN_YAML
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.core.visible_text import visible
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.launch_table import chip_of_hosts
from orchestrator.plan.placement import Placement
from orchestrator.rank_table.findings import problems_of, warnings_of
from orchestrator.rank_table.read_table import parse_rank_table
from orchestrator.rank_table.rules import validate

__all__ = ["plan_data", "print_plan"]


def print_plan(plan: LaunchPlan) -> None:
    """Print hosts, placement, files and the first worker's command; no value of the job's `env`."""
    console = Console(soft_wrap=True, highlight=False)
    at = fold(host.address for host in plan.hosts)
    ranks, hosts = plan.world_size, len(plan.hosts)
    size = f"{ranks} rank{'s' * (ranks > 1)} on {hosts} host{'s' * (hosts > 1)}"
    console.print(f"run {plan.run_id}: {size}", markup=False)
    _print_wrapped(console, f"at {at}")
    for line in _ways(plan):
        _print_wrapped(console, line)
    console.print()
    console.print(headed("placement", ": each device with its rank's place as data.model.stage"))
    print_whole(_grid(plan))
    for note in _notes(plan):
        _print_wrapped(console, note)
    first = plan.manifests[plan.master.name]
    console.print(headed("\nfiles on every host", ", besides manifest.json"))
    for line in _files(plan, first):
        _print_wrapped(console, f"  {line}")
    if first.scheduler is not None:
        port = first.port or "chosen at launch"
        console.print(headed("\nscheduler", f" on {plan.master.name}, port {port}"))
        if meeting := _meeting(plan):
            _print_wrapped(console, f"  {meeting}")
        console.print(f"  the same command, with MS_ROLE={first.scheduler.env['MS_ROLE']}", markup=False)
    worker = first.workers[0]
    console.print(headed(f"\nrank {worker.rank}", f" on {plan.master.name} (the other ranks alike)"))
    _print_command(console, worker.argv)
    for name, value in _shown(worker).items():
        _print_wrapped(console, f"  {name}={value}")
    for name, value in sorted(worker.default_env.items()):
        _print_wrapped(console, f"  {name}={value}  (unless the host sets it)")
    _print_table(console, plan)
    _print_run_yaml(console, plan)
    for note in plan.notes:
        _print_wrapped(console, f"\nnote: {note}")
    for warning in plan.warnings:
        _print_wrapped(console, f"\nwarning: {warning}")
    console.print("\nnothing was changed (--dry-run)")


def _print_wrapped(console: Console, text: str) -> None:
    for line in wrapped(text, console.width):
        console.print(line, markup=False)


def _print_command(console: Console, argv: Sequence[str]) -> None:
    """A command as a shell takes it: where it is too long, over lines that end in a backslash."""
    held = " "
    for word in map(shlex.quote, argv):
        if held.strip() and len(held) + len(word) + 3 > console.width:
            console.print(f"{held} \\", markup=False)
            held = "   "
        held += f" {word}"
    console.print(held, markup=False)


def _ways(plan: LaunchPlan) -> Iterator[str]:
    """How workers are run: Python, folder and environment, hosts alike as ranges; then the spares."""
    by_way: dict[str, list[str]] = {}
    for host in plan.hosts:
        script = host.env_script or "none"
        way = f"python {host.python}, workdir {host.workdir}, env_script {script}"
        if host.container is not None:
            way += f", in a container of {host.container.image} ({host.container.runtime or 'docker'})"
        # Of a shared inventory the paths of each host differ in its name alone.
        way = re.sub(rf"(?<=/){re.escape(host.name)}(?=[/,]|$)", "{name}", way)
        by_way.setdefault(way, []).append(host.name)
    for way, names in by_way.items():
        yield way if len(by_way) == 1 else f"{fold(names)}: {way}"
    if plan.spares:
        yield f"spares {fold(host.name for host in plan.spares)}, which are checked and prepared at launch"


def _print_table(console: Console, plan: LaunchPlan) -> None:
    """The rank table, what may be wrong with it, or where it will come from."""
    if plan.rank_table is not None:
        table = parse_rank_table(plan.rank_table.encode(), "rank_table.json").table
        shown = _sha256(plan.rank_table)[:16]
        console.print(headed("\nrank_table.json", f", sha256 {shown} (--json: whole)"))
        print_whole(servers_view(table))
        doubts = warnings_of(validate(table, chip=chip_of_hosts(plan.hosts)))
        for doubt in problems_of("rank_table.json", doubts):
            _print_wrapped(console, f"warning: {doubt}")
    elif plan.uses_rank_table:
        console.print(
            headed("\nrank_table.json", " is made at launch, of the addresses that hccn_tool names on")
        )
        console.print("each host; `--dry-run --discover` asks the hosts now and shows it", markup=False)


def _print_run_yaml(console: Console, plan: LaunchPlan) -> None:
    """What becomes of MindFormers' run YAML, as a unified diff."""
    if not plan.run_yaml:
        return
    console.print(headed("\n" + RUN_YAML, ": the run YAML, completed for this attempt"))
    for line in run_yaml_diff(plan) or ["  as it is"]:
        console.print(visible(line), markup=False)


def run_yaml_diff(plan: LaunchPlan) -> list[str]:
    """The lines that differ, with two around each; what may be a secret is not shown."""
    before, after = (text.splitlines() for text in without_secrets(plan.run_source, plan.run_yaml))
    there = f"attempts/{plan.attempt.number}/{RUN_YAML}"
    return list(unified_diff(before, after, "run YAML", there, n=2, lineterm=""))


def _grid(plan: LaunchPlan) -> Table:
    """Hosts down, devices across; each cell is the place of the rank there, as data.model.stage."""
    devices = sorted({placement.device_id for placement in plan.placements})
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("HOST", "RANKS", *map(str, devices)):
        table.add_column(column, no_wrap=True)
    by_host: dict[str, dict[int, Placement]] = {}
    for item in plan.placements:
        by_host.setdefault(item.host, {})[item.device_id] = item
    for host, there in by_host.items():
        ranks = sorted(item.rank for item in there.values())
        cells = [f"{there[d].dp}.{there[d].mp}.{there[d].pp}" if d in there else "" for d in devices]
        table.add_row(host, f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else str(ranks[0]), *cells)
    return table


def _notes(plan: LaunchPlan) -> list[str]:
    """What follows from the placement and is easily overlooked."""
    groups: dict[tuple[int, int], set[str]] = {}
    for item in plan.placements:
        groups.setdefault((item.dp, item.pp), set()).add(item.host)
    widest = max(len(hosts) for hosts in groups.values())
    if widest == 1:
        return []
    return [f"each model-parallel group spans {widest} hosts: they exchange activations over the network"]


def plan_data(plan: LaunchPlan) -> dict[str, Any]:
    """The plan as `--dry-run --json` prints it: all but files' content and values of the job's `env`."""
    first = plan.manifests[plan.master.name]
    worker = first.workers[0]
    return {
        "run_id": plan.run_id,
        "job": plan.job_name,
        "task": plan.task,
        "world_size": plan.world_size,
        "hosts": [
            {
                "name": host.name,
                "address": host.address,
                "python": host.python,
                "workdir": host.workdir,
                "env_script": host.env_script,
                **({"container": _written(host.container)} if host.container is not None else {}),
            }
            for host in plan.hosts
        ],
        "spares": [host.name for host in plan.spares],
        "placement": [asdict(item) for item in plan.placements],
        "rank_table": json.loads(plan.rank_table) if plan.rank_table is not None else None,
        "rank_table_sha256": _sha256(plan.rank_table) if plan.rank_table is not None else None,
        **({"run_yaml_diff": run_yaml_diff(plan)} if plan.run_yaml else {}),
        "files": [{"path": item.path, "sha256": item.sha256} for item in first.inputs],
        "host_paths": list(plan.host_paths),
        "scheduler": plan.master.name if first.scheduler is not None else None,
        "first_worker": {
            "argv": list(worker.argv),
            "env": _shown(worker),
            "default_env": dict(sorted(worker.default_env.items())),
        },
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files(plan: LaunchPlan, manifest: Manifest) -> list[str]:
    lines = ["worker.yaml", *([RUN_YAML] if plan.run_yaml else [])]
    if plan.rank_table is not None:
        lines.append("rank_table.json")
    code = [item for item in manifest.inputs if item.path.startswith("code/")]
    if plan.run_yaml and code:
        lines.append("code/mindformers_start.py  <- orchestrate's own: it calls MindFormers' trainer")
    elif code:
        lines.append(f"code/ ({len(code)} files: the bundled model)")
    for item in manifest.inputs:
        if not item.path.startswith("code/"):
            lines.append(f"{item.path}  <- {plan.sources[item.sha256]} ({item.sha256[:12]})")
    lines += [f"{path}  (must be there already)" for path in plan.host_paths]
    return lines


def _shown(worker: WorkerSpec) -> dict[str, str]:
    """The environment of a worker, with names but no values of what the job gives.

    A dry run ends up in tickets, and any variable may be a secret.
    """
    env = dict.fromkeys(worker.literal, HIDDEN)
    for name, value in worker.env.items():
        ours, _, theirs = value.partition(":")
        if name == "PYTHONPATH" and theirs:  # the bundled code goes before the job's own paths
            value = f"{ours}:{HIDDEN}"
        env.setdefault(name, value)
    return dict(sorted(env.items()))


def _meeting(plan: LaunchPlan) -> str:
    """Where the scheduler listens, if that is asked at launch; else the environment below says it."""
    host = plan.master
    if plan.manifests[host.name].workers[0].env.get("MS_SCHED_HOST") != SCHEDULER_HOST:
        return ""
    return f"at the IP address that {host.address} means there, which is asked at launch"


def _written(container: Container) -> dict[str, Any]:
    """The keys of a container that say something."""
    return {key: value for key, value in to_json(container).items() if value is not None}
