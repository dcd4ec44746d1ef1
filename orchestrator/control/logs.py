"""The logs of a run: which there are, and copies of them. What reads them line by line is `log_stream`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from orchestrator.config.host_ranges import fold
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import PlogList
from orchestrator.core.paths import replacing
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["all_labels", "copy_logs", "labels_of"]

_BLOCK = 1 << 20
# CANN's logs run to 200 MB a process: what is asked about stands at their ends.
_PLOG_END = 4 << 20
_MOST_PLOG_BYTES = 256 << 20
# As much as is copied of one log.
_MOST_LOG_BYTES = 64 << 30
_LONGEST_NAME = 255  # of a file, in bytes (NAME_MAX)


def labels_of(plan: LaunchPlan, ranks: Sequence[int] | None, host: str | None) -> dict[str, list[str]]:
    """Which logs of which host are asked for; hosts without any are left out."""
    wanted: dict[str, list[str]] = {}
    for placement in plan.placements:
        if (ranks is None or placement.rank in ranks) and host in (None, placement.host):
            wanted.setdefault(placement.host, []).append(label_of(placement.rank))
    return wanted


def all_labels(plan: LaunchPlan) -> dict[str, list[str]]:
    """The logs of each host: those of its ranks, then the scheduler's."""
    labels = labels_of(plan, None, None)
    for name, manifest in plan.manifests.items():
        if manifest.scheduler is not None:
            labels.setdefault(name, []).append(label_of(SCHEDULER))
    return labels


def copy_logs(plan: LaunchPlan, fleet: Fleet, folder: Path, *, without: Collection[str] = ()) -> list[str]:
    """Every worker's log, as it is now, as `<label>.log` into `folder`. Raises where a host gives none.

    CANN's own logs, where they lie in the run, become `plog+<label>+….log` beside them: the end of each, and
    of each host no more than a bound. Hosts `without` are not asked. Returns what was left out, by host.
    """
    labels = labels_of(plan, None, None)
    if any(manifest.scheduler for manifest in plan.manifests.values()):
        labels[plan.master.name] = [*labels[plan.master.name], label_of(SCHEDULER)]

    def copy(agent: Agent) -> str:
        for label in labels[agent.host]:
            _copy_log(agent, plan.run_id, label, folder / f"{label}.log")
        return _copy_plogs(agent, plan.run_id, labels[agent.host], folder)

    left = [f"{host}: its logs are not there: it could not be asked" for host in labels if host in without]
    asked = [host for host in labels if host not in without]
    return [*left, *filter(None, fleet.each(copy, asked).raise_on_error().values())]


def _copy_plogs(
    agent: Agent,
    run_id: str,
    labels: Sequence[str],
    folder: Path,
    *,
    end: int = _PLOG_END,
    most: int = _MOST_PLOG_BYTES,
) -> str:
    """Copy the last `end` bytes of each log, `most` in all. What was left out; empty if nothing was."""
    files, skipped = _plogs(agent.list_plogs(run_id), labels)
    left, cut = most, Counter[str]()
    for path, size in files:
        label = path.partition("/")[0]
        wanted, name = min(size, end), f"plog+{path.replace('/', '+')}"  # no name of CANN's has a +
        if wanted > left or len(name) > _LONGEST_NAME:
            skipped[label] += 1
            continue
        try:
            data = agent.read_plog(run_id, path, wanted)
        except AgentError:  # CANN has removed it since, or it cannot be read
            skipped[label] += 1
            continue
        (folder / name).write_bytes(data)
        left -= wanted
        cut[label] += size > wanted
    cut += Counter()  # without those of which nothing was
    if not cut and not skipped:
        return ""
    return (
        f"{agent.host}: of CANN's logs {_counted(skipped)} were left out, "
        f"and of {_counted(cut)} only the end was taken"
    )


def _counted(counts: Counter[str]) -> str:
    """`3 (rank_[0-1])`: whose they are, so that it is known whose logs are not whole."""
    named = fold(sorted(label for label in counts if label))
    whose = ", ".join(filter(None, [named, "others" if counts[""] else ""]))
    return f"{counts.total()} ({whose})" if whose else "0"


def _plogs(listed: PlogList, labels: Sequence[str]) -> tuple[list[tuple[str, int]], Counter[str]]:
    """The logs of a host's own workers, and how many others there are of each label; "" for those of none."""
    files: list[tuple[str, int]] = []
    others: Counter[str] = Counter()
    for label, count in listed.left.items():
        others[label if label in labels else ""] += count
    for file in listed.files:
        if file.path.partition("/")[0] in labels:
            files.append((file.path, file.size))
        else:
            others[""] += 1
    return files, others


def _copy_log(agent: Agent, run_id: str, label: str, path: Path) -> None:
    """A log that grows meanwhile is copied as long as it was when it was first asked for."""
    with replacing(path) as file:  # one that was brought earlier stays until this one is whole
        end: int | None = None
        while end is None or file.tell() < end:
            part, data = agent.read_log(run_id, label, file.tell(), _BLOCK)
            end = min(part.size, _MOST_LOG_BYTES) if end is None else end
            file.write(data[: end - file.tell()])
            if not data:
                break
