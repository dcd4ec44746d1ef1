"""How long the commands take that people wait for, and which heavy packages each of them imports.

    python bench/cli.py [--runs 15] [--json]

`status` is asked of a run on local hosts while it runs, and of the same run once it has ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Goal, Series, Table, measure, print_json  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402

HEAVY = ("mindspore", "numpy", "paramiko", "fabric", "cryptography", "pydantic", "yaml", "rich", "click")
VERBS = ("launch", "status", "logs", "attach", "stop", "collect-ckpt", "runs")

# Runs one command line in this process and says afterwards which of the packages it had imported.
_PROBE = """
import sys
heavy, sys.argv = sys.argv[1].split(","), ["orchestrate", *sys.argv[2:]]
from orchestrator.cli.main import main
try:
    main()
finally:
    print("imported:", *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


class Bench:
    """A local run, and the command run against it again and again."""

    def __init__(self, cluster: Cluster, runs: int) -> None:
        self._cluster = cluster
        self._runs = runs
        self._command = str(Path(sys.executable).with_name("orchestrate"))
        self.series: list[Series] = []
        self.imports: dict[str, list[str]] = {}

    def measure(self, name: str, *words: str) -> None:
        measured = Series(name)
        env, cwd = self._cluster.env, self._cluster.folder
        for _ in range(self._runs):
            measured.samples.append(measure([self._command, *words], env=env, cwd=cwd))
        self.series.append(measured)

    def look_at_imports(self, name: str, *words: str) -> None:
        argv = [sys.executable, "-c", _PROBE, ",".join(HEAVY), *words]
        env, cwd = self._cluster.env, self._cluster.folder
        done = subprocess.run(
            argv, env=env, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        told = [line for line in done.stderr.splitlines() if line.startswith("imported:")]
        if not told:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        self.imports[name] = told[-1].split()[1:]

    def run(self) -> None:
        ended = self._launch("ended", ["true"])
        running = self._launch("running", ["sleep", "120"], "--detach")
        self.measure("--help", "--help")
        self.measure("status, running", "status", running)
        self.measure("status, ended", "status", ended)
        self.look_at_imports("--help", "--help")
        for verb in VERBS:
            self.look_at_imports(f"{verb} --help", verb, "--help")
        inventory = str(self._cluster.inventory)
        self.look_at_imports("launch --dry-run", "launch", "running.yaml", "-i", inventory, "--dry-run")
        for verb in ("status", "logs", "runs", "stop"):
            self.look_at_imports(f"{verb} (local hosts)", verb)

    def _launch(self, name: str, command: list[str], *words: str) -> str:
        launched = self._cluster.launch(self._cluster.job(command, name), *words)
        if launched.returncode != 0:
            raise RuntimeError(f"{launched.stdout}{launched.stderr}")
        return max(self._cluster.controls(), key=lambda control: control.plan.stat().st_mtime_ns).run_id

    def goals(self) -> list[Goal]:
        """What the figures are to be."""
        bounds = {"--help": 0.25, "status, running": 0.5, "status, ended": 0.5}
        return [Goal(series.name, series.wall, bounds[series.name], unit="s") for series in self.series]


def show(bench: Bench, runs: int) -> None:
    print(f"medians of {runs} runs, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    table = Table("orchestrate", "wall s", "min", "max", "CPU s")
    for series in bench.series:
        low, high = series.spread
        table.add(series.name, *(f"{seconds:.3f}" for seconds in (series.wall, low, high, series.cpu)))
    table.print()
    print()
    for goal in bench.goals():
        print(goal.line())
    print(f"\nof {', '.join(HEAVY)} these are imported by")
    for name, packages in bench.imports.items():
        print(f"{name:<24} {' '.join(packages) or '-'}")


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cluster = Cluster.local(Path(folder))
        bench = Bench(cluster, given.runs)
        try:
            bench.run()
        except (RuntimeError, OSError) as error:
            print(f"the bench broke off: {error}", file=sys.stderr)
            return 1
        finally:
            cluster.close()
    if given.json:
        series = {series.name: series.to_json() for series in bench.series}
        goals = {goal.name: goal.to_json() for goal in bench.goals()}
        print_json({"runs": given.runs, "series": series, "goals": goals, "imports": bench.imports})
    else:
        show(bench, given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
