"""Stacks of a hang: read as faulthandler and py-spy write them, folded, and whose are unlike the others'."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.control.hang_stacks import Frame, StackFold, StackGroup, frames_of, suspects, told_stacks
from orchestrator.core.host_answers import RankStacks

WAITS = """\
Thread 0x00007f{n:04x}40 (most recent call first):
  File "/usr/lib/python3.10/threading.py", line 320 in wait
  File "/usr/lib/python3.10/threading.py", line 1016 in _bootstrap_inner
  File "/usr/lib/python3.10/threading.py", line 973 in _bootstrap

Current thread 0x00007f{n:04x}00 (most recent call first):
  File "/srv/w{n}/model/collectives.py", line {line} in all_reduce
  File "/srv/w{n}/model/train.py", line 88 in step
  File "/srv/w{n}/model/train.py", line 120 in <module>
"""
READS = """\
Current thread 0x00007f00 (most recent call first):
  File "/usr/lib/python3.10/socket.py", line 705 in readinto
  File "/srv/w/data.py", line 41 in load_batch
  File "/srv/w/model/train.py", line 80 in step
  File "/srv/w/model/train.py", line 120 in <module>
"""
PY_SPY = """\
Process 412: python train.py
Python v3.10.12 (/usr/bin/python3.10)

Thread 412 (idle): "MainThread"
    all_reduce (collectives.py:17)
    step (train.py:88)
    <module> (train.py:120)
Thread 431 (idle): "Thread-1"
    wait (threading.py:320)
    _bootstrap (threading.py:973)
"""


def waits(n: int = 0, line: int = 17) -> RankStacks:
    return RankStacks("faulthandler", WAITS.format(n=n, line=line))


def groups_of(*stacks: RankStacks) -> list[StackGroup]:
    fold = StackFold()
    for rank, each in enumerate(stacks):
        fold.add(rank, each)
    return fold.groups()


def test_the_main_thread_counts_whoever_writes_it_down() -> None:
    names = [("all_reduce", "collectives.py"), ("step", "train.py"), ("<module>", "train.py")]
    for stacks in (waits(3), RankStacks("py-spy", PY_SPY)):
        assert [(frame.name, frame.file) for frame in frames_of(stacks)] == names
    assert str(frames_of(waits())[0]) == "all_reduce (collectives.py:17)"


def test_equal_stacks_are_folded_though_addresses_folders_and_lines_differ() -> None:
    fold = groups_of(*(waits(n, 17 + n % 3) for n in range(100)), RankStacks("py-spy", PY_SPY))
    (group,) = fold
    assert group.ranks == tuple(range(101)) and suspects(fold) == ()
    assert group.waits and group.where == "all_reduce (collectives.py:17)"


def test_who_is_outside_of_what_the_others_wait_in_is_suspect() -> None:
    groups = groups_of(waits(0), waits(1), RankStacks("faulthandler", READS), waits(3))
    assert suspects(groups) == (2,)
    assert groups[1].where == "load_batch (data.py:41)"  # a library's wait says less


def test_the_majority_may_be_outside() -> None:
    """Three of four read from a file system that hangs."""
    reads = RankStacks("faulthandler", READS)
    assert suspects(groups_of(reads, reads, waits(), reads)) == (0, 1, 3)


def test_where_nobody_waits_in_a_collective_that_is_known_a_minority_is_suspect() -> None:
    one, other = (
        RankStacks("py-spy", f'Thread 1 (active): "MainThread"\n    {name} (x.py:1)\n    <module> (x.py:9)\n')
        for name in ("forward", "spin")
    )
    assert suspects(groups_of(one, one, other)) == (2,)
    assert suspects(groups_of(one, other)) == ()


def test_who_waits_in_the_same_call_is_like_the_others_wherever_it_is_in_it() -> None:
    """A rank that is frozen tells no stack: who is just looking whether it has come is not why it has not."""
    looks = waits(1).text.replace(
        '  File "/srv/w1/model/coll',
        '  File "/srv/w1/model/files.py", line 9 in reached\n  File "/srv/w1/model/coll',
    )
    looking = RankStacks("faulthandler", looks)
    frozen = RankStacks("kernel", "do_signal_stop", "T (stopped)")
    assert "in reached" in looks and len(groups_of(waits(0), looking)) == 2
    assert suspects(groups_of(waits(0), looking, frozen, waits(3))) == ()
    gathers = RankStacks("faulthandler", waits().text.replace("all_reduce", "all_gather"))
    assert suspects(groups_of(waits(0), looking, gathers, waits(3))) == (2,)


def test_of_whom_only_the_kernel_tells_nobody_knows_where_it_is() -> None:
    kernel = RankStacks("kernel", "", "1234 S futex_wait_queue_me 0xffffffffa1b2c3d4\n")
    assert frames_of(kernel) == (Frame("# S futex_wait_queue_me #"),)
    assert suspects(groups_of(waits(0), waits(1), kernel)) == ()
    assert len(groups_of(kernel, RankStacks("kernel", "", "99 S futex_wait_queue_me 0xffff8888\n"))) == 1


@pytest.mark.parametrize("text", ["", "\n\n", "no stacks\n", "  File broken\n", "\x00\x1b[2J\n"], ids=ascii)
def test_what_is_no_stack_is_nobodys(text: str) -> None:
    assert suspects(groups_of(RankStacks("faulthandler", text), waits())) == ()


def test_what_is_kept_tells_each_group_once_and_shows_control_characters() -> None:
    groups = groups_of(waits(0), waits(1), RankStacks("faulthandler", READS.replace("data", "da\x1b[31mta")))
    told = told_stacks(groups, ["h9"], "12:00:00")
    assert told.count("in all_reduce") == 1 and "2 ranks: 0-1 (from faulthandler)" in told
    assert "1 rank: 2 (from faulthandler)" in told and "No stacks came from h9." in told
    assert "\x1b" not in told and told.startswith("Stacks of the ranks at 12:00:00")


def test_what_hosts_tell_is_bounded() -> None:
    """Each rank another text, of the longest lines."""
    fold = StackFold()
    for rank in range(300):
        fold.add(rank, RankStacks("x" * 1000, f"{rank}\n" + ("y" * 1000 + "\n") * 2000, "z" * 10**6))
    groups = fold.groups()
    assert sum(len(group.text) + len(group.state) for group in groups) < 5 << 20
    assert len(told_stacks(groups, ["h" * 10**6], "now")) < 5 << 20 and len(groups) == 1


def test_a_real_interpreter_writes_what_is_read() -> None:
    program = (
        "import faulthandler, sys, threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def all_reduce():\n    faulthandler.dump_traceback(sys.stdout, all_threads=True)\n"
        "def step():\n    all_reduce()\n"
        "step()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = [frame.name for frame in frames_of(RankStacks("faulthandler", done.stdout))]
    assert names == ["all_reduce", "step", "<module>"]
