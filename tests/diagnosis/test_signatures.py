"""The table of signatures: rows found by their words, kinds named in both languages, codes old and new."""

from __future__ import annotations

import re
import time

import pytest

from orchestrator.core.log_signatures import Meaning, signature_of
from orchestrator.core.signature_table import SIGNATURES, STEMS
from orchestrator.diagnosis.device_codes import Level, fault_of, level_of
from orchestrator.diagnosis.evidence import DeviceHealth, KernelLine
from orchestrator.diagnosis.kernel_signatures import kernel_faults, oom_kills
from orchestrator.diagnosis.signatures import KINDS
from tests.diagnosis.corpus import read_corpus

LINES = [line.text for example in read_corpus() for rank in example.case.ranks for line in rank.lines]


def test_every_row_is_of_a_kind_that_has_names_and_a_remedy() -> None:
    assert {row.kind for row in SIGNATURES} <= set(KINDS)
    for name, kind in KINDS.items():
        texts = (kind.name_en, kind.remedy_en)
        assert all(texts) and all(text == text.strip() and len(text) < 160 for text in texts), name
        for text in (kind.name_zh, kind.remedy_zh):
            assert re.search(r"[\u4e00-\u9fff]", text), name


def test_the_words_of_a_row_are_in_all_that_its_pattern_finds() -> None:
    """They are looked for first, in lower case: a line that has none of them is never searched."""
    found = set()
    for row in SIGNATURES:
        assert row.words and all(word == word.lower() for word in row.words), row
        for line in LINES:
            if re.search(row.pattern, line):
                assert any(word in line.lower() for word in row.words), (row, line)
                found.add(row)
    assert len(found) > len(SIGNATURES) * 2 // 3


PID = "[PID: 4711] 2026-02-03-11:18:29.499.235 "
C, V, B = Meaning.CULPRIT, Meaning.VICTIM, Meaning.BETWEEN


@pytest.mark.parametrize(
    ("line", "kind", "meaning"),
    [
        # One code in every form that it was seen in.
        ("EI0006: 2024-08-05-18:15:21.270.506 Getting socket times out.", "rank_missing", V),
        (f"EI0006: {PID}Getting socket times out.", "rank_missing", V),
        (f"{PID}Get_Socket_Timeout(EI0006): Getting socket times out.", "rank_missing", V),
        (f"{PID}Communication_Error_Get_Socket(EI0006): Getting socket times out.", "rank_missing", V),
        (f"[rank1]: EI0006: {PID}Getting socket times out.", "rank_missing", V),
        (
            f"(EngineCore_DP0 pid=22) ERROR 09-24 20:59:57 [core.py:790] EI0006: {PID}Getting",
            "rank_missing",
            V,
        ),
        ("\x1b[31mEI0006\x1b[0m: Getting socket times out.", "rank_missing", V),
        (
            "EI0009: Transport init error. Reason: [Create][DestLink]Create Dest error! createLink",
            "rank_missing",
            V,
        ),
        (
            "EI0009: Device 3 transport init error. Reason: The network port is down.",
            "network_port_down",
            C,
        ),
        (f"{PID}Execution Error ROCE CQE(EI0013): An error CQE occurred", "link_fault", B),
        (f"{PID}Execution_Error_SDMA(EI0012): SDMA memory copy task exception", "link_fault", B),
        (
            "[ERROR] RecentErrMsg: " + PID + "Memory_Allocation_Failure(EL0004): Failed",
            "device_out_of_memory",
            C,
        ),
        (PID + "Device_Absent/Abnormal(EL0001): Device not found or invalid.", "device_lost", C),
        ("RuntimeError: EJ0002: " + PID + "The network port is down.", "network_port_down", C),
        (
            "EI0008: The HCCL versions are inconsistent. The local 8.0, while the remote 8.1.",
            "version_mismatch",
            C,
        ),
        ("E30003: The number of started NN processes exceeds the limit.", "resources_used_up", C),
        ("E30008: AI CPU operator execution time out.", "device_task_failed", C),
        # Numbers of the runtime.
        ("RuntimeError: call aclnnMatmul failed, error code is 507015", "device_task_failed", C),
        ("EZ9903: [PID: 6388] rtGeneralCtrl failed, runtime error code: 507035", "device_task_failed", C),
        ("hrtMemcpy failed, ret[507013]", "device_task_failed", C),
        (
            "wait for compute device to finish failed, runtime result = 107020.[FUNC:ReportCallError]",
            "rank_stuck",
            V,
        ),
        ("UCEError error occurs when execute, error_code=507054", "device_memory_fault", C),
        ("SuspectRemoteError error occurs when execute, error_code=507057", "rank_stuck", V),
        (
            "Call aclrtSetDevice failed, ret[107001]. Got device count[8] and device id[9]",
            "device_unavailable",
            C,
        ),
        ("Call rt api rtMemcpyAsync failed, ret: 507015", "device_task_failed", C),
        ("Malloc device memory failed, size[1024], ret[207001], Device 0", "device_out_of_memory", C),
        ("Sync stream error! retcode=0x7150050, errorCode = 507018", "device_task_failed", C),
        ("E40021: [PID: 9] 2025-08-26 Failed to compile Op [MatMul1].", "program_error", C),
        ("error code is 5070150", None, None),
        ("loss 507015", None, None),
        (
            "rtStreamSynchronize execute failed, reason=[fftsplus timeout][FUNC:FuncErrorReason]",
            "rank_stuck",
            V,
        ),
        ("rtDeviceSynchronize execute failed, reason=[aicore exception][FUNC:F]", "device_task_failed", C),
        ("rtDeviceSynchronizeWithTimeout execution failed, reason=aicore exception", "device_task_failed", C),
        # Memory, disks.
        ("torch.OutOfMemoryError: NPU out of memory. Tried to allocate 72.00 MiB", "device_out_of_memory", C),
        ("Device(id:3) memory isn't enough and alloc failed, kernel name: x", "device_out_of_memory", C),
        ("[ERROR] MD(1,2,python): Memory error occurred, process will exit.", "host_memory_error", C),
        ("OSError: [Errno 28] 设备上没有空间: '/data'", "disk_full", C),
        ("cp: 写入'x'时出错：设备上没有空间", "disk_full", C),
        ("OSError: [Errno 122] Disk quota exceeded", "disk_full", C),
        ("OSError: [Errno 5] 输入/输出错误", "disk_fault", C),
        ("OSError: [Errno 98] Address already in use", "port_taken", C),
        ("RuntimeError: 连接被对方重置", "rank_lost", V),
        # What is quoted, or part of a sentence, is not said.
        ("sample 3: 'EI0006: Getting socket times out'", None, None),
        ('{"text": "EI0006: Getting socket times out"}', None, None),
        ("the answer is EI0006: Getting socket times out", None, None),
        (
            "document: Cluster Exception Location[IP/ID]:[10.0.0.2/1], ExceptionType:[Stuck Occurred]",
            None,
            None,
        ),
    ],
)
def test_a_line_is_of_a_kind_whatever_its_wording(
    line: str, kind: str | None, meaning: Meaning | None
) -> None:
    row = signature_of(line)
    assert (kind, meaning) == (None, None) if row is None else (row.kind, row.meaning) == (kind, meaning)


def test_any_line_is_judged_in_no_time() -> None:
    lines = [
        "E" * 5000,
        "(" * 5000,
        "[" * 400,
        "A " * 2500,
        "1:" * 2500,
        "EI0006" * 900,
        "reason=" * 800,
        "'" * 4000,
    ]
    lines += [f"{start} EI0006: x" for start in ("A" * 390, "a." * 190, "A a" * 120, "[]" * 190, "() " * 120)]
    began = time.perf_counter()
    for line in lines:
        signature_of(line)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("line", "pid", "in_cgroup"),
    [
        (
            "Mar 15 03:40:50 h kernel: Out of memory: Kill process 6033 (java) score 367 or sacrifice child",
            6033,
            False,
        ),
        ("[2059991.49] Out of memory: Killed process 25315 (python3) total-vm:53312244kB", 25315, False),
        ("[9.1] Memory cgroup out of memory: Killed process 7101 (python) total-vm:1kB", 7101, True),
        (
            "[9.1] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,task=python,pid=71,uid=0",
            71,
            True,
        ),
        (
            "[9.1] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,task=python3,pid=72,uid=0",
            72,
            False,
        ),
    ],
)
def test_who_was_killed_for_want_of_memory(line: str, pid: int, in_cgroup: bool) -> None:
    (kill,) = oom_kills([KernelLine(line)])
    assert (kill.pid, kill.in_cgroup) == (pid, in_cgroup)
    assert list(kernel_faults([KernelLine(line)])) == []


@pytest.mark.parametrize(
    ("line", "kind", "device"),
    [
        (
            "[ascend] [ERROR] [drv_soft_fault] [x 318] Heartbeat lost! (device=1; old_count=1)",
            "device_lost",
            1,
        ),
        ("[ascend] [ERROR] [drv_pcie] [x 1] Device irq not resp (dev_id=6)", "device_lost", 6),
        ("[  293.039556] NMI watchdog: Watchdog detected hard LOCKUP on cpu 34", "host_fault", None),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "host_fault", None),
        ("pcieport 0000:00:1c.0: PCIe Bus Error: severity=Uncorrected (Fatal)", "host_fault", None),
        ("kernel: EXT4-fs error (device sdb): ext4_lookup:1441: inode #4014082", "disk_fault", None),
        ("blk_update_request: I/O error, dev sda, sector 8", "disk_fault", None),
        ("XFS (dm-3): Corruption of in-memory data detected", "disk_fault", None),
        ("pcieport 0000:00:1c.0: PCIe Bus Error: severity=Corrected", None, None),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", None, None),
        ("nf_conntrack: nf_conntrack: table full, dropping packet", None, None),
    ],
)
def test_what_a_kernel_tells(line: str, kind: str | None, device: int | None) -> None:
    found = list(kernel_faults([KernelLine(line)]))
    assert [(fault.kind, fault.device) for fault in found] == ([(kind, device)] if kind else [])


def test_codes_of_devices_have_levels() -> None:
    assert level_of("80E18402") is Level.REPLACE and level_of("0x80e01801") is Level.RUN
    assert level_of("80E01809") is Level.NOTED and level_of("12345678") is None
    assert fault_of(DeviceHealth(0, "Alarm", ("80E18402",))) == ("device_memory_fault", "80E18402")
    assert fault_of(DeviceHealth(0, "Alarm", ("80C98001", "80E01809"))) == ("device_fault", "80C98001")
    assert fault_of(DeviceHealth(0, "Alarm", ("8C204E00",))) == ("device_lost", "8C204E00")
    assert fault_of(DeviceHealth(0, "Alarm", ("81078603",))) == ("network_port_down", "81078603")
    assert fault_of(DeviceHealth(0, "Critical")) == ("device_fault", "")
    assert fault_of(DeviceHealth(0, "Alarm", ("12345678",))) == ("device_fault", "12345678")
    assert fault_of(DeviceHealth(0, "Warning", ("80E01809",))) is None
    assert fault_of(DeviceHealth(0, "Warning", ("81078605",))) is None
    assert fault_of(DeviceHealth(0, "OK")) is None


def test_every_word_of_the_table_has_a_stem() -> None:
    words = [word for row in SIGNATURES for word in row.words if word.isascii()]
    assert [word for word in words if not any(stem in word for stem in STEMS)] == []
    assert [stem for stem in STEMS if not any(stem in word for word in words)] == []
