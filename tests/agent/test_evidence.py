"""What a host finds of a run: logs, the kernel's lines, memory of control groups, disks, devices."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import cgroup_memory
from orchestrator.agent.bounded_work import do_all
from orchestrator.agent.kernel_log import Sources, kernel_lines, matters
from orchestrator.agent.line_times import syslog_time, time_of
from orchestrator.agent.log_excerpts import plog_lines, plog_lines_of, worker_lines
from orchestrator.core.paths import RunDir
from orchestrator.testing.agent_host import RUN, AgentHost, sh

NOW = 1_773_900_000.0
BOOTED = NOW - 100_000.0
OOM = "Out of memory: Killed process 6033 (python) total-vm:1kB, anon-rss:1kB"


# The times of lines.


@pytest.mark.parametrize(
    ("line", "local"),
    [
        ("[ERROR] ME(7:1,MainProcess):2025-03-10-09:40:38.720.000 [a.py:1] x", "2025-03-10 09:40:38.720"),
        ("[ERROR] HCCL(7,python3):2025-01-24-11:24:07.908.424 [c.cc:9][1] x", "2025-01-24 11:24:07.908424"),
        (
            "EI0006: [PID: 1] 2025-04-08-18:07:20.444.436 Getting socket times out",
            "2025-04-08 18:07:20.444436",
        ),
        ("2025-04-08 18:07:20,123 INFO x", "2025-04-08 18:07:20.123"),
    ],
    ids=["mindspore", "cann", "code", "logging"],
)
def test_a_line_tells_its_time(line: str, local: str) -> None:
    stamp, _, fraction = local.partition(".")
    expected = time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + float(f"0.{fraction}")
    assert time_of(line) == pytest.approx(expected, abs=1e-6)


def test_a_zone_is_heeded_and_nonsense_is_no_time() -> None:
    assert time_of("2020-12-31T00:39:25.857705+08:00|warning|x") == pytest.approx(1609346365.857705)
    assert time_of("2020-12-30T16:39:25Z x") == 1609346365.0
    assert time_of("2025-13-10-09:40:38 x") is None and time_of("no time at all") is None


def test_the_year_of_syslog_is_the_newest_that_it_can_be() -> None:
    january = time.mktime((2026, 1, 2, 0, 0, 0, 0, 0, -1))
    found = syslog_time("Dec 31 23:59:00 host kernel: x", january)
    assert found == time.mktime((2025, 12, 31, 23, 59, 0, 0, 0, -1))
    assert syslog_time("Foo 31 23:59:00 host kernel: x", january) is None


# The kernel's lines.


def kmsg(path: Path, *lines: tuple[float, str], facility: int = 0) -> str:
    records = [
        f"{facility * 8 + 4},{number},{int((moment - BOOTED) * 1e6)},-;{text}\n SUBSYSTEM=pci\n"
        for number, (moment, text) in enumerate(lines)
    ]
    with path.open("a") as file:
        file.write("".join(records))
    return str(path)


def refuses(argv: Sequence[str], seconds: float) -> tuple[str, str]:
    return "", f"{argv[0]}: Operation not permitted"


def look(since: float, sources: Sources) -> Any:
    return kernel_lines(since, sources, now=NOW, uptime=NOW - BOOTED)


def test_lines_since_the_launch_are_read_from_the_kernels_buffer(tmp_path: Path) -> None:
    path = kmsg(
        tmp_path / "kmsg",
        (BOOTED + 1, "EXT4-fs error (device sda): of the boot"),
        (NOW - 500, "Out of memory: Killed process 1 (java) before the launch"),
        (NOW - 100, OOM),
        (NOW - 90, "usb 1-1: new device"),
    )
    kmsg(Path(path), (NOW - 80, "Out of memory: said by a program"), facility=1)
    found = look(NOW - 300, Sources(path, (), refuses))
    assert [(line.text, line.time) for line in found.lines] == [(OOM, pytest.approx(NOW - 100))]
    assert found.unread == ()


def test_where_the_buffer_may_not_be_read_the_journal_is(tmp_path: Path) -> None:
    calls: list[list[str]] = []

    def run(argv: Sequence[str], seconds: float) -> tuple[str, str]:
        calls.append(list(argv))
        if argv[0] == "dmesg":
            return "", "dmesg: read kernel buffer failed: Operation not permitted"
        return f"{NOW - 50:.6f} node3 kernel: {OOM}\n{NOW - 40:.6f} node3 kernel: usb\n", ""

    found = look(NOW - 300, Sources(str(tmp_path / "none"), (), run))
    assert [(line.text, line.time) for line in found.lines] == [(OOM, pytest.approx(NOW - 50))]
    assert len(found.unread) == 1 and "Operation not permitted" in found.unread[0]
    assert [argv[0] for argv in calls] == ["dmesg", "journalctl"]
    assert f"--since=@{int(NOW - 300 - 2 - 2)}" in calls[1]


def test_dmesg_stands_in_for_the_device_file(tmp_path: Path) -> None:
    def run(argv: Sequence[str], seconds: float) -> tuple[str, str]:
        text = f"[    0.000000] Linux version 6\n[{NOW - 10 - BOOTED:12.6f}] {OOM}\n"
        return (text, "") if argv[0] == "dmesg" else ("", "no journal")

    found = look(NOW - 300, Sources(str(tmp_path / "none"), (), run))
    assert [line.text for line in found.lines] == [OOM] and found.unread == ()


def test_files_of_syslog_in_their_forms_are_the_last_resort(tmp_path: Path) -> None:
    stamp = time.strftime("%b %d %H:%M:%S", time.localtime(NOW - 60))
    iso = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW - 30))
    old = time.strftime("%b %d %H:%M:%S", time.localtime(NOW - 9000))
    messages = tmp_path / "messages"
    messages.write_text(
        f"{old} host1 kernel: {OOM}\n"
        f"{stamp} host1 kernel: [ 1197.584409] [ascend] [ERROR] [drv_soft_fault] Heartbeat lost! (device=1)\n"
        f"{stamp} host1 sshd[1]: Out of memory: no kernel\n"
        f"{iso}.857705+00:00|warning|kernel[-]|[21202265.886150] RAS: In fma_memory_offline_notify\n"
    )
    secret = tmp_path / "secret"
    secret.write_text(f"{stamp} host1 kernel: {OOM}\n")
    (tmp_path / "kern.log").symlink_to(secret)
    sources = Sources(str(tmp_path / "none"), (str(messages), str(tmp_path / "kern.log")), refuses)
    found = look(NOW - 300, sources)
    assert [line.text for line in found.lines] == [
        "[ascend] [ERROR] [drv_soft_fault] Heartbeat lost! (device=1)",
        "RAS: In fma_memory_offline_notify",
    ]
    assert [round(NOW - (line.time or 0)) for line in found.lines] == [60, 29]


def test_what_cannot_be_read_at_all_is_said_a_line_each(tmp_path: Path) -> None:
    found = look(NOW - 300, Sources(str(tmp_path / "none"), (str(tmp_path / "none"),), refuses))
    assert found.lines == () and len(found.unread) == 2
    assert "No such file" in found.unread[0] and "journalctl" in found.unread[1]


def test_a_flood_of_one_kind_does_not_hide_the_others(tmp_path: Path) -> None:
    flood = [(NOW - 200 + number / 100, f"nf_conntrack: table full {number}") for number in range(3000)]
    path = kmsg(tmp_path / "kmsg", (BOOTED, "boot"), (NOW - 250, "x"), *flood, (NOW - 100, OOM))
    found = look(NOW - 300, Sources(path, (), refuses))
    assert OOM in [line.text for line in found.lines] and len(found.lines) == 6
    many = [
        (NOW - 200 + at, f"EXT4-fs error (device {'abcdefghij'[at % 10]}{'x' * at})") for at in range(150)
    ]
    found = look(NOW - 300, Sources(kmsg(tmp_path / "many", (BOOTED, "b"), *many, *many), (), refuses))
    assert len(found.lines) <= 240


@pytest.mark.parametrize(
    "line",
    [
        "Memory cgroup out of memory: Killed process 7 (python) total-vm:1kB",
        "Out of memory: Kill process 6033 (java) score 367 or sacrifice child",
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python,pid=7,uid=0",
        "blk_update_request: I/O error, dev sdb, sector 0",
        "EXT4-fs error (device sdb): ext4_lookup:1441: inode #4014082: comm updatedb",
        "INFO: task python:7 blocked for more than 120 seconds.",
        "[ascend] [ERROR] [drv_soft_fault] [heart_beat_judge 318] Heartbeat lost! (device=1;)",
        "[ascend] [drv_pcie] [INFO] [devdrv_init_dev_num 2248] DMA copy failed",
        "{1}[Hardware Error]: event severity: corrected",
        "EDAC MC0: 1 UE memory scrubbing error on unknown memory",
        "RAS: In fma_memory_offline_notify, ready to call notify chain to isolate page: 0x1",
        "pcieport 0000:00:01.0: PCIe Bus Error: severity=Uncorrected (Fatal)",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 34",
        "nf_conntrack: nf_conntrack: table full, dropping packet",
        "python[7]: segfault at 0 ip 00007f sp 00007f error 4 in libx.so",
    ],
)
def test_lines_that_matter(line: str) -> None:
    assert matters(line)


@pytest.mark.parametrize(
    "line",
    ["usb 1-1: new device", "EDAC MC: Ver: 3.0.0", "[ascend] [drv_pcie] [INFO] [probe 1] begin", "eth0: up"],
)
def test_lines_that_do_not(line: str) -> None:
    assert not matters(line)


# The memory of control groups.


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def version_2(root: Path, kills: int, host: int = 0) -> dict[str, str]:
    """A session's group with a limit, in a slice, below the root that counts nothing."""
    put(root / "proc/self/cgroup", "0::/user.slice/session-5.scope\n")
    put(root / "proc/vmstat", f"nr_free_pages 1\noom_kill {host}\n")
    for folder, count, limit in (
        ("user.slice", kills, "max"),
        ("user.slice/session-5.scope", kills, "104857600"),
    ):
        put(root / "cgroup" / folder / "memory.events", f"low 0\nhigh 0\nmax 9\noom 3\noom_kill {count}\n")
        put(root / "cgroup" / folder / "memory.max", f"{limit}\n")
    return {"proc": str(root / "proc"), "cgroups": str(root / "cgroup")}


def version_1(root: Path, kills: int) -> dict[str, str]:
    put(root / "proc/self/cgroup", "9:cpu,cpuacct:/x\n5:memory:/docker/ab\n1:name=systemd:/x\n")
    control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
    for folder, limit in (("", 9223372036854771712), ("docker", 9223372036854771712), ("docker/ab", 2097152)):
        put(root / "cgroup/memory" / folder / "memory.oom_control", control)
        put(root / "cgroup/memory" / folder / "memory.limit_in_bytes", f"{limit}\n")
    return {"proc": str(root / "proc"), "cgroups": str(root / "cgroup")}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "runs" / "run")
    made.make()
    return made


@pytest.mark.parametrize(
    ("version", "limit"), [(version_2, 104857600), (version_1, 2097152)], ids=["v2", "v1"]
)
def test_kills_are_those_since_the_launch(run: RunDir, tmp_path: Path, version: Any, limit: int) -> None:
    where = version(tmp_path, 2)
    cgroup_memory.note_counts(run.attempt, **where)
    note = cgroup_memory.read_note(run.attempt, run.runs)
    assert cgroup_memory.kills_since(note, **where)[::2] == (0, limit)
    version(tmp_path, 3)
    assert cgroup_memory.kills_since(note, **where)[::2] == (1, limit)


def test_a_session_that_is_gone_is_counted_in_its_slice(run: RunDir, tmp_path: Path) -> None:
    where = version_2(tmp_path, 0)
    cgroup_memory.note_counts(run.attempt, **where)
    version_2(tmp_path, 4)
    for file in ("memory.events", "memory.max"):
        (tmp_path / "cgroup/user.slice/session-5.scope" / file).unlink()
    note = cgroup_memory.read_note(run.attempt, run.runs)
    assert cgroup_memory.kills_since(note, **where).in_groups == 4


def test_without_a_note_nothing_is_claimed(run: RunDir, tmp_path: Path) -> None:
    where = version_2(tmp_path, 7, host=9)
    assert cgroup_memory.read_note(run.attempt, run.runs) is None
    kills = cgroup_memory.kills_since(None, launched=time.time() + 60, **where)
    assert kills.in_groups is None and kills.on_host is None
    (run.attempt.root / cgroup_memory.NOTE).write_text("[1]")
    assert cgroup_memory.read_note(run.attempt, run.runs) is None


def test_a_host_without_groups_counts_its_own(run: RunDir, tmp_path: Path) -> None:
    put(tmp_path / "proc/self/cgroup", "0::/\n")
    put(tmp_path / "proc/vmstat", "oom_kill 5\n")
    where = {"proc": str(tmp_path / "proc"), "cgroups": str(tmp_path / "cgroup")}
    cgroup_memory.note_counts(run.attempt, **where)
    put(tmp_path / "proc/vmstat", "oom_kill 6\n")
    kills = cgroup_memory.kills_since(cgroup_memory.read_note(run.attempt, run.runs), **where)
    assert kills == (None, 1, None)


# Logs.


def test_telling_lines_the_traceback_and_the_tail_are_kept_in_their_order(run: RunDir) -> None:
    noise = "".join(f"step {number}\n" for number in range(900))
    traceback = "Traceback (most recent call last):\n  File 'a.py', line 1\nValueError: no such layer\n"
    first = "[ERROR] 2025-01-24-11:24:07.908.424 EI0006: Getting socket times out. Reason: x\n"
    run.attempt.log("rank_0").write_text(f"{noise}{first}{noise}{traceback}{noise}the end\n")
    found = worker_lines(run.attempt.log("rank_0"), run.runs, "worker")
    texts = [line["text"] for line in found]
    assert texts[0] == first.strip() and found[0]["time"] is not None
    assert texts.index("Traceback (most recent call last):") < texts.index("ValueError: no such layer")
    assert texts[-1] == "the end" and len(texts) < 120
    assert all(line["source"] == "worker" for line in found)
    assert worker_lines(run.attempt.log("rank_9"), run.runs, "worker") == []


def test_a_log_without_an_end_costs_a_bounded_part_of_it(run: RunDir) -> None:
    with run.attempt.log("rank_0").open("wb") as file:
        file.write(b"EI0006: lost at the beginning\n")
        file.seek(1 << 34)
        file.write(b"\n\xff\xfe odd bytes\n" + b"x" * 5000)
    found = worker_lines(run.attempt.log("rank_0"), run.runs, "worker")
    assert 1 <= len(found) < 40 and all(len(line["text"]) <= 600 for line in found)


def test_a_log_that_is_a_link_or_a_pipe_is_not_read(run: RunDir, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("ValueError: secret\n")
    run.attempt.log("rank_0").symlink_to(secret)
    os.mkfifo(run.attempt.log("rank_1"))
    for label in ("rank_0", "rank_1"):
        with pytest.raises(OSError, match=r"symbolic link|named pipe"):
            worker_lines(run.attempt.log(label), run.runs, "worker")


def test_canns_own_logs_tell_at_both_ends(run: RunDir) -> None:
    folder = run.attempt.plogs / "rank_0"
    error = "[ERROR] HCCL(7,python3):2025-01-24-11:24:07.908.424 [comm.cc:9][1] "
    info = "[INFO] HCCL(7,python3):2025-01-24-11:24:07.908.424 [comm.cc:9][1] x\n"
    put(folder / "debug/plog/plog-7_2025.log", f"{error}first\n" + info * 9000 + f"{error}crimer rank [3]\n")
    trace = (
        "[INFO] HCCL(7,p):2025-01-24-11:24:07.1 [HCCL_TRACE]SetupAgent rankNum[16], rank[8], phydevId[0]\n"
    )
    put(folder / "run/plog/plog-7_2025.log", trace + info)
    put(run.attempt.plogs / "rank_1/debug/plog/plog-8_2025.log", f"{error}of another rank\n")
    found = plog_lines(run, "rank_0")
    assert [(line["source"], line["text"]) for line in found] == [
        ("plog/debug", f"{error}first"),
        ("plog/debug", f"{error}crimer rank [3]"),
        ("plog/run", trace.strip()),
    ]
    assert found[0]["time"] is not None


# Work that hangs.


def test_what_hangs_costs_its_own_answer_and_no_other() -> None:
    def fails() -> None:
        raise PermissionError(13, "Permission denied", "/x")

    began = time.monotonic()
    done = do_all(
        {
            "good": lambda: {"a": [1, "x"]},
            "hangs": lambda: time.sleep(60),
            "fails": fails,
            "bug": lambda: 1 / 0,
        },
        0.7,
    )
    assert time.monotonic() - began < 5
    assert done.results == {"good": {"a": [1, "x"]}}
    assert done.problems["fails"] == "/x: Permission denied" and "ZeroDivision" in done.problems["bug"]
    assert "no answer within 0.7 s" in done.problems["hangs"]


def test_a_piece_that_says_too_much_says_nothing() -> None:
    done = do_all({"flood": lambda: "x" * (9 << 20)}, 10.0)
    assert done.results == {} and done.problems["flood"] == "more than is taken"


# All of it, of a real agent.


def test_a_real_host_is_asked_for_everything(host: AgentHost) -> None:
    agent = host.new_agent()
    script = "echo Traceback; echo ValueError: no such layer; exit 1"
    host.launch(sh(script), sh("sleep 300"))
    host.wait_over()
    found = agent.evidence(RUN, labels=["rank_0", "rank_1"], devices=[0], seconds=15.0)
    assert "ValueError: no such layer" in [line.text for line in found.logs["rank_0"]]  # type: ignore[index]
    assert found.boot_id and found.boot_id == found.launched_boot_id
    assert not found.supervisor_lives and abs((found.launched or 0) - time.time()) < 120
    assert found.disks[0].use == "workdir" and 0 < found.disks[0].free <= found.disks[0].total
    assert {disk.use for disk in found.disks} >= {"workdir", "/tmp"}
    assert any("npu-smi" in line for line in found.unread) or found.chips
    note = host.run_dir().attempt.root / cgroup_memory.NOTE
    assert set(json.loads(note.read_text())) == {"groups", "host"}
    agent.close()


def test_an_attempt_that_is_not_in_force_is_found_by_its_number(host: AgentHost) -> None:
    agent = host.new_agent()
    host.launch(sh("echo of the first; exit 1"))
    host.wait_over()
    run = host.run_dir()
    first_manifest = run.attempt.manifest.read_bytes()
    run.make(2).manifest.write_bytes(first_manifest)
    first = agent.evidence(RUN, attempt=1)
    assert [line.text for line in first.logs["rank_0"]] == ["of the first"]  # type: ignore[index]
    agent.close()


def test_logs_of_a_folder_that_all_share_are_told_apart_by_process(tmp_path: Path) -> None:
    put(tmp_path / "debug/plog/plog-7_2025.log", "[ERROR] HCCL(7,p):2025-01-24-11:24:07.1 [c.cc:9][1] mine\n")
    put(
        tmp_path / "debug/plog/plog-77_2025.log",
        "[ERROR] HCCL(77,p):2025-01-24-11:24:07.1 [c.cc:9][1] other\n",
    )
    (line,) = plog_lines_of(tmp_path, 7)
    assert line["source"] == "plog/debug" and line["text"].endswith("mine")
    assert plog_lines_of(tmp_path / "none", 7) == []
