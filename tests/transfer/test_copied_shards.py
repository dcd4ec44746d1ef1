"""A host's disk is gone, and nobody has replicas: what a run goes on from is the copies on another host."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest

from orchestrator.agent.saved_steps import saved
from orchestrator.checkpoint.cut.attempt_steps import sources_for
from orchestrator.checkpoint.cut.complete_steps import choose_step
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.control.run_record import HostView, read_record, write_record
from orchestrator.core.errors import CheckpointError
from orchestrator.core.records import CopiedFile, CopyStatus
from orchestrator.plan.copy_ring import CopyRing
from orchestrator.plan.launch_plan import write_plan
from orchestrator.transfer.collect import Collection
from orchestrator.transfer.collect_run import collect_run, dry_run
from tests.transfer.test_resume_run import Ended

KEEPERS = {"host1": "host2", "host2": "host1"}


class Copied(Ended):
    """Two stages, each on a host of its own: without copies both are needed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, data_parallel=1, pipeline_stage=2, micro_batch_num=2)
        ring = CopyRing("127.0.0.0/8", (29700, 29731), 5, dict(KEEPERS))
        self.plan = dataclasses.replace(self.plan, copies=ring)
        write_plan(self.control.plan_of(1), self.plan)

    def copy(self, *steps: int, told: bool = True) -> None:
        """The copies of these steps, and the words of their owners in the record."""
        record = read_record(self.control)
        hosts = dict(record.hosts)
        for owner, keeper in KEEPERS.items():
            home = self.run(keeper).folder_of(1) / "copies" / owner
            files = []
            for item in self.plan.placements:
                if item.host == owner:
                    strategy = f"strategy/ckpt_strategy_rank_{item.rank}.ckpt"
                    files.append(self._copied(self.run(owner).root / strategy, home / strategy, strategy, 0))
                    for step in steps:
                        path = self.path(item.rank, step)
                        name = f"rank_{item.rank}/{path.name}"
                        files.append(self._copied(path, home / "checkpoint" / name, name, step))
                        shutil.copy(f"{path}.sum", home / "checkpoint" / f"{name}.sum")
            status = hosts[owner].status
            assert status is not None
            copies = CopyStatus(max(steps), keeper=keeper, files=tuple(files) if told else ())
            hosts[owner] = HostView(dataclasses.replace(status, copies=copies))
        write_record(self.control, dataclasses.replace(record, hosts=hosts))

    @staticmethod
    def _copied(source: Path, target: Path, name: str, step: int) -> CopiedFile:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        data = source.read_bytes()
        return CopiedFile(name, step, len(data), hashlib.sha256(data).hexdigest())

    def copy_of(self, rank: int, step: int) -> Path:
        path = self.path(rank, step)
        owner = next(item.host for item in self.plan.placements if item.rank == rank)
        home = self.run(KEEPERS[owner]).folder_of(1) / "copies" / owner / "checkpoint"
        return home / f"rank_{rank}" / path.name

    def lose(self, host: str) -> None:
        shutil.rmtree(self.run(host).root)


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    made = Copied(tmp_path)
    made.save(10, 20)
    made.copy(10, 20)
    return made


def test_while_all_hosts_are_there_copies_are_not_read(copied: Copied) -> None:
    found = copied.next()
    assert found.at == (1, 20) and found.moves.in_place == (0, 1, 2, 3)
    assert not any("/copies/" in path for _, path in found.step.files)
    assert not any("/copies/" in copy.path for copy in dry_run(copied.control, Collection()).plan.copies)


@pytest.mark.parametrize("lost", ["host1", "host2"])
def test_a_run_goes_on_from_the_copies_of_a_host_whose_disk_is_gone(copied: Copied, lost: str) -> None:
    copied.lose(lost)
    found = copied.next()
    assert found.at == (1, 20)
    assert f"{lost}: 2 shards taken from the copies on {KEEPERS[lost]}" in found.notes
    ranks = [item.rank for item in copied.plan.placements if item.host == lost]
    assert list(found.moves.sent) == [lost]
    assert found.moves.sent[lost] == sum(copied.copy_of(rank, 20).stat().st_size for rank in ranks)
    copied.check_loads(copied.started(found), 20)


def test_it_goes_on_where_the_copies_are(copied: Copied) -> None:
    copied.lose("host1")
    found = copied.next(hosts="host[2-3]")
    # Ranks 0 and 1 run on host2 now, which has their copies; 2 and 3 on host3, which has nothing.
    assert found.moves.in_place == (0, 1) and list(found.moves.sent) == ["host3"]
    copied.check_loads(copied.started(found), 20)


def test_in_another_layout_copies_are_cut_anew(copied: Copied) -> None:
    copied.lose("host2")
    plan = copied.started(copied.next(hosts="host4", overrides=("parallel.pipeline_stage=1",)))
    copied.check_loads(plan, 20)


def test_a_copy_that_is_not_what_its_owner_has_said_is_none(copied: Copied) -> None:
    """A keeper that lies has another whole file, with a checksum of its own beside it."""
    copied.lose("host1")
    shutil.copy(copied.copy_of(0, 10), copied.copy_of(0, 20))
    shutil.copy(f"{copied.copy_of(0, 10)}.sum", f"{copied.copy_of(0, 20)}.sum")
    found = copied.next()
    assert found.at == (1, 10)
    assert any("is not the shard that host1 has had" in note for note in found.notes)
    copied.check_loads(copied.started(found), 10)


@pytest.mark.parametrize("via_hosts", [False, True])
def test_a_collection_takes_copies_and_checks_them(copied: Copied, tmp_path: Path, via_hosts: bool) -> None:
    whole = tmp_path / "before/whole.ckpt"
    whole.parent.mkdir()
    collect_run(copied.control, Collection(with_optimizer=True, latest=True), whole)
    copied.lose("host1")
    again = tmp_path / "after/whole.ckpt"
    again.parent.mkdir()
    found = collect_run(copied.control, Collection(with_optimizer=True, latest=True), again)
    assert found.choice.step == 20 and again.read_bytes() == whole.read_bytes()
    broken = copied.copy_of(1, 20)
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    plan = dry_run(copied.control, Collection(), via_hosts=via_hosts)
    assert plan.choice.step == 10


def test_a_copy_of_which_its_owner_has_said_nothing_does_not_count(tmp_path: Path) -> None:
    copied = Copied(tmp_path)
    copied.save(10)
    copied.copy(10, told=False)
    assert copied.next().at == (1, 10)
    copied.lose("host1")
    assert any(row.get("owner") for row in saved(copied.run("host2"), {}, with_copies=True))
    with pytest.raises(CheckpointError):
        copied.next()


def test_a_strategy_that_is_not_what_its_owner_has_said_is_none(copied: Copied) -> None:
    copied.lose("host1")
    home = copied.run("host2").folder_of(1) / "copies/host1/strategy"
    other = copied.run("host2").root / "strategy/ckpt_strategy_rank_2.ckpt"
    for path in home.iterdir():
        shutil.copy(other, path)
    with pytest.raises(CheckpointError):
        copied.next()


def file(rank: int, owner: str = "") -> ShardFile:
    return ShardFile(rank, 1, 10, 0, f"/{owner}/{rank}", (1, 2, 3), owner, "0" * 64 if owner else "")


def test_shards_go_before_copies_and_copies_before_nothing() -> None:
    listed = {"a": [file(0)], "b": [file(1), file(0, "a")], "c": [file(1, "b")]}
    chosen = choose_step(listed, {}, 2, replicated=True)
    assert chosen.files == {0: ("a", "//0"), 1: ("b", "//1")}
    del listed["a"]
    assert choose_step(listed, {}, 2, replicated=True).files[0] == ("b", "/a/0")
    copies = {0: {"a": file(0), "b": file(0, "a")}, 1: {"c": file(1, "b")}}
    found = sources_for({0: "x", 1: "y"}, copies, {})
    assert found is not None and (found[0][0], found[1][0]) == ("a", "c")
    # What is on a rank's own host moves no byte, a copy or not.
    here = sources_for({0: "b"}, copies, {})
    assert here is not None and here[0] == ("b", file(0, "a"))
