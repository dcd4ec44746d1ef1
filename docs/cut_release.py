"""The cut of a release: the version in the code, and the changelog's entries under it.

    make release VERSION=0.2.0

The rest of the way is in docs/release.md; a test holds what can be held (`tests/test_release.py`).
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

__all__ = ["CutError", "cut_changelog", "released", "set_version"]

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE | re.ASCII)
_UNRELEASED = "## [Unreleased]\n"
_IN_CODE = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE | re.ASCII)


class CutError(ValueError):
    """Why nothing can be cut."""


def released(changelog: str) -> list[str]:
    """The versions that it tells of, newest first."""
    return [found[1] for found in _HEADING.finditer(changelog)]


def cut_changelog(changelog: str, version: str, day: datetime.date) -> str:
    """What was unreleased is now of the version and day. CutError: no entry, or it is not a newer version."""
    if not _VERSION.fullmatch(version):
        raise CutError(f"{version!r} is no version such as 1.2.3")
    before, heading, rest = changelog.partition(_UNRELEASED)
    entries = _HEADING.split(rest)[0]
    if not heading or not re.search(r"^- ", entries, re.MULTILINE):
        raise CutError("CHANGELOG.md has no entry under [Unreleased]")
    known = released(changelog)
    if known and _numbers(version) <= _numbers(known[0]):
        raise CutError(f"{version} is not newer than {known[0]}, which is released")
    return f"{before}{heading}\n## [{version}] - {day.isoformat()}\n{rest}"


def set_version(code: str, version: str) -> str:
    """The text of `orchestrator/__init__.py` with this version."""
    text, count = _IN_CODE.subn(f'__version__ = "{version}"', code)
    if count != 1:
        raise CutError("orchestrator/__init__.py says no __version__")
    return text


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def main(words: list[str]) -> int:
    """Change both files. 2 where nothing can be cut; then neither is changed."""
    changelog, code = ROOT / "CHANGELOG.md", ROOT / "orchestrator/__init__.py"
    try:
        (version,) = words
        told = cut_changelog(changelog.read_text(), version, datetime.date.today())
        coded = set_version(code.read_text(), version)
    except ValueError as error:
        what = error if isinstance(error, CutError) else "name one version, as in VERSION=1.2.3"
        sys.stderr.write(f"error: {what}\n")
        return 2
    changelog.write_text(told)
    code.write_text(coded)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
