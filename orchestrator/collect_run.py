"""Collect a run: its strategies, its shards and what belongs to the model, from its hosts into one folder."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.host_files import Ranges, ShardFile
from orchestrator.checkpoint.strategy_file import Strategy, parse_strategy
from orchestrator.collect import Collected, Format, collect
from orchestrator.errors import TransportError
from orchestrator.fleet import Fleet, Session, fleet_of
from orchestrator.layout import ControlDir, atomic_write
from orchestrator.plan import read_plan

__all__ = ["AgentFiles", "collect_run"]

_STRATEGY = re.compile(r".*_rank_(\d+)\.ckpt")
# Bulk bytes come in pieces of megabytes; a disk that stands still this long has failed.
_READ_TIMEOUT = 300.0


class AgentFiles:
    """The shards of a run through its hosts' agents; sessions are opened as they are needed, and kept."""

    def __init__(self, fleet: Fleet, run_id: str) -> None:
        self._fleet = fleet
        self._run_id = run_id
        self._idle: dict[str, list[Session]] = {name: [] for name in fleet.hosts}
        self._lock = threading.Lock()

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        with self._session(host) as session:
            return [ShardFile.of(row) for row in session.call("shards", run_id=self._run_id)]

    def index(self, host: str, paths: Sequence[str]) -> Sequence[Sequence[Mapping[str, Any]]]:
        with self._session(host) as session:
            indexes: list[list[dict[str, Any]]] = session.call(
                "index", paths=list(paths), timeout=_READ_TIMEOUT
            )
            return indexes

    def read(self, host: str, path: str, ranges: Ranges) -> Iterator[bytes]:
        with self._session(host) as session:
            for _, data in session.stream(
                "read_ranges", path=path, ranges=list(ranges), timeout=_READ_TIMEOUT
            ):
                yield data

    def crc(self, host: str, path: str, groups: Sequence[Ranges]) -> Sequence[int]:
        with self._session(host) as session:
            sums: list[int] = session.call("crc", path=path, groups=list(groups), timeout=_READ_TIMEOUT)
            return sums

    def close(self) -> None:
        for sessions in self._idle.values():
            for session in sessions:
                session.close()

    @contextmanager
    def _session(self, host: str) -> Iterator[Session]:
        """A session nobody else uses; one that ended in the middle of an answer is not used again."""
        with self._lock:
            idle = self._idle[host]
            session = idle.pop() if idle else None
        session = session or self._fleet.new_session(host)
        try:
            yield session
        except TransportError:
            session.close()
            self._fleet.drop(host)
            raise
        except BaseException:
            session.close()
            raise
        with self._lock:
            self._idle[host].append(session)


def collect_run(
    control: ControlDir,
    output: Path,
    *,
    format: Format,
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Write the run's weights to `output`, and beside it the model's configuration and tokenizer.

    Raises what `collect` raises; the file appears whole or not at all.
    """
    plan = read_plan(control.plan)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        strategies = _strategies(fleet, plan.run_id)
        files = AgentFiles(fleet, plan.run_id)
        try:
            collected = collect(
                files,
                [host.name for host in plan.hosts],
                strategies,
                plan.world_size,
                output,
                format=format,
                step=step,
                with_optimizer=with_optimizer,
                replicated=replicated,
                progress=progress,
            )
        finally:
            files.close()
        for name, data in _small_files(fleet, plan.run_id, "model").items():
            atomic_write(output.parent / name, data, mode=0o644)
    return collected


def _small_files(fleet: Fleet, run_id: str, folder: str) -> dict[str, bytes]:
    def fetch(session: Session) -> dict[str, bytes]:
        answers = session.stream("small_files", run_id=run_id, folder=folder)
        return {name: data for name, data in answers if name is not None}

    # A host that is gone may not be needed: its replicas are elsewhere. `collect` decides that.
    return {name: data for files in fleet.each(fetch).values.values() for name, data in files.items()}


def _strategies(fleet: Fleet, run_id: str) -> dict[int, Strategy]:
    strategies = {}
    for name, data in _small_files(fleet, run_id, "strategy").items():
        match = _STRATEGY.fullmatch(name)
        if match is not None:
            strategies[int(match[1])] = parse_strategy(data, name)
    return strategies
