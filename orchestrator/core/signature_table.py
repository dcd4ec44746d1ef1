"""The table of log signatures: a line of a log, what it says of the process that wrote it, and the kind of
failure that it tells of. Data only; names and remedies of the kinds are in `diagnosis/signatures`.

Wordings are those of HCOMM's `docs/en/error_codes` (CANN 9; the older ones from published logs), CANN's
`rt_error_codes.h`, MindSpore 2.10 and CPython 3.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Tuple

__all__ = ["SIGNATURES", "STEMS", "Meaning", "Signature"]


class Meaning(enum.Enum):
    """What a line says of the process that wrote it."""

    CULPRIT = "it failed by itself"
    VICTIM = "it has noticed that another rank is gone, or has waited for one in vain"
    BETWEEN = "what it and another have in common failed: either may be the cause"


class Signature(NamedTuple):
    """`kind` is that of the failure; of a victim's line, of the failure of the one that it misses.

    `words` are in lower case, and one of them is in every line that `pattern` finds: it is searched for in
    those alone. `is_code`: it must stand where a program writes an error, and not in the middle of a
    sentence. `is_soft`: it may as well follow from the failure of another rank.
    """

    kind: str
    meaning: Meaning
    words: Tuple[str, ...]
    pattern: str
    source: str
    is_code: bool = False
    is_soft: bool = False


_C, _V, _B = Meaning.CULPRIT, Meaning.VICTIM, Meaning.BETWEEN
_HCOMM = "HCOMM docs/en/error_codes"
_RT = "CANN rt_error_codes.h"
_MS = "MindSpore 2.10"


def _code(kind: str, meaning: Meaning, code: str, text: str = "", is_soft: bool = False) -> Signature:
    """`EI0006: …`, `EI0006: [PID: 7] 2025-…`, `Get_Socket_Timeout(EI0006): …`, `EE9999[PID: 7] …`"""
    return Signature(kind, meaning, (code.lower(),), rf"\b{code}[:)\[]{text}", _HCOMM, True, is_soft)


def _numbers(kind: str, meaning: Meaning, *numbers: int, is_soft: bool = False) -> Signature:
    """`ret[507015]`, `error code is 507015`, `error_code=507015`, `result = 107020`, `failed: 507033`"""
    words = tuple(map(str, numbers))
    before = r"(?i)\b(?:\w*ret(?:urn)?|\w*code|\w*errno|result|failed)\b[^\d\n]{0,10}"
    pattern = rf"{before}(?:{'|'.join(words)})\b"
    return Signature(kind, meaning, words, pattern, _RT, is_soft=is_soft)


def _text(kind: str, meaning: Meaning, source: str, pattern: str, *words: str) -> Signature:
    return Signature(kind, meaning, words, pattern, source)


# One of these is in each word of each row that is of ASCII: most lines have none, and are looked at no more.
STEMS: Tuple[str, ...] = (
    *("ei0", "ej0", "el0", "ee1", "e300", "507", "207", "107", "err", "mem", "enough", "alloc", "listen"),
    *(
        "in use",
        "space",
        "quota",
        "put/",
        "read-only",
        "stale",
        "heartbeat",
        "reason=",
        "abnormal",
        "there is a",
    ),
    *(
        "aicpu",
        "execute failed",
        "dataset",
        "exception",
        "strategy",
        "socket",
        "timeout",
        "timed",
        "time out",
    ),
    *("peer", "remote rank", "register", "taskexec", "ttp", "sigterm", "stuck", "crimer", "pipe", "lost"),
    *("connection", "initialization", "open device", "e10", "e19", "e40"),
)

# The first row that fits a line counts.
SIGNATURES: Tuple[Signature, ...] = (
    # Settings, tables and versions.
    _code("setting_wrong", _C, "EI0001"),
    _code("program_error", _C, "EI0003"),
    _code("rank_table", _C, "EI0004"),
    _code("rank_table", _C, "EI0014"),
    _code("rank_table", _C, "EI0017"),
    _code("collective_mismatch", _B, "EI0005"),
    _code("resources_used_up", _C, "EI0007", is_soft=True),
    _code("version_mismatch", _C, "EI0008"),
    _code("setting_wrong", _C, "EI0010"),
    _code("tls_mismatch", _B, "EI0016"),
    _code("port_taken", _C, "EI0019"),
    _code("port_taken", _C, "EI0020"),
    _text(
        "port_taken",
        _C,
        "vllm-project/vllm-ascend#1955",
        r"listen on ip ?\[[^]]*\] and specific port ?\[\d+\] fail",
        "listen on ip",
    ),
    _text(
        "port_taken",
        _C,
        "EADDRINUSE of glibc",
        r"(?i)\[Errno 98\]|\baddress already in use\b|地址已在使用|地址已被使用",
        "errno 98",
        "already in use",
        "地址已",
    ),
    # Links of devices.
    _code("network_port_down", _C, "EI0009", r".*(?:network )?port is down"),
    _code("network_port_down", _C, "EJ0002"),
    _code("rank_missing", _V, "EI0009"),
    _code("link_fault", _B, "EI0012"),
    _code("link_fault", _B, "EI0013"),
    _code("link_fault", _B, "EI0018"),
    _text(
        "link_fault",
        _B,
        "HCCL's heartbeat.cc",
        r"\bcqe err(?:or)? status ?\[|\berror cqe status\b",
        "cqe err",
        "error cqe",
    ),
    _numbers("link_fault", _B, 507056),
    # Memory of a device.
    _code("device_out_of_memory", _C, "EL0004"),
    _code("device_out_of_memory", _C, "EI0011"),
    _text(
        "device_out_of_memory",
        _C,
        "torch_npu; MindSpore 2.10",
        r"(?i)\bNPU out of memory\b|\bOutOfMemoryError\b|- Memory not enough:|"
        r"\bmemory isn't enough and alloc failed\b|\bis more than total mem size\b|"
        r"\bDevice memory not enough\b|\bMemory not enough: (?:alloc|current)",
        "out of memory",
        "outofmemory",
        "not enough",
        "isn't enough",
        "total mem size",
    ),
    _numbers("device_out_of_memory", _C, 207018),
    _numbers("device_out_of_memory", _C, 207001, is_soft=True),
    # Memory and disks of a host.
    _text(
        "shared_memory_full",
        _C,
        "PyTorch's data loader",
        r"(?i)\bkilled by signal: Bus error\b|\bout of shared memory\b|\binsufficient shared memory\b",
        "bus error",
        "shared memory",
    ),
    _text(
        "host_memory_error",
        _C,
        "MindSpore 2.10 dataset/engine/iterators.py; ENOMEM of glibc",
        r"\bMemory error occurred, process will exit\b|\[Errno 12\]|\bCannot allocate memory\b|无法分配内存|"
        r"\bDefaultCPUAllocator: (?:not enough|can't allocate) memory\b|\bstd::bad_alloc\b",
        "memory error",
        "errno 12",
        "allocate memory",
        "无法分配内存",
        "not enough memory",
        "bad_alloc",
    ),
    Signature(
        "host_memory_error",
        _C,
        ("out of memory",),
        r"(?i)\bout of memory\b(?!: Kill)",
        "words of programs and libraries",
        is_soft=True,
    ),
    _text(
        "disk_full",
        _C,
        "ENOSPC and EDQUOT of glibc",
        r"\[Errno (?:28|122)\]|\bNo space left on device\b|\bDisk quota exceeded\b|"
        r"设备上没有空间|没有剩余空间|超出磁盘限额",
        "errno 28",
        "errno 122",
        "no space left",
        "quota exceeded",
        "没有空间",
        "剩余空间",
        "磁盘限额",
    ),
    _text(
        "disk_fault",
        _C,
        "EIO, EROFS and ESTALE of glibc",
        r"\[Errno (?:5|30|116)\]|\bInput/output error\b|\bRead-only file system\b|\bStale file handle\b|"
        r"输入/输出错误|只读文件系统",
        "errno 5]",
        "errno 30",
        "errno 116",
        "input/output",
        "read-only file",
        "stale file",
        "输入/输出",
        "只读文件",
    ),
    # Devices that are held, absent or lost.
    _code("device_in_use", _C, "EJ0001"),
    _code("device_lost", _C, "EL0001"),
    _text(
        "device_lost",
        _C,
        "CANN's runtime",
        r"\bDevice ?\[\d+\] lost heartbeat\b|\breason=\[?lost heartbeat",
        "lost heartbeat",
    ),
    _numbers("device_lost", _C, 507010),
    _numbers("device_lost", _C, 507051, 507901, is_soft=True),
    _numbers("device_unavailable", _C, 107001, 207004),
    _numbers("device_unavailable", _C, 507033, is_soft=True),
    _numbers("device_memory_fault", _C, 507053, 507054),
    _numbers("device_memory_fault", _C, 507055, is_soft=True),
    _text("device_memory_fault", _C, _MS, r"\bUCEError error occurs\b", "uceerror"),
    Signature(
        "device_unavailable",
        _C,
        ("initialization failed", "open device"),
        r"\bAscend kernel runtime initialization failed\b|\bopen device \d+ failed\b",
        _MS,
        is_soft=True,
    ),
    # What ran on a device failed there.
    _numbers(
        "device_task_failed",
        _C,
        *(507001, 507011, 507013, 507014, 507015, 507016, 507017, 507018, 507034, 507035, 507049),
    ),
    _numbers("device_task_failed", _C, 507012, 507899, 507900, is_soft=True),
    _code("device_task_failed", _C, "E30008"),
    _text(
        "device_task_failed",
        _C,
        "CANN's runtime",
        r"\breason=\[?(?:(?:aicore|vector core|aicpu|fftsplus task|task) (?:exception|trap)|aicore timeout|"
        r"vector core timeout)|\bThe (?:aicore|vector core) execution is abnormal\b|"
        r"\bthere is (?:an? )?(?:exception of )?(?:fftsplus )?(?:aicore|aivec|aivector|sdma) error\b|"
        r"\bexception during AICPU execution\b|\b(?:Aicpu|Aicore) kernel execute failed\b|"
        r"\[fftsplus sdma error\]",
        "reason=",
        "execution is abnormal",
        "there is a",
        "aicpu",
        "kernel execute failed",
        "sdma error",
    ),
    _code("resources_used_up", _C, "E30003"),
    # Programs.
    _text(
        "program_error",
        _C,
        "MindSpore 2.10",
        r"^(?:\w+\.)*\w*Error: For ['`]\w|"
        r"\bGeneratorDataset subprocess worker may be killed or exit abnormally\b|"
        r"\bException thrown from (?:dataset pipeline|user defined Python function)\b|"
        r"\bError: the strategy is\b|"
        r"^[\w./-]{1,120}: error: (?:unrecognized arguments|the following arguments are|argument )",
        "error: for",
        "generatordataset",
        "exception thrown from",
        "the strategy is",
        "error: unrecognized",
        "error: the following",
        "error: argument",
    ),
    Signature(
        "program_error",
        _C,
        ("e10", "e19", "e40"),
        r"\bE(?:10|19|40)\d{3}[:)\[]",
        "CANN's graph engine and operator compiler",
        is_code=True,
        is_soft=True,
    ),
    # Who waited in vain while links were made.
    _code("rank_missing", _V, "EI0006"),
    _code("rank_missing", _V, "EI0015"),
    _text(
        "rank_missing",
        _V,
        "HCCL's hccl_socket_manager.cc, p2p_mgmt.cc; torch's socket.cpp",
        r"LINK_ERROR_INFO|\bwait socket establish timeout\b|\bconnected p2p timeout\b|"
        r"\bclient socket has timed out\b",
        "link_error_info",
        "socket establish",
        "p2p timeout",
        "socket has timed out",
    ),
    # Who waited in vain for a collective operation.
    _code("rank_stuck", _V, "EI0002"),
    _code("rank_stuck", _V, "EE1002"),
    _numbers("rank_stuck", _V, 107020, 107022, 507046, 507047, 507048, 507057, 507904),
    _text(
        "rank_stuck",
        _V,
        "HCCL's task_exception_handler.cc; CANN's runtime",
        r"\bNotify register times out\b|\bWaiting peer rank: ?\d+|\bfrom remote rank:? ?\[|"
        r"\[TaskExecStage\]\[Timeout\]|\breason=\[?(?:task|stream sync|event sync|fftsplus) timeout",
        "notify register",
        "waiting peer rank",
        "from remote rank",
        "taskexecstage",
        " timeout",
    ),
    _text(
        "rank_stuck",
        _V,
        _MS,
        r"\b(?:SuspectRemoteError|ForceStopError|HCCEError) error occurs\b",
        "error occurs",
    ),
    # What HCCL's heartbeat says of another.
    Signature(
        "rank_stuck",
        _V,
        ("stuck occurred",),
        r"\bCluster Exception Location ?\[[^]]*\] ?:.*\bStuck Occurred\b",
        "HCCL's heartbeat.cc",
        is_code=True,
    ),
    Signature(
        "rank_lost",
        _V,
        ("cluster exception location", "crimer rank"),
        r"\bCluster Exception Location ?\[|(?:\blocal rank ?\[[^]]*\] ?: ?)?\bcrimer rank ?\[",
        "HCCL's heartbeat.cc",
        is_code=True,
    ),
    # Who has noticed that another is gone.
    _text(
        "rank_lost",
        _V,
        _MS,
        r"\bEnter mindio ttp exit process\b|\bKill this process with SIGTERM\b|\bTime out nodes are \[|"
        r"\b[Nn]ode:? ?\w+ is (?:the first one )?timed out\b|\btimed out node (?:is \d|list is)|"
        r"\bworker \d+ is the first one timed out\b",
        "mindio ttp",
        "with sigterm",
        "time out nodes",
        "timed out",
    ),
    _text("rank_lost", _V, "HCCL's heartbeat.cc", r"\bHeartbeat Lost Occurred\b", "heartbeat lost"),
    _text(
        "rank_lost",
        _V,
        "glibc, Gloo, gRPC",
        r"(?i)\bconnection (?:reset|closed|aborted) by (?:the )?(?:remote )?peer\b|\bbroken pipe\b|"
        r"连接被对方重[设置]|连接被对端重置|断开的管道",
        " by peer",
        " by the peer",
        " by remote peer",
        " by the remote peer",
        "broken pipe",
        "连接被",
        "断开的管道",
    ),
    _text(
        "rank_lost",
        _V,
        "words of training frameworks",
        r"(?i)\bpeer(?: rank)?(?:[: ]+\d+)?(?: \w+){0,2} (?:lost|gone|dead|disconnected)\b|"
        r"\blost (?:the |its )?(?:connection (?:to|with) )?(?:the |its )?(?:peer|rank \d+)\b|"
        r"\bconnection (?:to|with) (?:the )?(?:peer|rank)(?: \d+)? (?:is |was )?(?:lost|closed|reset)\b",
        "peer",
        "lost ",
        "connection to",
        "connection with",
    ),
)
