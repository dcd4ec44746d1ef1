"""The bundle that a host is prepared with: its manifest, and what is the same on all hosts of a launch.

The rank table of a thousand hosts has a megabyte: it is made JSON once, and is in memory once.
"""

from __future__ import annotations

import binascii
import functools
import json
from collections.abc import Iterator, Mapping

from orchestrator.core.codec import to_json
from orchestrator.core.records import Manifest
from orchestrator.hosts.session import Payload

__all__ = ["launch_bundle"]

_SMALL = 1 << 15  # goes out in one packet with its request


def launch_bundle(
    manifest: Manifest,
    worker_config: str,
    rank_table: str | None,
    files: Mapping[str, str] | None = None,
    contents: Mapping[str, bytes] | None = None,
) -> Payload:
    """The JSON of an object with these; `files` are the host's own, as text.

    `contents` are small ones for its store, by their SHA-256: in base64 there.
    """
    own = b'{"manifest": %s, ' % json.dumps(to_json(manifest)).encode()
    if files:
        own += b'"files": %s, ' % json.dumps(dict(files)).encode()
    if contents:
        own += _contents(tuple(contents.items()))
    common = _common(worker_config, rank_table)
    return own + common if len(common) < _SMALL else _Pieces(own, common)


@functools.lru_cache(maxsize=1)
def _common(worker_config: str, rank_table: str | None) -> bytes:
    return json.dumps({"worker_config": worker_config, "rank_table": rank_table}).encode()[1:]


@functools.lru_cache(maxsize=1)
def _contents(contents: tuple[tuple[str, bytes], ...]) -> bytes:
    texts = {sha256: binascii.b2a_base64(data, newline=False).decode() for sha256, data in contents}
    return b'"contents": %s, ' % json.dumps(texts).encode()


class _Pieces:
    """Bytes that follow one another, and are not copied into one for each host."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)
