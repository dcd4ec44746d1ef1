"""Pushing content to a host: what its content store lacks is streamed there, named by its SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.core.errors import AgentError, OrchestrateError
from orchestrator.hosts.agent_client import Agent

__all__ = ["Content", "ContentFile", "Pushed", "content_files", "push_missing", "small_contents"]

_CHUNK = 1 << 20
# Below this, all of a file goes in one packet with the request; a launch sends hundreds of them.
_SMALL = 1 << 16
# What is no more than this together goes with another request, and nobody asks whether it is there: most
# launches bring one script.
_TINY = 1 << 14


class Content(Protocol):
    """Bytes that are not in memory all at once; each iteration gives all of them, as many as the length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


class ContentFile:
    """A file of this machine. OrchestrateError: it cannot be read, or changes while it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._readable():
            self._status = path.stat()

    def __len__(self) -> int:
        return self._status.st_size

    def __iter__(self) -> Iterator[bytes]:
        left = len(self)
        with self._readable(), self._path.open("rb", buffering=0) as file:
            while chunk := file.read(min(left, _CHUNK)):
                left -= len(chunk)
                yield chunk
            now = os.fstat(file.fileno())
        if left or (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise self.changed()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
            raise OrchestrateError(what, where=str(self._path)) from error

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self:
            digest.update(chunk)
        return digest.hexdigest()

    def changed(self) -> OrchestrateError:
        """What to say of a file that is not what it was when it was hashed."""
        return OrchestrateError(
            "has changed since it was read for this launch", where=str(self._path), remedy="launch again"
        )


class _Gone:
    """A file that cannot be read, which is told to whom lacks it."""

    def __init__(self, error: OrchestrateError) -> None:
        self._error = error

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[bytes]:
        raise self._error


def content_files(sources: Mapping[str, Path], *, may_be_gone: bool = False) -> dict[str, Content]:
    """The sources as what is pushed. OrchestrateError: one cannot be read; it `may_be_gone` where the hosts
    have had it: then it is raised by the push to one that lacks it."""
    found: dict[str, Content] = {}
    for sha256, path in sources.items():
        try:
            found[sha256] = ContentFile(path)
        except OrchestrateError as error:
            if not may_be_gone:
                raise
            found[sha256] = _Gone(error)
    return found


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of one host: bytes that were sent, and bytes that it had already."""

    sent: int
    had: int


def push_missing(
    agent: Agent,
    sources: Mapping[str, Content],
    *,
    timeout: float,
    count: Callable[[int], None] = lambda nbytes: None,
) -> Pushed:
    """Send the host what it lacks of the sources, which are named by their SHA-256.

    Each is there whole, with the right hash, or not at all; no more than a chunk is in memory. `count` gets
    the bytes of each chunk that was taken, and of each source that was there. `timeout` is in seconds, of
    one message. AgentError, TransportError; OrchestrateError: a file that has changed.
    """
    missing = set(agent.missing(list(sources)))
    total = sum(map(len, sources.values()))
    wanted = {sha256: source for sha256, source in sources.items() if sha256 in missing}
    sent = sum(map(len, wanted.values()))
    count(total - sent)
    for sha256, source in wanted.items():
        payload = _Counted(source, count)
        try:
            agent.push(sha256, payload if len(source) >= _SMALL else b"".join(payload), timeout=timeout)
        except AgentError as error:
            if error.kind == "damaged" and isinstance(source, ContentFile) and source.sha256() != sha256:
                raise source.changed() from None
            raise
    return Pushed(sent, total - sent)


def small_contents(sources: Mapping[str, Content]) -> dict[str, bytes]:
    """All of the sources, where they are so small that it takes no longer to send them along with another
    request than to ask whether they are there; else nothing. OrchestrateError: a file that has changed.
    """
    if sum(map(len, sources.values())) > _TINY:
        return {}
    found: dict[str, bytes] = {}
    for sha256, source in sources.items():
        if not isinstance(source, ContentFile):
            return {}  # what is gone is told to a host that lacks it, and to no other
        found[sha256] = b"".join(source)
        if hashlib.sha256(found[sha256]).hexdigest() != sha256:
            raise source.changed()
    return found


class _Counted:
    """Content that tells how much of it was taken."""

    def __init__(self, content: Content, count: Callable[[int], None]) -> None:
        self._content = content
        self._count = count

    def __len__(self) -> int:
        return len(self._content)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for chunk in self._content:
            yield chunk
            self._count(len(chunk))
