"""The shards of a run on its hosts: through their agents, or directly where they can be seen from here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.agent import ckpt_read, runs
from orchestrator.checkpoint.host_files import Ranges, ReadSegment, ShardFile
from orchestrator.errors import AgentError, TransportError
from orchestrator.fleet import Fleet, Session
from orchestrator.fleet.bulk import BulkSessions
from orchestrator.inventory import SshOptions
from orchestrator.layout import RunDir, Workdir

__all__ = ["RunFiles"]

# Bulk bytes come in pieces of megabytes; a disk that stands still this long has failed.
_READ_TIMEOUT = 300.0


class RunFiles:
    """`HostFiles` of one run.

    Local hosts are this machine. A file of another host is read directly where the same path leads here to
    the same file (a shared file system): same size, time of change and inode number. `via_hosts` has all of
    them read by their hosts.
    """

    def __init__(self, fleet: Fleet, run_id: str, options: SshOptions, *, via_hosts: bool = False) -> None:
        self._fleet = fleet
        self._run_id = run_id
        self._via_hosts = via_hosts
        self._bulk = BulkSessions(fleet, options)
        self._listed: dict[tuple[str, str], ShardFile] = {}
        self._direct: set[tuple[str, str]] = set()

    def is_direct(self, host: str, path: str) -> bool:
        """Whether a listed file is read without its host."""
        return (host, path) in self._direct

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        rows = self._rows(host)
        files = [ShardFile.of(row) for row in rows]
        for file in files:
            self._listed[host, file.path] = file
            if self._is_here(host) or (not self._via_hosts and _is_visible(file)):
                self._direct.add((host, file.path))
        return files

    def _rows(self, host: str) -> list[dict[str, Any]]:
        if self._is_here(host):
            return ckpt_read.list_shards(str(self._run_dir(host).checkpoint))
        rows: list[dict[str, Any]] = self._call(host, "shards", run_id=self._run_id)
        return rows

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        if self.is_direct(host, path):
            return ckpt_read.index_shard(path)
        entries: list[dict[str, Any]] = self._call(host, "index", path=path)
        return entries

    def read(self, host: str, segments: Sequence[tuple[str, Ranges]]) -> Iterator[ReadSegment]:
        identities = {path: list(self._listed[host, path].identity) for path, _ in segments}
        if all(self.is_direct(host, path) for path in identities):
            for data in ckpt_read.read_segments(segments, identities):
                yield data, None
            return
        buffer = memoryview(bytearray(max(sum(n for _, n in ranges) for _, ranges in segments)))
        request = {"segments": list(segments), "identities": identities}
        with self._bulk.session(host) as session:
            answers = session.stream_into(buffer, "read_segments", timeout=_READ_TIMEOUT, **request)
            for crc, data in answers:
                if data:  # the last answer only says that it is the last
                    yield data, crc

    def small_files(self, folder: str) -> dict[str, bytes]:
        """The files in this folder of the run, of all hosts that can be asked; of one name, the last's."""
        # A host that is gone may not be needed: its replicas are elsewhere. `collect` decides that.
        found: dict[str, bytes] = {}
        for host in self._fleet.hosts:
            if self._is_here(host):
                found.update(runs.small_files(self._run_dir(host), folder))
        away = [host for host in self._fleet.hosts if not self._is_here(host)]

        def fetch(session: Session) -> dict[str, bytes]:
            answers = session.stream("small_files", run_id=self._run_id, folder=folder)
            return {name: data for name, data in answers if name is not None}

        for files in self._fleet.each(fetch, away).values.values():
            found.update(files)
        same: dict[bytes, bytes] = {}  # the ranks of a stage have equal strategies, which can be large
        return {name: same.setdefault(data, data) for name, data in found.items()}

    def interrupt(self) -> None:
        self._bulk.interrupt()

    def close(self) -> None:
        self._bulk.close()

    def _is_here(self, host: str) -> bool:
        return self._fleet.hosts[host].transport == "local"

    def _run_dir(self, host: str) -> RunDir:
        try:
            return runs.find(Workdir(self._fleet.hosts[host].workdir), self._run_id)
        except AgentError as error:
            raise AgentError(error.what, where=host, remedy=error.remedy, kind=error.kind) from error

    def _call(self, host: str, verb: str, **args: Any) -> Any:
        try:
            return self._fleet.session(host).call(verb, timeout=_READ_TIMEOUT, **args)
        except TransportError:
            self._fleet.drop(host)
            raise


def _is_visible(file: ShardFile) -> bool:
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return tuple(ckpt_read.identity_of(status)) == file.identity and os.access(file.path, os.R_OK)
