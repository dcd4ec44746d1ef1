"""Copies of shards on a second host: what is copied when, what is kept, and how much room is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.agent.copy_network import own_addresses, ports_in_turn
from orchestrator.agent.copy_owner import NotCopied
from orchestrator.agent.copy_store import NoRoom
from orchestrator.agent.saved_steps import check_shard, saved
from orchestrator.control.copies import Authority
from orchestrator.formats.told_step import write_told_step
from tests.agent.copying import ATTEMPT, RUN, Host, free_ports


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """An owner and its keeper, which listens."""
    authority, ports = Authority(RUN, ATTEMPT), free_ports()
    pair = Host(tmp_path, "a", authority, ports), Host(tmp_path, "b", authority, ports)
    pair[1].serve()
    yield pair
    for host in pair:
        host.close()


def copy_next(owner) -> int:
    step = owner.next_step()
    assert step is not None
    owner.copy(step)
    return int(step.step)


def test_a_finished_step_is_copied_byte_for_byte_and_its_owner_says_what_it_is(
    hosts: tuple[Host, Host],
) -> None:
    owner_host, keeper_host = hosts
    paths = owner_host.save(10)
    owner = owner_host.owner()
    assert copy_next(owner) == 10
    assert keeper_host.copies() == {
        f"rank_{path.parent.name[5:]}/{each.name}": each.read_bytes()
        for path in paths
        for each in (path, Path(f"{path}.sum"))
    }
    status = owner.status()
    assert (status.step, status.lag, status.error, status.keeper) == (10, 0, "", "b")
    assert {file.name: file.sha256 for file in status.files} == {
        f"{path.parent.name}/{path.name}": sha256(path.read_bytes()).hexdigest() for path in paths
    }


def test_what_is_kept_is_listed_with_its_owner_and_is_whole(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner_host.save(10)
    keeper_host.save(10)
    copy_next(owner_host.owner())
    rows = list(saved(keeper_host.run, {}, with_copies=True))
    assert [(row["rank"], row.get("owner")) for row in rows] == [(2, None), (3, None), (0, "a"), (1, "a")]
    assert all(check_shard(row["path"], row["identity"], hashed=False)["summed"] for row in rows)
    assert [row["rank"] for row in saved(keeper_host.run, {})] == [2, 3]  # as earlier control nodes ask


def test_a_copy_slower_than_the_saves_skips_steps_and_says_its_lag(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner = owner_host.owner()
    owner_host.save(10)
    first = owner.next_step()
    for step in (20, 30, 40):
        owner_host.save(step)
        owner.next_step()
    assert owner.status().lag == 4
    owner.copy(first)
    assert owner.status().lag == 3
    assert copy_next(owner) == 40 and owner.status().lag == 0
    steps = {name.rpartition("_")[2] for name in keeper_host.copies() if name.endswith(".ckpt")}
    assert steps == {"10.ckpt", "40.ckpt"}
    assert owner.next_step() is None


def test_a_step_counts_once_every_rank_of_the_host_has_it_whole(hosts: tuple[Host, Host]) -> None:
    owner_host, _ = hosts
    owner = owner_host.owner()
    (path,) = owner_host.save(10, ranks=(0,))
    assert owner.next_step() is None
    owner_host.save(10, ranks=(1,))
    assert owner.next_step() is not None
    owner_host.save(20, ranks=(0,))
    step = owner.next_step()
    assert step is not None and step.step == 10
    path.write_bytes(path.read_bytes()[:-1])  # shorter than its checksum says: it is just being written
    assert owner.next_step() is None


def test_of_a_program_whose_ranks_do_not_all_save_what_there_is_is_copied(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner = owner_host.owner()
    (path,) = owner_host.save(10, ranks=(0,))
    assert owner.next_step() is None  # the other one may be about to
    os.utime(path, (1e9, 1e9))
    assert copy_next(owner) == 10 and owner.next_step() is None
    owner_host.save(10, ranks=(1,))
    assert copy_next(owner) == 10 and owner.next_step() is None
    assert len([name for name in keeper_host.copies() if name.endswith(".ckpt")]) == 2


def test_a_shard_without_checksum_counts_once_it_has_settled(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner = owner_host.owner()
    paths = owner_host.save(10, with_sum=False)
    assert owner.next_step() is None
    assert owner.next_step(is_last=True) is not None  # nobody writes any more
    for path in paths:
        os.utime(path, (1e9, 1e9))
    assert copy_next(owner) == 10
    assert sorted(keeper_host.copies()) == [f"rank_{rank}/m_rank_{rank}-1_10.ckpt" for rank in (0, 1)]


def test_what_mindformers_saves_is_copied_by_the_step_in_the_file(tmp_path: Path) -> None:
    authority, ports = Authority(RUN, ATTEMPT), free_ports()
    owner_host, keeper_host = (Host(tmp_path, name, authority, ports) for name in "ab")
    for host in (owner_host, keeper_host):
        host.config = replace(host.config, inside=True)
    keeper_host.serve()
    try:
        write_told_step(keeper_host.run.root, 1, 9)
        owner = owner_host.owner()
        for step in (9, 12, 15):  # of the second epoch: 1-9, 2-2, 2-5
            owner_host.save_as_mindformers(step)
            assert copy_next(owner) == step
        status = owner.status()
        assert (status.step, status.lag, {file.step for file in status.files}) == (15, 0, {9, 12, 15})
        # Of the newest two, and what is complete over all hosts: counted by names 1-9 would be the newest.
        write_told_step(keeper_host.run.root, 1, 15)
        owner_host.save_as_mindformers(18)
        assert copy_next(owner) == 18
        assert {Path(name).stem.rpartition("-")[2] for name in keeper_host.copies()} == {"2_5", "2_8"}
        # One that is still being written, however long that takes, is none.
        owner_host.save_as_mindformers(20, cut=True)
        assert owner.next_step() is None
        owner_host.save_as_mindformers(20)
        assert copy_next(owner) == 20
        rows = saved(keeper_host.run, {}, with_copies=True, with_steps=True)
        # What is complete over all hosts stays, whatever is newer.
        assert {(row["owner"], row["global_step"]) for row in rows} == {("a", step) for step in (15, 18, 20)}
    finally:
        for host in (owner_host, keeper_host):
            host.close()


def test_keep_counts_for_copies_and_never_takes_the_complete_step(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner = owner_host.owner()
    write_told_step(keeper_host.run.root, 1, 20)
    for step in (10, 20, 30, 40, 50):
        owner_host.save(step)
        copy_next(owner)
    kept = {int(name.rpartition("_")[2][:-5]) for name in keeper_host.copies() if name.endswith(".ckpt")}
    assert kept == {20, 30, 40, 50}
    write_told_step(keeper_host.run.root, 1, 50)
    owner_host.save(60)
    copy_next(owner)
    kept = {int(name.rpartition("_")[2][:-5]) for name in keeper_host.copies() if name.endswith(".ckpt")}
    assert kept == {50, 60}
    assert len(keeper_host.copies()) == 8  # with their checksums


def test_hosts_that_are_copied_here_no_more_leave_nothing_old(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner_host.save(10)
    copy_next(owner_host.owner())
    store = keeper_host.store()
    store.prune(["other"])
    assert keeper_host.copies()  # nobody has said what is complete
    write_told_step(keeper_host.run.root, 1, 30)
    store.prune(["other"])
    assert keeper_host.copies() == {}


def test_a_disk_without_room_drops_the_copy_and_says_so(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_host, keeper_host = hosts
    owner_host.save(10)
    owner = owner_host.owner()
    with pytest.raises(NoRoom):
        keeper_host.store().require_room(1 << 60)
    full = SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(NotCopied, match="b: its disk has no room"):
        copy_next(owner)
    monkeypatch.undo()
    assert "no room" in owner.status().error and owner.status().step is None
    assert keeper_host.copies() == {}
    assert copy_next(owner) == 10 and owner.status().error == ""


def test_a_keeper_that_is_away_is_said_and_found_again(tmp_path: Path) -> None:
    authority, ports = Authority(RUN, ATTEMPT), free_ports()
    owner_host, keeper_host = (Host(tmp_path, name, authority, ports) for name in ("a", "b"))
    owner_host.save(10)
    owner = owner_host.owner()
    with pytest.raises(NotCopied, match=r"b: is not found at 127\.0\.0\.1"):
        copy_next(owner)
    owner_host.serve()  # another host's port is no keeper's
    with pytest.raises(NotCopied, match=r"b: is not found at 127\.0\.0\.1"):
        copy_next(owner)
    keeper_host.serve()
    assert copy_next(owner) == 10
    owner_host.close()
    keeper_host.close()


def test_a_bye_is_waited_for(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    keeper_host.close()
    keeper = keeper_host.serve()
    keeper.wait_for_byes(0.01)  # and no longer
    owner_host.owner().say_bye()
    keeper.wait_for_byes(60.0)


def test_every_port_is_tried_in_an_order_that_both_sides_know() -> None:
    turn = ports_in_turn((29700, 29731), "run-1", "a")
    assert sorted(turn) == list(range(29700, 29732))
    assert turn == ports_in_turn((29700, 29731), "run-1", "a")
    assert turn != ports_in_turn((29700, 29731), "run-1", "b")


def test_own_addresses_are_those_in_the_network() -> None:
    assert own_addresses("127.0.0.0/8") == ["127.0.0.1"]
    assert own_addresses("203.0.113.0/24") == []


def test_no_link_is_taken_for_the_copies_of_a_host(hosts: tuple[Host, Host]) -> None:
    owner_host, keeper_host = hosts
    owner_host.save(10)
    copy_next(owner_host.owner())
    planted = keeper_host.run.folder_of(1) / "copies" / "c"
    planted.symlink_to(keeper_host.run.folder_of(1) / "copies" / "a")
    rows = list(saved(keeper_host.run, {}, with_copies=True))
    assert [row["owner"] for row in rows] == ["a", "a"]
