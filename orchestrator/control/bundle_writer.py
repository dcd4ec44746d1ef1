"""The archive of a support bundle: files that are masked on their way into it, one after the other."""

from __future__ import annotations

import json
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.control.secret_mask import SecretMask

__all__ = ["BundleWriter"]

_BLOCK = 1 << 20
_MOST = 4 << 30  # FaultDiag takes 5 GB


class BundleWriter:
    """Puts masked files into the archive, from any thread, one after the other."""

    def __init__(self, archive: tarfile.TarFile, mask: SecretMask, run_id: str, folder: Path) -> None:
        self.files = 0
        self._archive, self._mask, self._folder = archive, mask, folder
        self._lock = threading.Lock()
        self._root = run_id if self.is_clean(run_id) else "run"
        self._left = _MOST

    def is_clean(self, name: str) -> bool:
        """Whether no value of `env:` is in a name."""
        with self._lock:
            return not self._mask.occurrences([name.encode()])

    def add_json(self, name: str, value: Any) -> None:
        """Every text of it is masked as one: what was cut in the middle of a value is, too."""
        with self._lock:
            masked = self._mask.of_json(value)
        self.add(name, [json.dumps(masked, indent=1).encode()])

    def add_lines(self, name: str, lines: Iterable[str]) -> None:
        with self._lock:
            masked = [self._mask.of_text(line) for line in lines]
        self.add(name, ["".join(f"{line}\n" for line in masked).encode("utf-8", "backslashreplace")])

    def add(self, name: str, chunks: Iterable[bytes]) -> bool:
        """Whether there was room for it."""
        with tempfile.TemporaryFile(dir=self._folder) as spool:
            for chunk in chunks:
                if spool.tell() + len(chunk) > _MOST:
                    return False
                spool.write(chunk)
            spool.seek(0)
            with self._lock, tempfile.TemporaryFile(dir=self._folder) as masked:
                for part in self._mask.stream(iter(lambda: spool.read(_BLOCK), b"")):
                    masked.write(part)
                size = masked.tell()
                if size > self._left:
                    return False
                self._left -= size
                info = tarfile.TarInfo(f"{self._root}/{name}")
                info.size, info.mode, info.mtime = size, 0o600, int(time.time())
                masked.seek(0)
                self._archive.addfile(info, masked)
                self.files += 1
                return True
