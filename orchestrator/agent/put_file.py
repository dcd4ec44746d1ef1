"""A small file that a person wants on this host, replaced whole and read back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Dict

from orchestrator.errors import AgentError
from orchestrator.layout import atomic_write

__all__ = ["put_file"]


def put_file(path: str, stream: BinaryIO, *, size: int, sha256: str) -> Dict[str, Any]:
    """Write `size` bytes to `path`, `~` included; its folder must be there.

    Returns the path and the SHA-256 of what is on the disk then. Raises AgentError; the old file stays.
    """
    data = stream.read(size)
    if hashlib.sha256(data).hexdigest() != sha256:
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
    return {"path": str(target), "sha256": hashlib.sha256(found).hexdigest()}
