"""What rank tables cost: merging the tables of many servers, checking the result, and asking the servers.

    python bench/rank_table.py [--servers 4096] [--runs 5] [--hosts 64] [--rounds 3] [--json]

Merging and checking happens in this process, on tables in memory, as text and as data. The cost per device of
the largest cluster is compared with that of 64 servers, measured in turn with it. Discovery asks stand-ins of
`hccn_tool` and `npu-smi` on many addresses of one sshd of our own, in turn with a bare connection to each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.discovery import FAN_OUT, Discovery  # noqa: E402
from bench.report import Goal, Sample, Series, Table, print_json  # noqa: E402
from orchestrator.rank_table.findings import errors_of  # noqa: E402
from orchestrator.rank_table.merge import merge  # noqa: E402
from orchestrator.rank_table.read_table import Reading, parse_rank_table  # noqa: E402
from orchestrator.rank_table.rules import validate  # noqa: E402
from orchestrator.testing.sshd import why_no_sshd  # noqa: E402

DEVICES = 8
SMALL = 64
T = TypeVar("T")


def server_table(number: int) -> bytes:
    """The table of one server, as `hccl_tools.py` writes it."""
    high, low = divmod(number, 250)
    device = [
        {"device_id": str(d), "device_ip": f"29.{high}.{low}.{d + 1}", "rank_id": str(d)}
        for d in range(DEVICES)
    ]
    server = {"server_id": f"10.{high}.{low}.1", "device": device, "host_nic_ip": "reserve"}
    table = {"version": "1.0", "server_count": "1", "server_list": [server], "status": "completed"}
    return json.dumps(table, indent=4).encode()


class Cluster:
    """The tables of so many servers, and what is done with them."""

    def __init__(self, servers: int) -> None:
        self.servers = servers
        self._texts = [server_table(number) for number in range(servers)]
        self.series = {name: Series(name) for name in ("read", "merge", "validate", "write")}

    def measure(self) -> None:
        """Once through all steps; `merge` checks the result by every rule, and `validate` does so again."""
        readings = self._timed("read", self._read)
        made = self._timed("merge", lambda: merge(readings))
        findings = self._timed("validate", lambda: validate(made.table))
        text = self._timed("write", made.table.to_json)
        if errors_of(findings) or len(json.loads(text)["server_list"]) != self.servers:
            raise RuntimeError("the merged table is not the one that was meant")

    def _read(self) -> Sequence[Reading]:
        return [parse_rank_table(text, f"{number}.json") for number, text in enumerate(self._texts)]

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
        self.series[name].samples.append(sample)
        return result

    @property
    def merge_and_validate(self) -> float:
        """Seconds to merge and check all of it, the middle of all runs."""
        return self.series["merge"].wall + self.series["validate"].wall

    def per_device(self, name: str) -> float:
        """Microseconds."""
        return self.series[name].wall / (self.servers * DEVICES) * 1e6


def goals(small: Cluster, large: Cluster) -> list[Goal]:
    """What the figures are to be; flat is within a third, which caches and their misses take."""
    ratio = large.merge_and_validate / large.servers / (small.merge_and_validate / small.servers)
    return [
        Goal(f"merge + validate, {large.servers} × {DEVICES}", large.merge_and_validate, 1.0, unit="s"),
        Goal(f"cost per device, {large.servers} to {small.servers} servers", ratio, 1.34),
    ]


def show(clusters: Sequence[Cluster], runs: int, found: Sequence[Goal]) -> None:
    print(f"medians of {runs} runs, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    table = Table("servers × devices", *(f"{name} ms" for name in clusters[0].series), "merge µs/device")
    for cluster in clusters:
        walls = (f"{series.wall * 1e3:.1f}" for series in cluster.series.values())
        table.add(f"{cluster.servers} × {DEVICES}", *walls, f"{cluster.per_device('merge'):.1f}")
    table.print()
    print()
    for goal in found:
        print(goal.line())


def discovered(hosts: int, rounds: int) -> Discovery | None:
    """Discovery measured, unless it is not asked for or there is no sshd."""
    if not hosts:
        return None
    if reason := why_no_sshd():
        print(f"discovery left out: {reason}", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        discovery = Discovery(Path(folder), hosts)
        try:
            discovery.warm_up()
            for _ in range(rounds):
                discovery.measure()
        finally:
            discovery.close()
    return discovery


def show_discovery(discovery: Discovery, rounds: int) -> None:
    print(f"\n{discovery.hosts} hosts on one sshd, fan-out {FAN_OUT}, medians of {rounds} rounds\n")
    table = Table("", "wall s", "min", "max", "CPU ms/host")
    for series in discovery.series():
        low, high = series.spread
        cpu = f"{series.cpu / discovery.hosts * 1000:.1f}" if series.cpu else "-"
        table.add(series.name, f"{series.wall:.2f}", f"{low:.2f}", f"{high:.2f}", cpu)
    table.print()
    print()
    print(discovery.goal().line())


def main() -> int:
    """Measure and print; 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=64, help="to discover; 0 leaves that out")
    parser.add_argument("--rounds", type=int, default=3, help="of discovery")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    small, large = Cluster(SMALL), Cluster(given.servers)
    for _ in range(given.runs):
        # In turn, so that whatever else the machine does meets both.
        large.measure()
        for _ in range(8):
            small.measure()
    found = goals(small, large)
    discovery = discovered(given.hosts, given.rounds)
    if given.json:
        series = {
            str(cluster.servers): {name: one.to_json() for name, one in cluster.series.items()}
            for cluster in (small, large)
        }
        if discovery is not None:
            found.append(discovery.goal())
            series["discovery"] = {one.name: one.to_json() for one in discovery.series()}
        print_json(
            {"runs": given.runs, "series": series, "goals": {goal.name: goal.to_json() for goal in found}}
        )
    else:
        show((small, large), given.runs, found)
        if discovery is not None:
            show_discovery(discovery, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
