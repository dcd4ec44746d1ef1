"""How fast a run goes on: after a worker's crash, and after a host that is gone for good.

    python bench/recovery.py [--hosts 4,64] [--rounds 5] [--only crash|host] [--json]

Real processes over a real sshd: N addresses of loopback are N hosts with one rank each. A crash: one rank is
killed; from its death until every old worker is dead and every new one runs its program (`exec`; what a
framework takes to start comes behind that). A host that is gone: one in a network namespace of its own, whose
link goes down, with a spare beside it; the time beyond `timeouts.unreachable` (made 10 s), and where its
death is proven, the whole time since its connections are refused and a peer failed (`unreachable` is 120 s).
The hosts' own work shares this machine's cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.loopback import PYTHON, Loopback  # noqa: E402
from bench.report import Goal, print_json  # noqa: E402
from orchestrator.control.run_record import RunRecord, read_record  # noqa: E402
from orchestrator.core.paths import ControlDir  # noqa: E402
from orchestrator.core.states import RankState, RunState  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402
from orchestrator.testing.sshd import Sshd, why_no_sshd  # noqa: E402

UNREACHABLE = 10.0
FAR = "10.213.78.2"
NEAR = "10.213.78.1"
# Seconds from the death of a worker until all new ones run, by how many hosts.
GOALS = {4: 3.0, 64: 6.0}
GONE = 15.0
PATIENCE = 180.0
_LOOK = 0.01
# A run of programs that keep no step gives up after three attempts.
_IN_ONE_RUN = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured: seconds, a value a round."""

    name: str
    seconds: tuple[float, ...]
    goal: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Restarting:
    """A run that goes on by itself, on hosts of a loopback; it is ended on the way out."""

    def __init__(self, folder: Path, inventory: dict[str, Any], **job: Any) -> None:
        folder.mkdir()
        self._cluster = Cluster(folder, inventory)
        job = {
            "restart": {"max": 1000},
            "timeouts": {"grace": 2, "prepare": 300, "unreachable": UNREACHABLE},
            **job,
        }
        self._job = self._cluster.job(self._cluster.sleep, devices_per_host=1, **job)

    def launch(self) -> None:
        argv = self._cluster.argv("launch", self._job, "-i", self._cluster.inventory, "--detach")
        subprocess.run(
            argv,
            env=self._cluster.env,
            cwd=self._cluster.folder,
            check=True,
            capture_output=True,
            timeout=600,
        )
        self.wait_for(lambda record: _runs(record) is not None, "the run")

    def record(self) -> RunRecord:
        return read_record(self.control)

    @property
    def control(self) -> ControlDir:
        return self._cluster.controls()[0]

    def wait_for(self, holds: Callable[[RunRecord], bool], what: str) -> RunRecord:
        deadline = time.monotonic() + PATIENCE
        while not holds(record := self.record()):
            if record.state.is_terminal or time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come: {record.state}, {record.errors}")
            time.sleep(0.1)
        return record

    def pids(self) -> dict[int, int]:
        """The process of each rank of the attempt in force, by what the hosts' supervisors have told."""
        runs = _runs(self.record())
        assert runs is not None
        return runs

    def attempt(self) -> int:
        return self.record().attempts[-1].number

    def sleepers(self) -> set[int]:
        """The workers that have been exec'd, by what the kernel says: no record is asked."""
        return set(self._cluster.sleepers())

    def close(self) -> None:
        self._cluster.close()


def _runs(record: RunRecord) -> dict[int, int] | None:
    """The processes of all ranks, once all of them run."""
    ranks = record.ranks()
    if record.state is not RunState.RUNNING or any(rank.state is not RankState.RUNNING for rank in ranks):
        return None
    return {rank.rank: rank.process.pid for rank in ranks if rank.process is not None}


def crash(run: Restarting, hosts: int, rank: int) -> float:
    """Kill one rank; seconds until no old worker lives and as many new ones are exec'd."""
    old = run.sleepers()
    victim = run.pids()[rank]
    before = run.attempt()
    os.kill(victim, signal.SIGKILL)
    begun = time.monotonic()
    while True:
        now = run.sleepers()
        if len(now) == hosts and not now & old:
            seconds = time.monotonic() - begun
            break
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError(f"{len(now & old)} old and {len(now - old)} new workers after {PATIENCE:g} s")
        time.sleep(_LOOK)
    run.wait_for(
        lambda record: record.attempts[-1].number > before and _runs(record) is not None, "the next attempt"
    )
    return seconds


def measure_crash(folder: Path, hosts: int, rounds: int) -> Row:
    with Loopback(folder / "loopback", hosts) as loopback:
        seconds: list[float] = []
        for number in range(-(-rounds // _IN_ONE_RUN)):
            home = folder / f"runs{number}"
            run = Restarting(home, loopback.inventory(home, hosts))
            try:
                run.launch()
                seconds += [crash(run, hosts, (7 * index) % hosts) for index in range(_IN_ONE_RUN)]
            finally:
                run.close()
            loopback.settle()
    return Row(f"crash of a rank, {hosts} hosts", tuple(seconds), GOALS.get(hosts))


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def far_host(folder: Path) -> Iterator[tuple[Sshd, str, str]]:
    """An sshd in a network namespace; our end's link, and the namespace."""
    name, link = f"bench{os.getpid()}", f"be{os.getpid() % 100000}"
    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("addr", "add", f"{NEAR}/24", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{FAR}/24", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        ip("-n", name, "link", "set", "lo", "up")
        with Sshd(folder, prefix=["ip", "netns", "exec", name], address=FAR) as server:
            yield server, link, name
    finally:
        # A process there that is not over yet keeps the namespace, and with it the other end.
        ip("link", "delete", link)
        ip("netns", "delete", name)


def measure_gone(folder: Path, rounds: int, *, proven: bool) -> Row:
    """A host is gone, and a spare takes its place; with `proven` its connections are refused."""
    return Row(
        "a host is gone, connections refused" if proven else "a host is gone, beyond `unreachable`",
        tuple(_gone(folder / str(index), proven=proven) for index in range(rounds)),
        GONE,
    )


def _gone(folder: Path, *, proven: bool) -> float:
    folder.mkdir(parents=True)
    with Loopback(folder / "loopback", 3) as loopback, far_host(folder / "far") as (server, link, _):
        inventory = loopback.inventory(folder / "runs", 3)
        far = {
            "name": "far",
            "address": FAR,
            "port": server.port,
            "user": server.user,
            "key": str(server.key_path),
            "workdir": str(folder / "runs" / "hosts" / "far"),
            "devices": "0",
            "python": PYTHON,
        }
        inventory["ssh"]["known_hosts"].append(str(server.known_hosts([FAR])))
        inventory["ssh"]["connect_timeout"] = 3
        inventory["hosts"].append(far)
        inventory["groups"] = {"standby": ["host003"], "work": ["host001", "host002", "far"]}
        run = Restarting(
            folder / "runs",
            inventory,
            hosts="work",
            restart={"max": 3, "spares": "standby"},
            # Programs that tell of no steps: no second sign comes, so that the longer time is made as short.
            # Where the death is proven, neither is waited out.
            timeouts={"grace": 2, "prepare": 60}
            | ({} if proven else {"unreachable": UNREACHABLE, "lost": UNREACHABLE}),
        )
        try:
            run.launch()
            run.wait_for(
                lambda record: "host003" in record.spares and record.spares["host003"].is_ready, "the spare"
            )
            begun = time.monotonic()
            if proven:
                _refuse(server, run)
            else:
                ip("link", "set", link, "down")
            run.wait_for(
                lambda record: record.attempts[-1].number == 2 and _runs(record) is not None,
                "the next attempt",
            )
            return time.monotonic() - begun - (0.0 if proven else UNREACHABLE)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{run.control.monitor_log.read_text()[-3000:]}") from None
        finally:
            ip("link", "set", link, "up")
            run.close()


def _refuse(server: Sshd, run: Restarting) -> None:
    """The machine goes down: nothing listens there any more, and who waited for it fails."""
    far, peer = run.pids()[2], run.pids()[0]
    server.kill_connections()
    server.stop()
    os.kill(far, signal.SIGKILL)
    os.kill(peer, signal.SIGKILL)


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'':44}{'median s':>9}{'min':>8}{'max':>8}{'goal':>8}"]
    for row in rows:
        goal = "" if row.goal is None else f"{row.goal:g}"
        lines.append(f"{row.name:44}{row.median:9.2f}{min(row.seconds):8.2f}{max(row.seconds):8.2f}{goal:>8}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", default="4,64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("crash", "host"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if why := why_no_sshd():
        parser.error(why)
    rows = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-recovery-") as name:
        folder = Path(name)
        if options.only != "host":
            for count in map(int, options.hosts.split(",")):
                (folder / str(count)).mkdir()
                rows.append(measure_crash(folder / str(count), count, options.rounds))
        if options.only != "crash":
            few = max(1, options.rounds // 2)
            rows.append(measure_gone(folder / "gone", few, proven=False))
            rows.append(measure_gone(folder / "proven", few, proven=True))
    goals = [Goal(row.name, row.median, row.goal, unit="s") for row in rows if row.goal is not None]
    if options.json:
        print_json({row.name: {"seconds": row.seconds, "goal": row.goal} for row in rows})
    else:
        print(f"load average {load:.1f} before\n\n{table(rows)}\n")
        for goal in goals:
            print(goal.line())
    return 0 if all(goal.holds for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
