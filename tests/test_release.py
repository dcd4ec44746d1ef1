"""A release holds together: one version, told in the changelog, and its state format among the fixtures."""

from __future__ import annotations

import configparser
import datetime
import json
from pathlib import Path

import pytest

from docs.cut_release import CutError, cut_changelog, released, set_version
from orchestrator import __version__
from orchestrator.control.run_record import RunRecord
from orchestrator.core.codec import Stored
from orchestrator.core.records import HostStatus, Manifest
from orchestrator.plan.launch_plan import LaunchPlan
from tests.fixtures.written import RELEASED

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests/fixtures"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
# Where a run has each file, here or on a host.
FILES: dict[type[Stored], tuple[str, ...]] = {
    LaunchPlan: ("state/orchestrate/runs/*/plan.json", "state/orchestrate/runs/*/attempts/*/plan.json"),
    RunRecord: ("state/orchestrate/runs/*/record.json",),
    Manifest: ("hosts/*/runs/*/manifest.json", "hosts/*/runs/*/attempts/*/manifest.json"),
    HostStatus: ("hosts/*/runs/*/status.json",),
}


def test_the_version_stands_in_one_place() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: orchestrator.__version__"
    assert "version" not in (ROOT / "pyproject.toml").read_text().replace("target-version", "")


def test_the_newest_version_of_the_changelog_is_that_of_the_code() -> None:
    assert released(CHANGELOG)[0] == __version__, "make release VERSION=… changes both"
    assert CHANGELOG.count("## [Unreleased]\n") == 1


def test_every_released_version_has_a_fixture() -> None:
    """Else: step 2 of docs/release.md."""
    for version in released(CHANGELOG):
        assert version in RELEASED, f"write {version}'s fixture and name it in RELEASED"
    for version, name in RELEASED.items():
        assert (FIXTURES / name / "state").is_dir(), version


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
def test_every_format_that_was_ever_written_is_among_the_fixtures(kind: type[Stored]) -> None:
    paths = [path for pattern in FILES[kind] for path in FIXTURES.glob(f"*/{pattern}")]
    found = {json.loads(path.read_text()).get("format", 1) for path in paths}
    assert found == set(range(1, kind.FORMAT + 1)), "write a fixture of today's code: docs/release.md"


BEFORE = """# Changelog

## [Unreleased]

### Added
- One thing.

## [0.9.0] - 2026-01-02

- The first.
"""


def test_a_cut_moves_what_was_unreleased() -> None:
    after = cut_changelog(BEFORE, "0.10.0", datetime.date(2026, 11, 27))
    assert after == BEFORE.replace("## [Unreleased]\n", "## [Unreleased]\n\n## [0.10.0] - 2026-11-27\n")
    assert released(after) == ["0.10.0", "0.9.0"]
    with pytest.raises(CutError, match="no entry"):
        cut_changelog(after, "0.11.0", datetime.date(2026, 11, 27))


@pytest.mark.parametrize("version", ["0.9.0", "0.8.9", "1.0", "1.0.0rc1", "", "v1.0.0", "1.0.0\n"])
def test_what_is_no_newer_version_is_not_cut(version: str) -> None:
    with pytest.raises(CutError):
        cut_changelog(BEFORE, version, datetime.date(2026, 11, 27))


def test_the_changelog_of_today_can_be_cut() -> None:
    """Just after a cut it cannot: there is nothing new."""
    if "\n- " in CHANGELOG.split("## [")[1]:
        after = cut_changelog(CHANGELOG, "99.0.0", datetime.date(2026, 11, 27))
        assert released(after) == ["99.0.0", *released(CHANGELOG)]


def test_the_version_is_put_into_the_code() -> None:
    code = (ROOT / "orchestrator/__init__.py").read_text()
    assert set_version(code, "7.8.9") == code.replace(f'"{__version__}"', '"7.8.9"')
    with pytest.raises(CutError):
        set_version("", "7.8.9")
