"""The kinds of failure: their names, what is at fault, and the remedy, in English and Chinese. Data only.

Which lines of logs tell of which kind is in `core/signature_table`, which of kernels in
`diagnosis/kernel_signatures`, which codes of devices in `diagnosis/device_codes`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["KINDS", "Kind", "Place"]


class Place(enum.StrEnum):
    """What is at fault, and so what a new attempt should do without, or change."""

    HOST = "host"
    DEVICE = "device"
    LINK = "link"
    JOB = "job"  # the job, its program, data or settings: it fails again wherever it runs
    PROCESS = "process"  # one process, for a reason that lies outside of it or is not known
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of failure. `wait`: so many seconds must pass before a new attempt can succeed."""

    place: Place
    name_en: str
    name_zh: str
    remedy_en: str
    remedy_zh: str
    wait: float = 0.0


_H, _D, _L, _J, _P, _N = Place.HOST, Place.DEVICE, Place.LINK, Place.JOB, Place.PROCESS, Place.NOBODY

KINDS: dict[str, Kind] = {
    # Hosts.
    "host_lost": Kind(
        _H,
        "the host is gone",
        "主机失联",
        "see whether it has power and network; go on without it, or on a spare",
        "检查该主机的电源和网络；去掉该主机或换用备用主机后继续",
    ),
    "host_rebooted": Kind(
        _H,
        "the host was restarted",
        "主机被重启",
        "find out why it was restarted (journalctl --list-boots, BMC); then go on",
        "查明重启原因（journalctl --list-boots、BMC 日志）后继续",
    ),
    "supervisor_gone": Kind(
        _H,
        "the supervisor of the host is gone",
        "该主机的监管进程消失",
        "find out who killed it (dmesg, audit, a clean-up script), then go on",
        "查明是谁终止了它（dmesg、审计日志、清理脚本）后继续",
    ),
    "supervisor_silent": Kind(
        _H,
        "the host's supervisor does not run",
        "该主机的监管进程没有运行",
        "see its process there (ps; kill -CONT lets a stopped one go on), its disk, processors and memory",
        "查看该主机上的监管进程（ps；若被暂停可用 kill -CONT 使其继续）、磁盘、CPU 和内存",
    ),
    "run_directory_removed": Kind(
        _H,
        "the run's directory was removed on the host",
        "该主机上的运行目录被删除",
        "find out who removed it (a clean-up script?), then go on",
        "查明是谁删除的（清理脚本？）后继续",
    ),
    "launch_lapsed": Kind(
        _P,
        "the launch broke off before every host had started",
        "启动在所有主机就绪前中断",
        "launch again; see why the control node went away meanwhile",
        "重新启动；检查控制节点当时为何中断",
    ),
    "host_fault": Kind(
        _H,
        "the host's processor, memory or bus has a fault",
        "主机处理器、内存或总线故障",
        "take the host out and have it repaired; go on on a spare",
        "下线并维修该主机，换用备用主机后继续",
    ),
    "blocked_in_kernel": Kind(
        _H,
        "the process is blocked in the kernel",
        "进程阻塞在内核中（D 状态）",
        "see which disk, file system or device hangs (dmesg); kill -9 does not help, a restart may",
        "检查是哪块磁盘、文件系统或设备挂起（dmesg）；kill -9 无效，可能需要重启主机",
    ),
    "host_out_of_memory": Kind(
        _H,
        "out of memory: the kernel killed the process",
        "主机内存不足，进程被内核终止（OOM）",
        "use fewer data workers, smaller buffers or fewer ranks there, or end what else uses its memory",
        "减少数据处理进程、缓冲区或该主机上的进程数，或停止占用内存的其他程序",
    ),
    "cgroup_out_of_memory": Kind(
        _H,
        "out of memory: the limit of the cgroup was reached",
        "达到 cgroup 内存上限，进程被终止（OOM）",
        "raise the memory limit of the cgroup or container, or use fewer data workers",
        "提高 cgroup 或容器的内存上限，或减少数据处理进程",
    ),
    "host_memory_error": Kind(
        _H,
        "out of memory: an allocation on the host failed",
        "主机内存分配失败",
        "use fewer data workers or smaller buffers; see what else uses memory, and ulimit -v",
        "减少数据处理进程或缓冲区；检查其他占用内存的程序及限制（ulimit -v、cgroup）",
    ),
    "shared_memory_full": Kind(
        _H,
        "shared memory (/dev/shm) is full",
        "共享内存（/dev/shm）已满",
        "make /dev/shm larger (mount -o remount,size=…; docker --shm-size), or use fewer data workers",
        "增大 /dev/shm（mount -o remount,size=…；docker --shm-size），或减少数据处理进程",
    ),
    "disk_full": Kind(
        _H,
        "no space left on the disk",
        "磁盘空间不足",
        "free space there (`orchestrate runs rm`, old checkpoints; inodes and quota count too), then go on",
        "清理空间（`orchestrate runs rm`、旧检查点；注意 inode 与配额）后继续",
    ),
    "disk_fault": Kind(
        _H,
        "the disk or its file system has a fault",
        "磁盘或文件系统故障",
        "see dmesg and smartctl, check the file system or the mount; go on on a spare",
        "查看 dmesg 与磁盘状态（smartctl），检查文件系统或挂载；换用备用主机后继续",
    ),
    # Devices and links.
    "device_fault": Kind(
        _D,
        "the device has a fault",
        "NPU 故障",
        "do without it until an operator has reset or replaced it (npu-smi info -t health -i N -c C)",
        "在运维复位或更换之前不要使用该设备或主机（npu-smi info -t health -i N -c C）",
    ),
    "device_lost": Kind(
        _D,
        "the device no longer answers",
        "NPU 心跳丢失",
        "see npu-smi info and dmesg; the host must be restarted, or the card replaced",
        "查看 npu-smi info 与 dmesg；需要重启主机或更换板卡",
    ),
    "device_memory_fault": Kind(
        _D,
        "the device's memory (HBM) has a fault",
        "NPU 内存（HBM）多比特 ECC 错误",
        "start again; if it happens twice in 24 h, or the isolated pages are full, have it replaced",
        "重新启动；若同一设备 24 小时内再次发生或隔离页已满，则更换",
    ),
    "device_out_of_memory": Kind(
        _J,
        "out of memory of the device",
        "NPU 显存不足",
        "use a smaller batch, more sharding or recomputation (`orchestrate plan --suggest`), or end what "
        "else uses the device",
        "减小 batch、增加切分或重计算（`orchestrate plan --suggest`），或停止占用该设备的其他进程",
    ),
    "device_task_failed": Kind(
        _D,
        "a task failed on the device",
        "NPU 上的任务执行异常",
        "start again; if the same device fails again, run without it; if another one does, it is the "
        "operator: see its plog",
        "重新启动；若同一设备再次失败则去掉它；若换设备仍失败则为算子问题，查看 plog",
    ),
    "device_in_use": Kind(
        _D,
        "the device is still held by the last process",
        "NPU 仍被上一个进程占用",
        "wait for 10 s after its processes have ended, and start again; npu-smi info shows who holds it",
        "结束原进程后等待 10 秒再启动；用 npu-smi info 查看占用者",
        wait=10.0,
    ),
    "device_unavailable": Kind(
        _D,
        "the device cannot be opened",
        "无法打开 NPU",
        "see npu-smi info: is it there, healthy, visible to this user and container, and free?",
        "用 npu-smi info 检查设备是否存在、健康、对该用户和容器可见且空闲",
    ),
    "network_port_down": Kind(
        _D,
        "the network port of the device is down",
        "NPU 网口断开（link down）",
        "see hccn_tool -i N -link_stat -g, the optical module, the cable and the switch port",
        "查看 hccn_tool -i N -link_stat -g，检查光模块、线缆和交换机端口",
    ),
    "link_fault": Kind(
        _L,
        "the link between two devices failed",
        "两个 NPU 之间的链路故障",
        "see hccn_tool -link_stat -g and -stat -g of both ends, and the switch between them",
        "查看两端的 hccn_tool -link_stat -g 与 -stat -g，以及中间的交换机",
    ),
    # Settings.
    "port_taken": Kind(
        _H,
        "a port is taken",
        "端口被占用",
        "end the process that holds it (ss -ltnp), or reserve HCCL's (net.ipv4.ip_local_reserved_ports)",
        "结束占用端口的进程（ss -ltnp），或保留 HCCL 端口（net.ipv4.ip_local_reserved_ports）",
        wait=10.0,
    ),
    "setting_wrong": Kind(
        _J,
        "an environment variable or setting of HCCL is wrong",
        "HCCL 环境变量或配置错误",
        "set it as the message says (`env:` of the job or inventory)",
        "按提示修改（任务或清单中的 `env:`）",
    ),
    "rank_table": Kind(
        _J,
        "the rank table is wrong",
        "rank table 错误",
        "run `orchestrate rank-table validate`, or leave the table to orchestrate",
        "运行 `orchestrate rank-table validate`，或由 orchestrate 生成",
    ),
    "tls_mismatch": Kind(
        _H,
        "TLS of device networks is not the same everywhere",
        "各 NPU 的 TLS 开关不一致",
        "set it alike on all devices: hccn_tool -i N -tls -s enable 0",
        "在所有设备上统一设置：hccn_tool -i N -tls -s enable 0",
    ),
    "version_mismatch": Kind(
        _H,
        "versions of CANN differ between ranks",
        "各进程 CANN 版本不一致",
        "install the same CANN everywhere (`orchestrate check`)",
        "在所有主机上安装相同版本的 CANN（`orchestrate check`）",
    ),
    "collective_mismatch": Kind(
        _J,
        "ranks called different collective operations",
        "各进程的集合通信调用不一致",
        "are code, settings and number of samples the same on all ranks? Look for branches by rank",
        "检查各进程的代码、配置和样本数是否一致，是否有依赖 rank 的分支",
    ),
    "resources_used_up": Kind(
        _D,
        "streams, notifies or processes of the device are used up",
        "NPU 资源（流、notify、进程数）耗尽",
        "end what else uses the device; use fewer communicators",
        "停止占用该设备的其他进程；减少通信域",
    ),
    # Programs and processes.
    "program_error": Kind(
        _J,
        "an error in the program, its settings or its data",
        "程序、配置或数据错误",
        "see the traceback in the rank's log; it will fail again until that is changed",
        "查看该进程日志中的堆栈；修改之前会再次失败",
    ),
    "not_started": Kind(
        _J,
        "the program could not be started",
        "程序无法启动",
        "is the file there and executable on that host (`sync`, `python:`)?",
        "检查该主机上程序是否存在且可执行（`sync`、`python:`）",
    ),
    "crashed": Kind(
        _P,
        "the process crashed in native code",
        "进程在本地代码中崩溃",
        "see its log and a core file; start again, and if it crashes again look at the newest change",
        "查看日志与 core 文件；重新启动，若再次崩溃则检查最近的修改",
    ),
    "killed": Kind(
        _P,
        "the process was killed (SIGKILL), and nothing says by whom",
        "进程被强制终止（SIGKILL），无法确定来源",
        "the kernel's log may say more (dmesg as root); ask who works on that host; then go on",
        "内核日志可能有更多信息（root 执行 dmesg）；询问该主机的使用者后继续",
    ),
    "terminated": Kind(
        _P,
        "the process was told to end (SIGTERM) by nobody of this run",
        "进程收到非本任务发出的 SIGTERM",
        "ask who or what ends processes on that host (a person, a scheduler, a clean-up script); then go on",
        "查明该主机上谁在终止进程（人员、调度器、清理脚本）后继续",
    ),
    "exited": Kind(
        _P,
        "the process ended without saying why",
        "进程退出但未说明原因",
        "see the end of its log",
        "查看其日志末尾",
    ),
    "process_stopped": Kind(
        _P,
        "the process is stopped by a signal or a debugger",
        "该进程被信号或调试器暂停",
        "kill -CONT with its pid (`orchestrate status`) lets it go on; find out who stopped it",
        "对其 pid（见 `orchestrate status`）执行 kill -CONT 可使其继续；查明是谁暂停了它",
    ),
    # What others say of a rank.
    "rank_stuck": Kind(
        _P,
        "the rank did not come to a collective operation",
        "该进程未到达集合通信",
        "see what it does or did last: its log, its stacks (`orchestrate diagnose`), its data and its device",
        "查看它最后在做什么：日志、堆栈（`orchestrate diagnose`）、数据与设备",
    ),
    "rank_lost": Kind(
        _P,
        "the rank no longer answered the others",
        "该进程不再应答",
        "was it frozen, or cut off? See its log, dmesg and the network of its host",
        "它是否被冻结或断网？查看日志、dmesg 与该主机网络",
    ),
    "rank_missing": Kind(
        _P,
        "the rank did not join while links were made",
        "该进程未参与建链",
        "see its log; is it slow to start (HCCL_CONNECT_TIMEOUT), or is a firewall or TLS in the way?",
        "查看其日志；是否启动过慢（HCCL_CONNECT_TIMEOUT）、被防火墙阻断或 TLS 不一致",
    ),
    "rank_late": Kind(
        _P,
        "the rank came later than the others wait",
        "该进程到达过晚，超过等待时间",
        "find out what kept it (data, a save, compiling), or raise HCCL_EXEC_TIMEOUT or HCCL_CONNECT_TIMEOUT",
        "查明延迟原因（数据、保存、编译），或增大 HCCL_EXEC_TIMEOUT、HCCL_CONNECT_TIMEOUT",
    ),
    # The run as a whole.
    "hang": Kind(
        _P,
        "no rank makes steps",
        "所有进程均无进展",
        "see the stacks of the ranks (`orchestrate diagnose`)",
        "查看各进程的堆栈（`orchestrate diagnose`）",
    ),
    "stopped": Kind(_N, "it was stopped by hand", "被人为停止", "go on when you like", "可随时继续"),
    "unknown": Kind(
        _N,
        "the cause is not known",
        "原因未知",
        "look at the suspects first; `orchestrate diagnose --bundle FILE` packs what support needs",
        "先检查可疑对象；`orchestrate diagnose --bundle FILE` 可打包支持所需信息",
    ),
}
