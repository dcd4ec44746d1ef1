"""How long a launch takes, and what it costs the control node, next to what one would do without us.

    python bench/launch.py --hosts 64 [--rounds 3] [--loop-hosts 16] [--json]

N addresses on one sshd of our own are N hosts with one rank each, which sleeps. Measured in turns: a launch
whole (connect, probe, push, verify, prepare, start, confirm) onto hosts that have nothing of ours, the same
again onto hosts that have it all, a bare `clush -w HOSTS true`, and the same steps as four ssh and scp calls
per host in a shell loop. The hosts' own work shares this machine's cores in all four.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.loopback import PYTHON, SECONDS, Launches, Loopback, end_sleepers  # noqa: E402
from bench.report import Goal, Sample, Series, Table, measure, print_json  # noqa: E402
from orchestrator.hosts.boot import agent_bundle  # noqa: E402
from orchestrator.testing.sshd import why_no_sshd  # noqa: E402

FAN_OUT = 32  # the fleet's own
SHOWN = {"clush": "clush -w HOSTS true", "pdsh": "pdsh -w HOSTS true"}


class Bench:
    """One sshd, and the four things that are measured against it."""

    def __init__(self, loopback: Loopback, hosts: int, loop_hosts: int) -> None:
        self._loopback = loopback
        self._hosts = hosts
        self._loop_hosts = loop_hosts
        self._round = 0
        self.fan_out_tool = next((tool for tool in SHOWN if shutil.which(tool)), "")
        self.first = Series("orchestrate launch --detach")
        self.again = Series("  again, all in place")
        self.bare = Series(SHOWN.get(self.fan_out_tool, ""))
        scaled = f", {loop_hosts} hosts scaled" if loop_hosts != hosts else ""
        self.loop = Series(f"shell loop, 4 calls a host{scaled}", scale=hosts / loop_hosts)

    def warm_up(self) -> None:
        """What only the first of all pays: byte code, the page cache, sshd's own files."""
        with Launches(self._loopback, self._loopback.folder / "warm", min(2, self._hosts)) as launches:
            launches.launch()
            launches.stop()
        self._run_bare(self._loopback.addresses[:2])

    def round(self) -> None:
        """Everything once, one after the other, with nothing of the one before left running."""
        self._round += 1
        folder = self._loopback.folder / f"round{self._round}"
        with Launches(self._loopback, folder, self._hosts) as launches:
            for series in (self.first, self.again):
                self._loopback.settle()
                series.samples.append(launches.launch())
                launches.stop()
        self._loopback.settle()
        if self.fan_out_tool:
            self.bare.samples.append(self._run_bare(self._loopback.addresses))
        self._loopback.settle()
        self.loop.samples.append(self._run_loop(folder / "loop"))

    def _run_bare(self, addresses: list[str]) -> Sample:
        listed, config = ",".join(addresses), f"-F {self._loopback.config}"
        if self.fan_out_tool == "clush":
            return measure(["clush", "-S", "-f", str(FAN_OUT), "-o", config, "-w", listed, "true"])
        if self.fan_out_tool == "pdsh":
            env = {**os.environ, "PDSH_SSH_ARGS_APPEND": config}
            return measure(["pdsh", "-S", "-R", "ssh", "-f", str(FAN_OUT), "-w", listed, "true"], env=env)
        return Sample(0.0, 0.0)

    def _run_loop(self, root: Path) -> Sample:
        files = root / "files"
        files.mkdir(parents=True)
        # As much as a launch brings: the agent, the manifest, the worker's configuration.
        (files / "agent.pyz").write_bytes(agent_bundle().data)
        (files / "manifest.json").write_text("{}" * 600)
        (files / "worker.yaml").write_text("task: command\n")
        script = [str(ROOT / "bench" / "shell_loop.sh"), str(self._loopback.config), str(files)]
        hosts = self._loopback.addresses[: self._loop_hosts]
        try:
            return measure([*script, str(root / "hosts"), PYTHON, SECONDS, *hosts])
        finally:
            end_sleepers(root / "hosts")

    def goals(self) -> list[Goal]:
        """What the figures are to be."""
        goals = [Goal("shell loop / launch", self.loop.wall / self.first.wall, 5.0, at_least=True)]
        if self.fan_out_tool:
            goals.append(Goal(f"launch / bare {self.fan_out_tool}", self.first.wall / self.bare.wall, 2.0))
        cpu = self.first.cpu / self._hosts * 1000
        goals.append(Goal("control node's CPU per host", cpu, 40.0, unit="ms"))
        return goals

    def series(self) -> list[Series]:
        return [self.first, self.again, *([self.bare] if self.fan_out_tool else []), self.loop]


def show(bench: Bench, hosts: int, rounds: int, load: tuple[float, float]) -> None:
    print(f"{hosts} hosts on one sshd, {os.cpu_count()} cores, fan-out {FAN_OUT}, medians of {rounds} rounds")
    print(f"load average {load[0]:.1f} before and {load[1]:.1f} after\n")
    table = Table("", "wall s", "min", "max", "CPU ms/host")
    for series in bench.series():
        low, high = series.spread
        cpu = f"{series.cpu / hosts * 1000:.1f}"
        table.add(series.name, f"{series.wall:.2f}", f"{low:.2f}", f"{high:.2f}", cpu)
    table.print()
    print()
    for goal in bench.goals():
        print(goal.line())
    if not bench.fan_out_tool:
        print("neither clush nor pdsh is installed (Debian: apt-get install clustershell): left out")


def as_data(bench: Bench, hosts: int, rounds: int, load: tuple[float, float]) -> dict[str, Any]:
    return {
        "hosts": hosts,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "fan_out": FAN_OUT,
        "load_average": load,
        "series": {series.name.strip(): series.to_json() for series in bench.series()},
        "goals": {goal.name: goal.to_json() for goal in bench.goals()},
    }


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop-hosts", type=int, help="time the shell loop on so many hosts, and scale up")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    if reason := why_no_sshd():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            with Loopback(Path(folder), given.hosts) as loopback:
                bench = Bench(loopback, given.hosts, min(given.hosts, given.loop_hosts or given.hosts))
                bench.warm_up()
                for _ in range(given.rounds):
                    bench.round()
        except (RuntimeError, OSError) as error:
            print(f"the bench broke off: {error}", file=sys.stderr)
            return 1
    loads = (load, os.getloadavg()[0])
    if given.json:
        print_json(as_data(bench, given.hosts, given.rounds, loads))
    else:
        show(bench, given.hosts, given.rounds, loads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
