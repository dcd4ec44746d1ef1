"""Which step of a run can be collected: the newest that all needed ranks have saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from orchestrator.checkpoint.cut.coverage import a_parameter_of, missing_groups
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.core.errors import CheckpointError, OrchestrateError

__all__ = ["Choice", "Failed", "Step", "by_step", "choose_readable", "choose_step", "step_name"]

# (epoch, step) as the file names have them: numbers, so 10 comes after 9.
Step = tuple[int, int]
_Copies = dict[int, dict[str, ShardFile]]
Failed: TypeAlias = Mapping[tuple[str, str], OrchestrateError]
"""Files `(host, path)` that are cut, damaged or cannot be read, each with its error."""
_C = TypeVar("_C")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen step, each rank's file `(host, path)`, and the newer steps passed over, with what they lack.

    `identities` are what the files were when they were listed, `failed` those that were left aside.
    """

    epoch: int
    step: int
    files: Mapping[int, tuple[str, str]]
    passed_over: Mapping[Step, str]
    identities: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    failed: Failed = field(default_factory=dict)

    @property
    def incomplete(self) -> tuple[Step, ...]:
        """The newer steps, the newest first."""
        return tuple(self.passed_over)

    def notes(self) -> list[str]:
        """A line on every file that was left aside, and on every newer step that was passed over."""
        lines = [f"{host}: {path}: {error.what}: left aside" for (host, path), error in self.failed.items()]
        for at, lacking in self.passed_over.items():
            newer = f"{step_name(at)} is newer but not complete, it lacks {lacking}"
            lines.append(f"{newer}: {step_name((self.epoch, self.step))} was taken")
        return lines


def choose_step(
    listed: Mapping[str, Iterable[ShardFile]],
    strategies: Mapping[int, Strategy],
    world_size: int,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    placed: Mapping[int, str] | None = None,
    failed: Failed | None = None,
) -> Choice:
    """The newest complete step among the hosts' files, or step `step` (of the newest epoch that has it).

    A rank whose slices a replica has saved is not needed. Of reruns into one folder the last counts; a rank
    that several hosts list (a shared folder) is spread over them. What has `failed` is as if it were not
    there. CheckpointError: no step is complete; `placed` names the host that each rank ran on, for messages.
    """
    failed = failed or {}
    saved = by_step(listed, failed)
    if not saved:
        raise CheckpointError(
            f"no checkpoints on {', '.join(listed) or 'any host'}",
            remedy="the bundled model saves every `checkpoint.save_steps` steps and at the end; "
            "a program of yours, as checkpoint/rank_<r>/<prefix>-<epoch>_<step>.ckpt",
        )
    wanted = [at for at in sorted(saved, reverse=True) if step is None or at[1] == step]
    if not wanted:
        raise CheckpointError(f"no rank has saved step {step}", remedy=f"saved are: {_steps(saved)}")
    passed_over: dict[Step, str] = {}
    for at in wanted:
        missing = _missing(saved[at], strategies, world_size, with_optimizer, replicated)
        if not missing:
            files = {rank: _pick(rank, copies) for rank, copies in sorted(saved[at].items())}
            identities = {rank: saved[at][rank][host].identity for rank, (host, _) in files.items()}
            return Choice(*at, files, passed_over, identities, failed)
        passed_over[at] = _lacking(missing, strategies, placed or {})
    raise _nothing_complete(saved, wanted, passed_over[wanted[0]])


def choose_readable(choose: Callable[[Failed], _C], read: Callable[[_C], tuple[_T, Failed]]) -> tuple[_C, _T]:
    """Choose files and read them; those that fail are as if they were not there, and it is chosen again.

    So a shard that is cut counts as one that is missing. Where nothing is left to choose, the error is that
    of the first that failed.
    """
    failed: dict[tuple[str, str], OrchestrateError] = {}
    while True:
        try:
            choice = choose(failed)
        except CheckpointError:
            for error in failed.values():
                raise error from None
            raise
        value, now = read(choice)
        for key, error in now.items():
            if key in failed:
                raise error
        if not now:
            return choice, value
        failed.update(now)


def by_step(listed: Mapping[str, Iterable[ShardFile]], failed: Failed) -> dict[Step, _Copies]:
    """The files of each step, by rank and host, without those that have failed; of reruns the last."""
    saved: dict[Step, _Copies] = {}
    for host, files in listed.items():
        for file in files:
            if (host, file.path) in failed:
                continue
            copies = saved.setdefault((file.epoch, file.step), {}).setdefault(file.rank, {})
            if host not in copies or _worth(copies[host]) < _worth(file):
                copies[host] = file
    return saved


def _worth(file: ShardFile) -> tuple[bool, int]:
    """The shard itself before a copy, the last of reruns."""
    return not file.owner, file.rerun


def _missing(
    copies: _Copies,
    strategies: Mapping[int, Strategy],
    world_size: int,
    with_optimizer: bool,
    replicated: bool,
) -> list[tuple[int, ...]]:
    if replicated and not strategies and copies:
        return []
    return missing_groups(copies, strategies, world_size, with_optimizer=with_optimizer)


def _pick(rank: int, copies: Mapping[str, ShardFile]) -> tuple[str, str]:
    newest = max(file.rerun for file in copies.values())
    latest = {host: file for host, file in copies.items() if file.rerun == newest}
    # A copy is read where no shard is there: its whole file is read for that before.
    hosts = sorted(host for host, file in latest.items() if not file.owner) or sorted(latest)
    host = hosts[rank % len(hosts)]
    return host, copies[host].path


def _lacking(
    gaps: list[tuple[int, ...]], strategies: Mapping[int, Strategy], placed: Mapping[int, str]
) -> str:
    """The groups of ranks of which one would do, their hosts, and a parameter of each."""
    shown = []
    for group in gaps[:4]:
        text = "rank " + " or ".join(map(str, group[:4]))
        hosts = dict.fromkeys(placed[rank] for rank in group if rank in placed)
        text += f" on {' or '.join(list(hosts)[:4])}" if hosts else ""
        name = a_parameter_of(group, strategies)
        shown.append(f"{text} (for {name})" if name else text)
    return ", ".join(shown) + (" and others" if len(gaps) > 4 else "")


def _nothing_complete(saved: Mapping[Step, _Copies], wanted: list[Step], lacking: str) -> CheckpointError:
    having = "; ".join(
        f"{step_name(at)} by rank {', '.join(map(str, sorted(saved[at])[:16]))}" for at in wanted[:4]
    )
    return CheckpointError(
        f"no step is saved by all ranks it takes: {step_name(wanted[0])} lacks {lacking}",
        remedy=f"saved are: {having}",
    )


def _steps(saved: Mapping[Step, _Copies]) -> str:
    newest = sorted(saved, reverse=True)
    return ", ".join(map(step_name, newest[:8])) + (" …" if len(newest) > 8 else "")


def step_name(at: Step) -> str:
    """As messages name it; without an epoch it is an iteration of MindFormers' checkpoint 2.0."""
    return f"epoch {at[0]} step {at[1]}" if at[0] else f"iteration {at[1]}"
