"""The run YAMLs that MindFormers ships, as far as they are on this machine.

In `.venv-mindformers` of the checkout, and in the wheels of the folder that MINDFORMERS_WHEELS
names (`pip download --no-deps mindformers==1.3.2`).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["shipped"]

ROOT = Path(__file__).parents[1]


def shipped(folder: Path) -> Iterator[tuple[str, Path]]:
    """(version, file) of each of them; those of wheels are unpacked into `folder`."""
    for path in sorted((ROOT / ".venv-mindformers").glob("lib/python*/site-packages/configs/**/*.yaml")):
        yield "installed", path
    wheels = os.environ.get("MINDFORMERS_WHEELS")
    for wheel in sorted(Path(wheels).glob("mindformers-*.whl")) if wheels else ():
        version = wheel.name.split("-")[1]
        if version.startswith("0."):
            continue  # whose YAMLs were put together of parts
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("configs/") and name.endswith(".yaml"):
                    archive.extract(name, folder / version)
                    yield version, folder / version / name
