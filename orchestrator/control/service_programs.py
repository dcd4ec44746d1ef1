"""The programs of this machine that a service is installed with: systemctl, loginctl, crontab."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Answer", "Programs"]

_SECONDS = 20.0
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said, and its exit code; 124 to 127 where there is none, as `timeout` and shells do."""

    code: int
    output: bytes
    error: str

    @property
    def last_line(self) -> str:
        """Its last word on what went wrong."""
        return "".join(self.error.strip().splitlines()[-1:])


class Programs:
    """They are found on PATH, and speak English."""

    def there(self, name: str) -> bool:
        """Whether there is such a program."""
        return shutil.which(name) is not None

    def run(self, *argv: str, given: bytes | None = None) -> Answer:
        """Run one to its end, with `given` as its input."""
        words: Sequence[str] = argv
        try:
            done = subprocess.run(
                words,
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                capture_output=True,
                timeout=_SECONDS,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except FileNotFoundError:
            return Answer(127, b"", f"{argv[0]} is not there")
        except subprocess.TimeoutExpired:
            return Answer(124, b"", f"{argv[0]} does not end")
        except OSError as error:
            return Answer(126, b"", f"{argv[0]}: {error.strerror}")
        if len(done.stdout) > _MOST:  # a part of a crontab must not be taken for all of it
            return Answer(125, b"", f"{argv[0]} says more than {_MOST:,} bytes")
        return Answer(done.returncode, done.stdout, done.stderr[:_MOST].decode("utf-8", "replace"))
