"""The table of decisions for people: what each row of `decide.ROWS` is about, in English and Chinese. Data.

The table in docs/guides/a-run-that-survives.md is `table_text`; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.decisions import Ground
from orchestrator.recovery.decide import ROWS

__all__ = ["TEXTS", "RowText", "table_text"]


@dataclass(frozen=True, slots=True)
class RowText:
    """One row: when it applies, and what is done then."""

    when_en: str
    then_en: str
    when_zh: str
    then_zh: str


TEXTS: dict[Ground, RowText] = {
    Ground.DONE: RowText(
        "all ranks have succeeded",
        "the run has ended",
        "所有进程均成功结束",
        "任务结束",
    ),
    Ground.STOPPED: RowText(
        "somebody stopped it",
        "the run has ended; `orchestrate resume` goes on with it",
        "被人为停止",
        "任务结束；可用 `orchestrate resume` 继续",
    ),
    Ground.NO_RESTART: RowText(
        "`restart.max` is 0",
        "the run has ended; `orchestrate resume` goes on with it",
        "`restart.max` 为 0",
        "任务结束；可用 `orchestrate resume` 继续",
    ),
    Ground.CANNOT_START: RowText(
        "a launch came to nothing: the first one, one that was refused for a reason that does not pass, or "
        "the second in a row while no host is missing",
        "it gives up",
        "启动失败：首次启动失败、因不会自行消失的原因被拒绝，或主机齐全时连续第二次启动失败",
        "放弃",
    ),
    Ground.CONFIGURATION: RowText(
        "the job, its program, its data or its settings are at fault (an exception of the program, out of "
        "memory of the device, a program that cannot be started; before the first step an exit by 2, 64, 78, "
        "126 or 127)",
        "it gives up: it would fail again wherever it runs",
        "任务、程序、数据或配置有误（程序异常、NPU 显存不足、程序无法启动；"
        "第一步之前以 2、64、78、126 或 127 退出）",
        "放弃：在任何主机上都会再次失败",
    ),
    Ground.NOT_COVERED: RowText(
        "`restart.on` does not have this kind of failure",
        "it gives up",
        "`restart.on` 不包含此类故障",
        "放弃",
    ),
    Ground.SAME_STEP: RowText(
        "it ended in the same way at the same step as the attempt before, and nobody is taken out for it; "
        "the loss of a host and a signal from outside do not count, nor what passes by waiting",
        "it gives up",
        "与上一次尝试在同一步以同样方式结束，且没有主机或 NPU 因此被移除"
        "（主机失联、外部信号以及等待即可消除的原因不计）",
        "放弃",
    ),
    Ground.NO_PROGRESS: RowText(
        "three attempts in a row kept no step beyond the one that they began with (of failures of hosts and "
        "devices six)",
        "it gives up",
        "连续三次尝试都没有保存新的步（主机和 NPU 故障为六次）",
        "放弃",
    ),
    Ground.MOST_ATTEMPTS: RowText(
        "it was restarted `restart.max` times within `restart.window`",
        "it gives up",
        "在 `restart.window` 内已重启 `restart.max` 次",
        "放弃",
    ),
    Ground.HOSTS_MISSING: RowText(
        "a host does not answer, and is not known to be gone; or there are too few hosts, and `restart.wait` "
        "is not over",
        "it waits, and is judged again when a host is back, at the latest when the time is over",
        "有主机无应答但尚未确认失联；或主机不足且 `restart.wait` 未到",
        "等待；主机恢复或超时后重新判断",
    ),
    Ground.TOO_FEW_HOSTS: RowText(
        "with spares, and with as few hosts as `restart.min_hosts` and the layout allow, there are too few",
        "it gives up",
        "即使使用备用主机并减至 `restart.min_hosts` 和切分所允许的数量，主机仍不足",
        "放弃",
    ),
    Ground.DEVICE_HELD: RowText(
        "the device is still held by the last process (EJ0001)",
        "again, 10 s after the end",
        "NPU 仍被上一个进程占用（EJ0001）",
        "结束 10 秒后重试",
    ),
    Ground.HOSTS_BACK: RowText(
        "hosts that were missing are there again",
        "again, with them",
        "失联的主机已恢复",
        "与其一起继续",
    ),
    Ground.HOST_STUCK: RowText(
        "a process in state D does not end on a host",
        "again without that host",
        "某主机上有处于 D 状态、无法结束的进程",
        "去掉该主机后继续",
    ),
    Ground.HOST_GONE: RowText(
        "a host is gone, or was and is back, or could not be reached by a launch",
        "again: a spare takes its place; without one the host itself if it is back, else fewer hosts",
        "主机失联（或已恢复，或启动时无法连接）",
        "由备用主机代替；没有备用时，若已恢复则仍用该主机，否则用更少的主机",
    ),
    Ground.DEVICE_OUT: RowText(
        "the fault code of a device asks for a reset or its replacement, or has come as often as it may; or "
        "the device is faulty, or failed for the second time",
        "again on another device of the host where one is free, else on another host",
        "NPU 故障码要求复位或更换，或出现次数达到上限；或 NPU 故障、第二次失败",
        "换用该主机上空闲的其他 NPU，否则换主机",
    ),
    Ground.HOST_FAULT: RowText(
        "the host has a fault of its own, cannot be used, or was named for the second time",
        "again: a spare takes its place, or fewer hosts go on; without either it stays, where it can be used",
        "主机自身故障、无法使用，或第二次被指认",
        "由备用主机代替或减少主机；两者都不可行且主机仍可用时保留",
    ),
    Ground.DEVICE_AGAIN: RowText(
        "a device failed, and its fault code asks for no more than a new start",
        "again on the same devices",
        "NPU 故障，其故障码只要求重新启动",
        "在相同的 NPU 上重试",
    ),
    Ground.HANG: RowText(
        "no rank made steps, and two sets of stacks half a limit apart were equal",
        "again on the same hosts",
        "所有进程均无进展，且相隔半个时限的两次堆栈相同",
        "在相同的主机上重试",
    ),
    Ground.CRASH: RowText(
        "anything else: a process failed",
        "again on the same hosts",
        "其他情况：进程失败",
        "在相同的主机上重试",
    ),
}


def table_text(language: str = "en") -> str:
    """The table as Markdown, a line for each row in its order; `language` is en or zh."""
    if language == "zh":
        head, texts = "| | 情况 | 决定 | 依据 |", [(text.when_zh, text.then_zh) for text in _in_order()]
    else:
        head, texts = "| | when | then | ground |", [(text.when_en, text.then_en) for text in _in_order()]
    lines = [
        f"| {number} | {when} | {then} | `{row.ground}` |"
        for number, (row, (when, then)) in enumerate(zip(ROWS, texts, strict=True), 1)
    ]
    return "\n".join([head, "|---|---|---|---|", *lines])


def _in_order() -> list[RowText]:
    return [TEXTS[row.ground] for row in ROWS]
