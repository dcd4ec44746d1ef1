"""The older Pythons of this machine, which hosts may have: on PATH, or among pyenv's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def python_of(version: str) -> str | None:
    """A Python of this version (`3.8`) that runs."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(name), *map(str, pyenv.glob(f"versions/{version}.*/bin/{name}"))]
    for python in filter(None, found):
        if not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            return python
    return None
