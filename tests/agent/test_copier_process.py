"""A supervisor and its copier: idle, started again when it ends, gone with the run, and never its failure."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.processes import state_of
from orchestrator.control.copies import Authority
from orchestrator.core.codec import dumps, to_json
from orchestrator.core.copier_config import CONFIG_NAME, KEY_NAME, CopierConfig
from orchestrator.core.records import Attempt, CopyStatus, HostStatus, Manifest
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.copying import LOCAL, free_ports

ATTEMPT = Attempt(1, "abcd")
PEER = {"a": "b", "b": "a"}
RANKS = {"a": (0,), "b": (1,)}
# At idle priority a copier has next to nothing of a machine on which tests run side by side.
PATIENCE = 240.0
# A worker that saves a step when it is told to, as programs of users do, and ends when it is told to.
SAVES = """
mkdir -p checkpoint/rank_{rank}
while [ ! -e end ]; do
    if [ -e save ] && [ ! -e saved ]; then
        head -c 100000 /dev/zero >part
        touch -d '2001-01-01' part
        mv part checkpoint/rank_{rank}/m_rank_{rank}-1_10.ckpt
        touch saved
    fi
    sleep 0.05
done
exit {code}
"""


class Pair:
    """Two hosts, whose workers save as files tell them to."""

    def __init__(self, folder: Path) -> None:
        self.hosts = {name: AgentHost(folder / name) for name in PEER}
        self._authority = Authority(RUN, ATTEMPT)
        self._ports = free_ports()

    def launch(self, name: str, code: int = 0, key: str = "", **changes: object) -> None:
        (rank,) = RANKS[name]
        host = self.hosts[name]
        script = sh(SAVES.replace("{rank}", str(rank)).replace("{code}", str(code)))
        manifest = host.manifest(script, host=name, attempt=ATTEMPT, **changes)
        worker = dataclasses.replace(manifest.workers[0], label=f"rank_{rank}", rank=rank)
        self._prepare(host, dataclasses.replace(manifest, workers=(worker,)), name, key)
        host.tell("start", RUN)
        host.tell("commit", RUN)

    def _prepare(self, host: AgentHost, manifest: Manifest, name: str, key: str) -> None:
        config = CopierConfig(
            RUN,
            name,
            attempt=ATTEMPT,
            address=LOCAL,
            ports=self._ports,
            keeper=PEER[name],
            keeper_address=LOCAL,
            owners={PEER[name]: RANKS[PEER[name]]},
            ranks=RANKS[name],
            authority=self._authority.certificate,
        )
        files = {CONFIG_NAME: dumps(config), KEY_NAME: key or self._authority.issue(name), "evil": "x"}
        bundle = {
            "manifest": to_json(manifest),
            "worker_config": "a: 1\n",
            "rank_table": None,
            "files": files,
        }
        host.session.call("prepare", payload=json.dumps(bundle).encode())

    def status(self, name: str) -> HostStatus:
        return self.hosts[name].status()

    def copies(self, name: str) -> CopyStatus:
        found = self.status(name).copies
        assert found is not None
        return found

    def touch(self, word: str, *names: str) -> None:
        for name in names or tuple(PEER):
            (self.hosts[name].run_dir().root / word).touch()

    def copier(self, name: str) -> int:
        """The copier's process, once it is idle: what it does before is done then."""
        supervisor = self.status(name).supervisor
        assert supervisor is not None
        worker = self.status(name).ranks[0].process

        def found() -> int:
            pids = set(children_of(supervisor.pid)) - {worker.pid if worker else 0}
            return next((pid for pid in pids if is_idle(pid)), 0)

        return int(eventually(found, PATIENCE, "a copier"))

    def kept_by(self, name: str) -> list[str]:
        home = self.hosts[name].run_dir().folder_of(1) / "copies"
        return sorted(str(path.relative_to(home)) for path in home.rglob("*.ckpt"))

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_idle(pid: int) -> bool:
    try:
        return os.sched_getscheduler(pid) == os.SCHED_IDLE
    except ProcessLookupError:
        return False


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def test_what_was_saved_last_is_copied_before_the_run_is_over(pair: Pair) -> None:
    for name in PEER:
        pair.launch(name, grace=PATIENCE)
    pair.touch("save")
    pair.hosts["a"].wait_up("saved")
    pair.hosts["b"].wait_up("saved")
    pair.touch("end")
    for name, host in pair.hosts.items():
        status = host.wait_over(timeout=PATIENCE)
        assert [str(rank.state) for rank in status.ranks] == ["succeeded"]
        copies = status.copies
        assert copies is not None and (copies.step, copies.lag, copies.error) == (10, 0, "")
        (rank,) = RANKS[name]
        assert pair.kept_by(PEER[name]) == [f"{name}/checkpoint/rank_{rank}/m_rank_{rank}-1_10.ckpt"]


def test_a_copier_is_idle_holds_nothing_of_the_supervisors_and_ends_with_the_run(pair: Pair) -> None:
    pair.launch("a")
    pid = pair.copier("a")
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [path for path in opened if "locks" in path or "control.sock" in path]
    folder = pair.hosts["a"].run_dir().folder_of(1)
    assert {(folder / name).stat().st_mode & 0o777 for name in (CONFIG_NAME, KEY_NAME)} == {0o600}
    assert not (folder / "evil").exists()
    pair.hosts["a"].tell("stop", reason="enough")
    pair.hosts["a"].wait_over(timeout=60)
    assert state_of(pid) in ("", "Z")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copier_that_is_killed_is_started_again_and_fails_nothing(pair: Pair, number: int) -> None:
    pair.launch("a")
    first = pair.copier("a")
    os.kill(first, number)
    eventually(lambda: state_of(first) == "", PATIENCE)
    second = pair.copier("a")
    assert second != first
    pair.touch("end", "a")
    status = pair.hosts["a"].wait_over(timeout=60)
    assert str(status.ranks[0].state) == "succeeded"


def test_a_copier_that_cannot_work_says_why_and_fails_nothing(pair: Pair) -> None:
    pair.launch("a", key="no key\n")
    eventually(lambda: "cannot work" in pair.copies("a").error, PATIENCE)
    pair.touch("end", "a")
    status = pair.hosts["a"].wait_over(timeout=60)
    assert str(status.ranks[0].state) == "succeeded"
    assert status.copies is not None and "cannot work" in status.copies.error


def test_a_keeper_that_is_not_there_is_said_and_a_failed_run_waits_for_no_copy(pair: Pair) -> None:
    pair.launch("a", code=3, grace=PATIENCE)
    pair.touch("save", "a")
    eventually(lambda: pair.copies("a").error, PATIENCE)
    told = pair.copies("a")
    assert (told.step, told.lag) == (None, 1) and told.error.startswith("b: is not found")
    pair.touch("end", "a")
    begun = time.monotonic()
    status = pair.hosts["a"].wait_over(timeout=PATIENCE)
    assert status.failed_first == 0 and time.monotonic() - begun < PATIENCE / 2


def test_without_its_files_nothing_is_copied(pair: Pair) -> None:
    host = pair.hosts["a"]
    host.launch(sh("true"))
    assert host.wait_over().copies is None


def test_a_stop_waits_for_no_copy(pair: Pair) -> None:
    pair.launch("a", grace=PATIENCE)
    pair.touch("save", "a")
    eventually(lambda: pair.copies("a").lag == 1, PATIENCE)
    begun = time.monotonic()
    pair.hosts["a"].tell("stop", reason="enough")
    pair.hosts["a"].wait_over(timeout=PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2
