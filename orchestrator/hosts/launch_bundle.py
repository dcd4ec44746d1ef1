"""The bundle that a host is prepared with: its manifest, and what is the same on all hosts of a launch.

The rank table of a thousand hosts has a megabyte, and of a manifest nine tenths are the files that are sent
and the names of all hosts: what is the same is made JSON once, and is in memory once.
"""

from __future__ import annotations

import binascii
import functools
import json
from collections.abc import Iterator, Mapping

from orchestrator.core.codec import to_json
from orchestrator.core.record_class import replace
from orchestrator.core.records import Input, Manifest
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
    own = to_json(replace(manifest, inputs=(), hosts=()))
    del own["inputs"], own["hosts"]
    texts = b'"files": %s, ' % json.dumps(dict(files)).encode() if files else b""
    if contents:
        texts += _contents(tuple(contents.items()))
    begin = b'{%s"manifest": %s, ' % (texts, json.dumps(own).encode()[:-1])
    shared, common = _shared(manifest.inputs, manifest.hosts), _common(worker_config, rank_table)
    if len(shared) + len(common) < _SMALL:
        return begin + shared + common
    return _Pieces(begin, shared, common)


_last: tuple[tuple[Input, ...], tuple[str, ...], bytes] | None = None


def _shared(inputs: tuple[Input, ...], hosts: tuple[str, ...]) -> bytes:
    """The end of a manifest: what those of one launch have in common, as they nearly always do.

    By comparison, which costs next to nothing where the parts are the same objects; to hash them would cost
    as much as to write them.
    """
    global _last
    known = _last
    if known is None or known[0] != inputs or known[1] != hosts:
        text = json.dumps({"inputs": to_json(inputs), "hosts": to_json(hosts)})
        known = _last = (inputs, hosts, b"%s, " % text[1:].encode())
    return known[2]


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
