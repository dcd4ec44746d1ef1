"""Which step of a run can be collected: the newest that all needed ranks have saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.checkpoint.cut.coverage import a_parameter_of, missing_groups
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.core.errors import CheckpointError

__all__ = ["Choice", "Step", "choose_step"]

# (epoch, step) as the file names have them: numbers, so 10 comes after 9.
Step = tuple[int, int]
_Copies = dict[int, dict[str, ShardFile]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen step, each rank's file `(host, path)`, and the newer steps that some needed rank lacks.

    `identities` are what the files were when they were listed.
    """

    epoch: int
    step: int
    files: Mapping[int, tuple[str, str]]
    incomplete: tuple[Step, ...]
    identities: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def choose_step(
    listed: Mapping[str, Iterable[ShardFile]],
    strategies: Mapping[int, Strategy],
    world_size: int,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    placed: Mapping[int, str] | None = None,
) -> Choice:
    """The newest complete step among the hosts' files, or step `step` (of the newest epoch that has it).

    A rank whose slices a replica has saved is not needed. Of reruns into one folder the last counts; a rank
    that several hosts list (a shared folder) is spread over them. CheckpointError: no step is complete;
    `placed` names the host that each rank ran on, for the message.
    """
    saved = _by_step(listed)
    if not saved:
        raise CheckpointError(f"no checkpoints on {', '.join(listed) or 'any host'}")
    wanted = [at for at in sorted(saved, reverse=True) if step is None or at[1] == step]
    if not wanted:
        raise CheckpointError(f"no rank has saved step {step}", remedy=f"saved are: {_steps(saved)}")
    incomplete: list[Step] = []
    gaps: list[tuple[int, ...]] = []
    for at in wanted:
        missing = _missing(saved[at], strategies, world_size, with_optimizer, replicated)
        if not missing:
            files = {rank: _pick(rank, copies) for rank, copies in sorted(saved[at].items())}
            identities = {rank: saved[at][rank][host].identity for rank, (host, _) in files.items()}
            return Choice(*at, files, tuple(incomplete), identities)
        incomplete.append(at)
        gaps = gaps or missing
    raise _nothing_complete(saved, wanted, _lacking(gaps, strategies, placed or {}))


def _by_step(listed: Mapping[str, Iterable[ShardFile]]) -> dict[Step, _Copies]:
    saved: dict[Step, _Copies] = {}
    for host, files in listed.items():
        for file in files:
            copies = saved.setdefault((file.epoch, file.step), {}).setdefault(file.rank, {})
            if host not in copies or copies[host].rerun < file.rerun:
                copies[host] = file
    return saved


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
    hosts = sorted(host for host, file in copies.items() if file.rerun == newest)
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
        f"{_name(at)} by rank {', '.join(map(str, sorted(saved[at])[:16]))}" for at in wanted[:4]
    )
    return CheckpointError(
        f"no step is saved by all ranks it takes: {_name(wanted[0])} lacks {lacking}",
        remedy=f"saved are: {having}",
    )


def _steps(saved: Mapping[Step, _Copies]) -> str:
    newest = sorted(saved, reverse=True)
    return ", ".join(map(_name, newest[:8])) + (" …" if len(newest) > 8 else "")


def _name(at: Step) -> str:
    return f"epoch {at[0]} step {at[1]}"
