"""The agent as one zip file, the same bytes for the same sources, so that its hash can name it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orchestrator

__all__ = ["Bundle", "agent_bundle"]

# What the agent imports besides its own package.
_SHARED = ("__init__.py", "errors.py", "states.py", "records.py", "layout.py")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file to push, with its content hash."""

    data: bytes
    sha256: str


@cache
def agent_bundle() -> Bundle:
    """The zip of `orchestrator/agent` and the few modules under it."""
    root = Path(orchestrator.__file__).parent
    sources = [root / name for name in _SHARED] + sorted((root / "agent").glob("*.py"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sources:
            # A fixed time and mode: the hash must depend on the sources alone.
            entry = zipfile.ZipInfo(f"orchestrator/{path.relative_to(root).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())
