"""A diagnosis as text, in English or Chinese, and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from orchestrator.cli.account_lines import account_data, account_line, run_account
from orchestrator.cli.decision_sentences import decision_sentence, is_told
from orchestrator.cli.live_view import duration
from orchestrator.cli.sentences import cause_sentence, ranks_text, stop_sentence
from orchestrator.cli.units import byte_size
from orchestrator.config.host_ranges import fold
from orchestrator.control.diagnose import Diagnosis
from orchestrator.control.support_bundle import Bundle
from orchestrator.core.codec import to_json
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.states import RunState
from orchestrator.core.visible_text import visible
from orchestrator.diagnosis.evidence import Cause, Certainty, Culprit, Proof
from orchestrator.diagnosis.signatures import KINDS

__all__ = ["bundle_lines", "diagnosis_data", "diagnosis_text"]

_MOST_PROOFS = 8
_MOST_SUSPECTS = 8
_MOST_SPANS = 8
_MOST_UNREAD = 6
_MOST_NAMED = 3
_MOST_GROUPS = 8
_MOST_DECIDED = 5
_LINE = 160
# Kinds of failure of which the stacks of the ranks tell more.
_WITH_STACKS = frozenset(
    {"hang", "rank_stuck", "rank_late", "process_stopped", "blocked_in_kernel", "collective_mismatch"}
)

_WORDS: Mapping[str, tuple[str, str]] = {
    "cause": ("Cause", "原因"),
    "sure": ("How sure", "确定程度"),
    "evidence": ("Evidence", "证据"),
    "victims": ("Only noticed it, or were ended for it", "仅受其影响的进程"),
    "suspects": ("Suspects", "可疑对象"),
    "remedy": ("What to do", "处理建议"),
    "before": ("Before", "历史"),
    "next": ("To go on", "继续运行"),
    "stacks": ("Stacks of all ranks", "所有进程的堆栈"),
    "stacks_now": ("Where the ranks are now", "各进程当前位置"),
    "decided": ("Decided", "决定"),
    "attempt": ("attempt {}", "第 {} 次尝试"),
    "unread": ("Not looked at", "未能读取"),
    "unknown": ("not known: the evidence does not suffice", "无法确定：证据不足"),
    "well": ("nothing says that this run does not go on", "没有迹象表明该任务异常"),
    "succeeded": ("it succeeded: there is nothing to diagnose", "任务已成功，无需诊断"),
    "stopped": ("it was stopped", "任务已被停止"),
    "not_started": ("no worker was started", "没有启动任何进程"),
    "scheduler": ("the scheduler", "调度进程"),
    "rank": ("rank", "进程 rank"),
    "device": ("device", "设备"),
    "more": ("and {} more", "另有 {} 条"),
    "kernel": ("kernel", "内核"),
}
_CERTAINTY = {
    Certainty.SURE: ("certain: the evidence shows it directly", "确定：有直接证据"),
    Certainty.LIKELY: ("likely: what others say leads to it alone", "很可能：其他证据都指向它"),
    Certainty.UNKNOWN: ("not known", "无法确定"),
}


def diagnosis_text(diagnosis: Diagnosis, lang: str) -> Text:
    """The cause in a line, how sure it is and on what evidence, who only noticed it, and what to do."""
    record, say = diagnosis.record, _Words(lang)
    took = duration((record.ended or record.updated) - record.created)
    text = Text(f"{record.run_id} {record.state} ({took})\n")
    if diagnosis.cause is None or diagnosis.is_well:
        _add(text, say, "cause" if record.state is RunState.FAILED else "", _without_cause(diagnosis, say))
        for line in record.errors[:_MOST_PROOFS]:
            text.append(f"  | {_cut(line)}\n")
    else:
        _add_cause(text, say, diagnosis, diagnosis.cause)
    for line in _decided(diagnosis, say):
        text.append(f"{line}\n")
    if diagnosis.stacks_now:
        _add(text, say, "stacks_now", "")
        for line in _stack_lines(diagnosis, say):
            text.append(f"  {line}\n")
    unread = list(_unread(diagnosis))
    if unread:
        _add(text, say, "unread", "")
        for line in unread[:_MOST_UNREAD]:
            text.append(f"  {_cut(line)}\n")
        if len(unread) > _MOST_UNREAD:
            text.append(f"  {say('more').format(len(unread) - _MOST_UNREAD)}\n")
    text.rstrip()
    return text


class _Words:
    """The words of one language."""

    def __init__(self, lang: str) -> None:
        self.lang = lang

    def __call__(self, name: str) -> str:
        return _WORDS[name][self.lang == "zh"]

    def kind(self, cause: Cause) -> str:
        found = KINDS.get(cause.kind)
        if found is None:
            return cause.kind
        return found.name_zh if self.lang == "zh" else found.name_en

    def remedy(self, cause: Cause) -> str:
        found = KINDS.get(cause.kind)
        if found is None:
            return ""
        return found.remedy_zh if self.lang == "zh" else found.remedy_en

    def certainty(self, cause: Cause) -> str:
        return _CERTAINTY[cause.certainty][self.lang == "zh"]

    def who(self, culprit: Culprit) -> str:
        """`node3, rank 17, device 1`."""
        parts = [culprit.host]
        if culprit.rank == SCHEDULER:
            parts.append(self("scheduler"))
        elif culprit.rank is not None:
            parts.append(f"{self('rank')} {culprit.rank}")
        if culprit.device is not None:
            parts.append(f"{self('device')} {culprit.device}")
        return ", ".join(filter(None, parts))


def _add(text: Text, say: _Words, name: str, rest: str, style: str = "") -> None:
    if name:
        text.append(f"{say(name)}:{' ' if rest else ''}", style=f"bold {style}".strip())
    text.append(f"{rest}\n", style=style)


def _add_cause(text: Text, say: _Words, diagnosis: Diagnosis, cause: Cause) -> None:
    _add(text, say, "cause", cause_line(cause, say.lang), "red")
    _add(text, say, "sure", say.certainty(cause))
    if cause.proofs:
        _add(text, say, "evidence", "")
        for proof in cause.proofs[:_MOST_PROOFS]:
            text.append(f"  {_proof(proof, say)}\n")
        if len(cause.proofs) > _MOST_PROOFS:
            text.append(f"  {say('more').format(len(cause.proofs) - _MOST_PROOFS)}\n")
    if cause.suspects:
        names = [say.who(each) for each in cause.suspects[:_MOST_SUSPECTS]]
        rest = len(cause.suspects) - len(names)
        _add(text, say, "suspects", "; ".join([*names, *[say("more").format(rest)] * bool(rest)]))
    if cause.victims:
        _add(text, say, "victims", ranks_text(cause.victims, most=_MOST_SPANS))
    if remedy := say.remedy(cause):
        _add(text, say, "remedy", remedy)
    for line in _history(diagnosis, cause, say):
        _add(text, say, "before", line)
    _add(text, say, "next", _resume(diagnosis))
    if diagnosis.stacks is not None and cause.kind in _WITH_STACKS:
        _add(text, say, "stacks", str(diagnosis.stacks))


def cause_line(cause: Cause, lang: str) -> str:
    """`out of device memory: node3, rank 17, device 1 (EL0004)`."""
    say = _Words(lang)
    who = say.who(cause.culprit) if cause.culprit is not None else ""
    what = say.kind(cause)
    if cause.certainty is Certainty.UNKNOWN and what == cause.kind:
        what = say("unknown")
    code = f" ({cause.code})" if cause.code and cause.code not in what else ""
    return f"{what}: {who}{code}" if who else f"{what}{code}"


def _proof(proof: Proof, say: _Words) -> str:
    where = [proof.host] if proof.host else []
    if proof.rank is not None:
        where.append(say.who(Culprit(rank=proof.rank)))
    where.append(say("kernel") if proof.source == "kernel" else proof.source)
    return f"{', '.join(filter(None, where))} | {_cut(proof.text)}"


def _history(diagnosis: Diagnosis, cause: Cause, say: _Words) -> Iterator[str]:
    """How often it was the cause before, where it was."""
    history, culprit = diagnosis.history, cause.culprit
    if culprit is None or not history.of_host:
        return
    names = ", ".join(list(dict.fromkeys(history.of_host))[:_MOST_NAMED])
    device = say.who(Culprit(device=culprit.device)) if culprit.device is not None else ""
    count, of_device = len(history.of_host), len(history.of_device)
    if say.lang == "zh":
        of = f"，其中 {of_device} 次为{device}" if device and of_device else ""
        yield f"此前 {history.attempts} 次运行中，{culprit.host} 有 {count} 次是原因{of}（{names}）"
    else:
        of = f", {of_device} of them its {device}" if device and of_device else ""
        attempts = f"{history.attempts} attempt{'s' * (history.attempts != 1)}"
        yield f"{culprit.host} was the cause of {count} of the {attempts} before this one{of} ({names})"


def _decided(diagnosis: Diagnosis, say: _Words) -> Iterator[str]:
    """What was decided at the ends of the last attempts, and for what all of them used their time."""
    told = [attempt for attempt in diagnosis.record.attempts if is_told(attempt.decision)]
    if told:
        yield f"{say('decided')}:"
    for attempt in told[-_MOST_DECIDED:]:
        what = decision_sentence(attempt.decision, say.lang) if attempt.decision is not None else ""
        yield f"  {say('attempt').format(attempt.number)}: {what}"
    if line := account_line(run_account(diagnosis.record), say.lang):
        yield f"{line[0].upper()}{line[1:]}"


def _without_cause(diagnosis: Diagnosis, say: _Words) -> str:
    record = diagnosis.record
    if record.state is RunState.SUCCEEDED:
        return say("succeeded")
    if record.state is RunState.STOPPED:
        stops = [view.status.stop for view in record.hosts.values() if view.status is not None]
        why = next((stop_sentence(stop) for stop in stops if stop is not None), "")
        return f"{say('stopped')}: {why}" if why else say("stopped")
    if not record.has_started and record.state.is_terminal:
        return say("not_started")
    if record.cause is not None:
        return cause_sentence(record.cause)
    return say("well")


def _stack_lines(diagnosis: Diagnosis, say: _Words) -> Iterator[str]:
    """A line for each group of ranks whose stacks are alike."""
    groups = diagnosis.stacks_now
    for group in groups[:_MOST_GROUPS]:
        where = group.where or next(iter(group.state.splitlines()), "?")
        yield f"{ranks_text(group.ranks, most=_MOST_SPANS)}: {_cut(where)} ({visible(group.how)})"
    if len(groups) > _MOST_GROUPS:
        yield say("more").format(len(groups) - _MOST_GROUPS)


def _unread(diagnosis: Diagnosis) -> Iterator[str]:
    """What could not be looked at, the same of several hosts once."""
    by_line: dict[str, list[str]] = {}
    for host, lines in diagnosis.unread.items():
        for line in lines:
            by_line.setdefault(line, []).append(host)
    for line, hosts in by_line.items():
        yield f"{fold(hosts)}: {line}"


def _resume(diagnosis: Diagnosis) -> str:
    """The command that goes on; a run that hangs holds its hosts until it is stopped."""
    name = diagnosis.record.run_id
    resume = f"orchestrate resume {name}"
    return resume if diagnosis.record.state.is_terminal else f"orchestrate stop {name} && {resume}"


def _cut(line: str) -> str:
    line = visible(line.strip())
    return line if len(line) <= _LINE else f"{line[: _LINE - 3]}..."


def bundle_lines(bundle: Bundle) -> Sequence[str]:
    """What is told of a bundle, a line each: what was left out, what was masked."""
    lines = [f"{bundle.path}: {bundle.files} files, {byte_size(bundle.nbytes)}"]
    count = sum(bundle.masked.values())
    names = ", ".join(bundle.masked)
    lines.append(f"masked: {count} occurrence(s) of values of env{f' ({names})' if names else ''}")
    if bundle.beside:
        lines.append(
            f"values of {', '.join(bundle.beside)} are too short or common: masked beside their names only"
        )
    lines += [f"left out: {line}" for line in bundle.left_out]
    return lines


def diagnosis_data(diagnosis: Diagnosis, lang: str) -> dict[str, Any]:
    """The diagnosis for `--json`: names and remedies in the language of the locale, all else in none."""
    record, say, cause = diagnosis.record, _Words(lang), diagnosis.cause
    data: dict[str, Any] = {
        "run_id": record.run_id,
        "state": str(record.state),
        "attempt": record.attempts[-1].number,
        "exit_code": record.exit_code,
        "cause": None,
        "decisions": [
            {
                "attempt": attempt.number,
                **to_json(attempt.decision),
                "sentence": decision_sentence(attempt.decision, lang),
            }
            for attempt in record.attempts
            if attempt.decision is not None
        ],
        "account": account_data(run_account(record)),
        "errors": list(record.errors),
        "stacks_now": [
            {"ranks": list(group.ranks), "how": group.how, "where": group.where, "text": group.text}
            for group in diagnosis.stacks_now
        ],
        "unread": {host: list(lines) for host, lines in diagnosis.unread.items()},
        "unreachable": {host: str(error) for host, error in diagnosis.errors.items()},
        "resume": _resume(diagnosis) if diagnosis.cause is not None and not diagnosis.is_well else None,
    }
    if cause is not None and not diagnosis.is_well:
        data["cause"] = {
            **to_json(cause),
            "name": say.kind(cause),
            "sentence": cause_line(cause, lang),
            "remedy": say.remedy(cause),
            "victims": [label_of(rank) for rank in cause.victims],
        }
        data["history"] = to_json(diagnosis.history)
        data["stacks"] = None if diagnosis.stacks is None else str(diagnosis.stacks)
    return data
