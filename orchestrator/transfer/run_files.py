"""The files of one run on its hosts, as the engine that moves tensor bytes wants them.

They are read through the hosts' agents, or directly where they are visible here.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.agent.attempt_guard import reading
from orchestrator.agent.saved_steps import copies
from orchestrator.checkpoint.copy_plan import Segment
from orchestrator.checkpoint.host_files import ReadSegment
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.inventory import SshOptions
from orchestrator.control.copied_files import OwnersWord
from orchestrator.core.errors import AgentError, TransportError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.bulk_channel import BulkAgents
from orchestrator.hosts.fleet import Fleet
from orchestrator.transfer.copied_shards import index_there, known_files, require_whole_here
from orchestrator.transfer.small_files import Gathered, Spool, gather

__all__ = ["RunFiles"]

T = TypeVar("T")
# Bulk bytes come in pieces of megabytes; a disk that stands still this long has failed.
_READ_TIMEOUT = 300.0
_ITERATION = re.compile(r"iteration_\d{8,12}", re.ASCII)


class RunFiles:
    """`HostFiles` of one run.

    Local hosts are this machine. A file of another host is read directly where the same path leads here to
    the same file (a shared file system): same size, time of change and inode number. `via_hosts` has all of
    them read by their hosts.
    """

    def __init__(
        self,
        fleet: Fleet,
        run_id: str,
        options: SshOptions,
        *,
        via_hosts: bool = False,
        said: OwnersWord | None = None,
        attempt: int = 1,
        with_steps: bool = False,
    ) -> None:
        """`said` is what owners have said of the copies of this attempt: without it copies do not count.

        `with_steps`: the step is what each file itself says, see `cut/global_steps`.
        """
        self._with_steps = with_steps
        self._said = said or {}
        self._attempt = attempt
        self._fleet = fleet
        self._run_id = run_id
        self._via_hosts = via_hosts
        self._bulk = BulkAgents(fleet, options)
        self._listed: dict[tuple[str, str], ShardFile] = {}
        self._direct: dict[tuple[str, str], str] = {}

    def is_direct(self, host: str, path: str) -> bool:
        """Whether a listed file is read without its host."""
        return (host, path) in self._direct

    def listed(self, host: str, path: str) -> ShardFile | None:
        """The file of that path, where it was listed."""
        return self._listed.get((host, path))

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        if self._is_here(host):
            run = self._run_dir(host)
            inside = self._with_steps
            own = ckpt_read.list_shards(str(run.attempt.checkpoint), follow_links=False, with_steps=inside)
            kept = copies(run, run.number or 1, with_steps=inside)
            files = known_files([*own, *kept], self._said, self._attempt)
            self._direct.update({(host, file.path): file.path for file in files})
        else:
            rows = self._ask(
                host,
                lambda agent: agent.shards(self._run_id, steps=self._with_steps, timeout=_READ_TIMEOUT),
            )
            files = known_files(map(vars, rows), self._said, self._attempt)
            for file in files:
                if not (self._via_hosts or file.owner) and (path := self._visible_path(host, file)):
                    self._direct[host, file.path] = path
        self._listed.update({(host, file.path): file for file in files})
        return files

    def take(self, host: str, files: Sequence[ShardFile]) -> None:
        """Files of the run that were listed in another way may be read, too."""
        for file in files:
            path = file.path if self._is_here(host) else ""
            if not (path or self._via_hosts):
                path = self._visible_path(host, file)
            if path:
                self._direct[host, file.path] = path
            self._listed[host, file.path] = file

    def _visible_path(self, host: str, file: ShardFile) -> str:
        """Where the same file is on this machine; "" where it is not. Nothing of its path is the host's word.

        But for its name, and a rank's folder: they have been checked.
        """
        known = self._fleet.hosts[host]
        workdir = known.workdir
        if known.user and workdir.startswith("~/"):
            workdir = f"~{known.user}{workdir[1:]}"
        run = Workdir(workdir).run(self._run_id)
        address = self._fleet.addressed({"run_id": self._run_id})
        if "meant" in address:
            run = run.pinned(address["meant"]["number"])
        folder, name = os.path.split(file.path)
        last = os.path.basename(folder)
        is_known = last == f"rank_{file.rank}" or _ITERATION.fullmatch(last)
        path = str(run.attempt.checkpoint / (last if is_known else "") / name)
        try:
            status = os.stat(path)
        except OSError:
            return ""
        is_same = tuple(ckpt_read.identity_of(status)) == file.identity
        return path if is_same and os.access(path, os.R_OK) else ""

    def index(self, host: str, path: str) -> Iterable[Mapping[str, Any]]:
        file = self._listed.get((host, path))
        if self.is_direct(host, path):
            if file is not None and file.owner:
                require_whole_here(file)
            return ckpt_read.index_shard(self._direct[host, path])
        return map(vars, self._ask(host, lambda agent: index_there(agent, path, file)))

    def read(self, host: str, segments: Sequence[Segment]) -> Iterator[ReadSegment]:
        wanted = [(segment.copy.path, segment.spans) for segment in segments]
        identities = {path: list(self._listed[host, path].identity) for path, _ in wanted}
        if all(self.is_direct(host, path) for path in identities):
            here = {path: self._direct[host, path] for path in identities}
            direct = [(here[path], spans) for path, spans in wanted]
            named = {here[path]: identity for path, identity in identities.items()}
            for data in ckpt_read.read_segments(direct, named):
                yield data, None
            return
        buffer = memoryview(bytearray(max(segment.nbytes for segment in segments)))
        with self._bulk.agent(host) as agent:
            yield from agent.read_segments(buffer, wanted, identities, timeout=_READ_TIMEOUT)

    def sums(self, host: str, segments: Sequence[Segment]) -> Iterator[int]:
        if all(self.is_direct(host, segment.copy.path) for segment in segments):
            yield from (zlib.crc32(data) for data, _ in self.read(host, segments))
            return
        wanted = [(segment.copy.path, segment.spans) for segment in segments]
        identities = {path: list(self._listed[host, path].identity) for path, _ in wanted}
        yield from self._ask(
            host, lambda agent: agent.sum_segments(wanted, identities, timeout=_READ_TIMEOUT)
        )

    def small_files(self, folder: str, spool: Spool) -> Gathered:
        """The known files in this folder of the run, of all hosts that can be asked."""

        def here(host: str) -> RunDir | None:
            return self._run_dir(host) if self._is_here(host) else None

        return gather(self._fleet, self._run_id, folder, here, spool)

    def interrupt(self) -> None:
        self._bulk.interrupt()

    def close(self) -> None:
        self._bulk.close()

    def _is_here(self, host: str) -> bool:
        return self._fleet.hosts[host].transport == "local"

    def _run_dir(self, host: str) -> RunDir:
        try:
            workdir = Workdir(self._fleet.hosts[host].workdir)
            return reading(workdir, self._fleet.addressed({"run_id": self._run_id}))
        except AgentError as error:
            raise AgentError(error.what, where=host, remedy=error.remedy, kind=error.kind) from error

    def _ask(self, host: str, question: Callable[[Agent], T]) -> T:
        try:
            return question(self._fleet.agent(host))
        except TransportError:
            self._fleet.drop(host)
            raise
