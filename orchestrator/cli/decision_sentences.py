"""The sentences for people about what was decided when an attempt had ended, in English and Chinese."""

from __future__ import annotations

import time
from collections.abc import Mapping

from orchestrator.cli.sentences import clock_text, worker_name
from orchestrator.config.host_ranges import fold
from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.core.number_ranges import fold_numbers

__all__ = ["GROUNDS", "decision_sentence", "is_told"]

GROUNDS: Mapping[Ground, tuple[str, str]] = {
    Ground.DONE: ("all its work is done", "任务已全部完成"),
    Ground.STOPPED: ("it was stopped", "任务被停止"),
    Ground.NO_RESTART: ("the job does not ask for restarts", "作业没有要求自动重启"),
    Ground.NOT_COVERED: ("`restart.on` does not name this kind of failure", "restart.on 不包含这类故障"),
    Ground.CONFIGURATION: ("it would fail again wherever it runs", "配置或程序有误，换主机也会再次失败"),
    Ground.MOST_ATTEMPTS: ("it has been restarted {times} within its window", "在时间窗口内已重启 {times}"),
    Ground.SAME_STEP: (
        "the attempt before ended in the same way{at_same_step}",
        "上一次也以同样的方式结束{at_same_step}",
    ),
    Ground.NO_PROGRESS: ("{attempts} have kept no new step", "{attempts}没有保存新的步"),
    Ground.TOO_FEW_HOSTS: ("too few hosts are left", "剩余主机太少"),
    Ground.CANNOT_START: ("the next attempt cannot be started", "无法启动下一次尝试"),
    Ground.CRASH: ("{who} failed{at_step}", "{who}失败{at_step}"),
    Ground.HANG: ("no rank made steps any more{at_step}", "所有进程停止前进{at_step}"),
    Ground.HOST_GONE: ("{host} is gone{at_step}", "{host} 已失联{at_step}"),
    Ground.HOST_STUCK: (
        "a process in state D holds the devices of {host}",
        "{host} 上处于 D 状态的进程占用设备",
    ),
    Ground.HOST_FAULT: ("the kernel or hardware of {host} is at fault", "{host} 的内核或硬件有故障"),
    Ground.DEVICE_AGAIN: ("{device} told of a fault that passes{code}", "{device}报告了可恢复的故障{code}"),
    Ground.DEVICE_OUT: ("{device} is faulty{code}", "{device}有故障{code}"),
    Ground.DEVICE_HELD: ("the last process still holds {device}", "{device}仍被上一个进程占用"),
    Ground.HOSTS_MISSING: ("hosts are missing{missing}", "缺少主机{missing}"),
    Ground.HOSTS_BACK: ("hosts that were missing are back", "缺少的主机已恢复"),
}
"""What each ground says, in English and Chinese; parts in braces are of the decision."""

# Where nothing was decided that one would not know.
_PLAIN = frozenset({Ground.DONE, Ground.STOPPED, Ground.NO_RESTART})
_LIKE_CAUSE = frozenset({Ground.CRASH, Ground.HOST_GONE})


def is_told(decision: Decision | None) -> bool:
    """Whether people are told of it: not that a run without restarts has ended."""
    return decision is not None and decision.ground not in _PLAIN


def decision_sentence(
    decision: Decision, lang: str = "en", *, now: float | None = None, brief: bool = False
) -> str:
    """`goes on with s1 in the place of b: b is gone at step 120 (restart 1 of 3)`; `now`: as of then.

    `brief`: without its ground where that is no more than the cause says, beside which it stands.
    """
    is_zh = lang == "zh"
    choice = _choice(decision, is_zh, time.time() if now is None else now)
    ground = GROUNDS[decision.ground][is_zh].format(**_parts(decision, is_zh)).strip()
    if brief and decision.choice.goes_on and decision.ground in _LIKE_CAUSE:
        return f"{choice}{_restart(decision, is_zh)}"
    return f"{choice}{'：' if is_zh else ': '}{ground}{_restart(decision, is_zh)}"


def _choice(decision: Decision, is_zh: bool, now: float) -> str:
    choice = decision.choice
    if choice is Choice.STOP:
        return "结束" if is_zh else "ends"
    if choice is Choice.GIVE_UP:
        return "放弃" if is_zh else "gives up"
    if choice is Choice.WAIT:
        until = clock_text(decision.not_before) if decision.not_before > now else ""
        if is_zh:
            return f"等待至 {until}" if until else "等待"
        return f"waits until {until}" if until else "waits"
    return f"{_where(decision, is_zh)}{_without(decision, is_zh)}"


def _where(decision: Decision, is_zh: bool) -> str:
    out, spares, count = fold(decision.out), fold(decision.spares), len(decision.hosts)
    if decision.choice is Choice.REPLACE and spares:
        if is_zh:
            return f"由 {spares} 替换 {out} 后继续" if out else f"使用备用主机 {spares} 继续"
        return f"goes on with {spares} in the place of {out}" if out else f"goes on with {spares}"
    if decision.choice is Choice.FEWER and count:
        if is_zh:
            return f"在 {count} 台主机上继续"
        left = f", without {out}" if out else ""
        return f"goes on with {count} host{'s' * (count != 1)}{left}"
    if decision.choice is Choice.AGAIN:
        return "在相同主机上继续" if is_zh else "goes on with the same hosts"
    return "在其他主机上继续" if is_zh else "goes on with other hosts"


def _without(decision: Decision, is_zh: bool) -> str:
    """The devices that are not used any more."""
    if not decision.devices_out:
        return ""
    devices = (f"{host}:{fold_numbers(ids)}" for host, ids in sorted(decision.devices_out.items()))
    named = ", ".join(devices)
    return f"，停用设备 {named}" if is_zh else f", without device {named}"


def _parts(decision: Decision, is_zh: bool) -> dict[str, str]:
    step, count = decision.step, decision.count
    device, times = _device(decision, is_zh), f"{count} 次" if is_zh else _times(count, "time")
    missing = f" {fold(decision.out)}" if decision.out else ""
    return {
        "who": _who(decision, is_zh),
        "host": decision.host or ("一台主机" if is_zh else "a host"),
        "device": device,
        "code": f" ({decision.code})" if decision.code else "",
        "at_step": "" if step is None else (f"（第 {step} 步）" if is_zh else f" at step {step}"),
        "at_same_step": "" if step is None else (f"（第 {step} 步）" if is_zh else f" at step {step}"),
        "times": times,
        "attempts": f"{count} 次尝试" if is_zh else _times(count, "attempt"),
        "missing": missing if is_zh else f":{missing}" if missing else "",
    }


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _who(decision: Decision, is_zh: bool) -> str:
    who = worker_name(decision.rank)
    if is_zh:
        where = f"{decision.host} 上" if decision.host else ""
        return f"{where}的 {who} " if who and where else f"{who or where or '进程'} "
    parts = [who or ("a worker" if decision.host else "a rank"), f"on {decision.host}" * bool(decision.host)]
    return " ".join(filter(None, parts))


def _device(decision: Decision, is_zh: bool) -> str:
    if decision.device is None:
        host = decision.host
        if is_zh:
            return f"{host} 的设备" if host else "设备"
        return f"a device of {host}" if host else "a device"
    if is_zh:
        return f"{decision.host} 的设备 {decision.device} "
    return f"device {decision.device} of {decision.host}"


def _restart(decision: Decision, is_zh: bool) -> str:
    """`(restart 1 of 3)`, of one that goes on."""
    if not decision.choice.goes_on or decision.count < 1 or decision.limit < decision.count:
        return ""
    count, limit = decision.count, decision.limit
    return f"（第 {count}/{limit} 次重启）" if is_zh else f" (restart {count} of {limit})"
