"""The account of a run's time as lines and as data: for what its hosts were used."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.cli.sentences import duration
from orchestrator.control.run_record import RunRecord
from orchestrator.control.time_account import TimeAccount, account_of_run

__all__ = ["PARTS", "account_data", "account_line", "run_account"]

PARTS: Mapping[str, tuple[str, str, str]] = {
    "productive": ("productive", "有效训练", "steps that count"),
    "lost": ("lost steps", "丢失的步", "steps that a failure has undone"),
    "waiting": ("waiting", "等待", "standing still, or for a slow host"),
    "restarting": ("restarting", "重启", "until the next attempt is started"),
    "saving": ("saving", "保存", "checkpoints"),
    "starting": ("starting", "启动", "until the first step"),
    "down": ("down", "停机", "between attempts that people started"),
    "unknown": ("not known", "未知", "nobody has noted it"),
}
"""Each part's name in English and Chinese, and what it is."""

_WORD = ("time", "时间")


def run_account(record: RunRecord) -> TimeAccount:
    """The account of a run until its record was last brought up to date, or until its end."""
    return account_of_run(record, record.updated)


def account_line(account: TimeAccount, lang: str = "en") -> str:
    """`time 3h 12m: productive 92.1%, lost steps 3.0%, …`; empty where it says nothing of steps."""
    if account.productive + account.lost <= 0:
        return ""
    is_zh = lang == "zh"
    parts = [
        f"{PARTS[name][is_zh]} {percent}%"
        for name, percent in _percents(account).items()
        if percent != "0.0" or name == "productive"
    ]
    head = f"{_WORD[is_zh]} {duration(account.whole)}"
    return f"{head}：{'，'.join(parts)}" if is_zh else f"{head}: {', '.join(parts)}"


def _percents(account: TimeAccount) -> dict[str, str]:
    """Tenths of a per cent of each part, which add up to 100.0: what is left over goes to those cut most."""
    parts, whole = account.parts(), account.whole
    exact = {name: 1000 * seconds / whole for name, seconds in parts.items()}
    tenths = {name: int(value) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: tenths[name] - exact[name])
    for name in by_rest[: 1000 - sum(tenths.values())]:
        tenths[name] += 1
    return {name: f"{tenths[name] / 10:.1f}" for name in parts}


def account_data(account: TimeAccount) -> dict[str, float]:
    """Seconds for each use, for `--json`; they add up to the whole."""
    return account.parts()
