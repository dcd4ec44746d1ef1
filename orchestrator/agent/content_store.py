"""The content store of a host: every file once, under its SHA-256; a run gets copies, never the originals.

A small file that a person wants on this host, replaced whole and read back.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterable, List

try:
    # What `hashlib` is made of, since 3.12 and before: without OpenSSL.
    from _sha2 import sha256 as _small_sha256  # type: ignore[import-not-found]
except ImportError:
    try:
        from _sha256 import sha256 as _small_sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as _small_sha256

from orchestrator.core.errors import AgentError
from orchestrator.core.paths import atomic_write, replacing
from orchestrator.core.records import Input

__all__ = [
    "Store",
    "put_file",
    "sha256_of",
    "sha256_of_file",
]

_CHUNK = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h; ioctl_ficlone(2)


def _sha256() -> Any:
    # Late: OpenSSL's takes long to load, and many launches bring no file. Of large files it is the fast one.
    import hashlib

    return hashlib.sha256()


def sha256_of(data: bytes) -> str:
    """The SHA-256 of a small file, in hexadecimal."""
    digest: str = _small_sha256(data).hexdigest()
    return digest


def sha256_of_file(file: BinaryIO) -> str:
    """The SHA-256 of a file of any size, in hexadecimal."""
    digest = _sha256()
    for block in iter(lambda: file.read(_CHUNK), b""):
        digest.update(block)
    found: str = digest.hexdigest()
    return found


class Store:
    """Files named by their content."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def missing(self, hashes: Iterable[str]) -> List[str]:
        """Which of these contents are not here yet."""
        absent = []
        for sha256 in hashes:
            try:
                # The removal of what no run was given leaves alone what was just asked for.
                os.utime(self.root / sha256)
            except OSError:
                absent.append(sha256)
        return absent

    def receive(self, sha256: str, size: int, stream: BinaryIO) -> None:
        """Take `size` bytes from the stream; raises AgentError where they are short or have another hash."""
        self.root.mkdir(parents=True, exist_ok=True)
        digest = _sha256()
        with replacing(self.root / sha256, mode=0o400) as file:
            left = size
            while left:
                block = stream.read(min(left, _CHUNK))
                if not block:
                    raise AgentError("the connection ended in the middle of a file", kind="truncated")
                digest.update(block)
                file.write(block)
                left -= len(block)
            if digest.hexdigest() != sha256:
                raise AgentError(f"a pushed file arrived damaged: {sha256[:12]} expected", kind="damaged")

    def place(self, item: Input, run_root: Path) -> None:
        """Copy one input into a run, and prove on the way that its bytes are the ones that were meant.

        Where the file system can, the copy shares its blocks with the store until somebody writes to it. A
        hard link would not do: what a worker writes into its input is nobody else's business.
        """
        target = run_root / item.path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = _sha256()
        try:
            with open(self.root / item.sha256, "rb") as source, open(target, "wb") as copy:
                is_shared = _share_blocks(source, copy)
                for block in iter(lambda: source.read(_CHUNK), b""):
                    digest.update(block)
                    if not is_shared:
                        copy.write(block)
                os.chmod(target, 0o700 if item.executable else 0o600)
        except FileNotFoundError as error:
            raise AgentError(f"{item.path} is not in the content store", kind="missing_input") from error
        if digest.hexdigest() != item.sha256:
            (self.root / item.sha256).unlink()
            raise AgentError(
                f"the stored copy of {item.path} was damaged and has been removed", remedy="launch again"
            )


def _share_blocks(source: BinaryIO, copy: BinaryIO) -> bool:
    try:
        fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
    except OSError:  # another file system, or one that cannot
        return False
    return True


def put_file(path: str, stream: BinaryIO, *, size: int, sha256: str) -> Dict[str, Any]:
    """Write `size` bytes to `path`, `~` included; its folder must be there.

    Returns the path and the SHA-256 of what is on the disk then. Raises AgentError; the old file stays.
    """
    data = stream.read(size)
    if sha256_of(data) != sha256:
        raise AgentError("the file arrived damaged", kind="damaged")
    target = Path(os.path.expanduser(path)).absolute()
    if target.is_dir():
        raise AgentError(f"{target} is a directory", remedy="name the file in it")
    try:
        atomic_write(target, data, mode=0o644)
        found = target.read_bytes()
    except OSError as error:
        raise AgentError(
            f"{target} cannot be written: {error.strerror}", remedy="choose another place with --to"
        ) from error
    return {"path": str(target), "sha256": sha256_of(found)}
