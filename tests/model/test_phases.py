from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.phases import SAVE, STACKS, Phase, Phases, Saved


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics/rank_3.jsonl").read_text().splitlines()]


def test_a_line_says_what_is_done_and_all_that_was_announced(tmp_path: Path) -> None:
    phases = Phases(tmp_path, 3)
    phases.announce(STACKS)
    phases.enter(Phase.IMPORT)
    phases.announce(SAVE)
    phases.announce(SAVE)
    phases.enter(Phase.SAVE, step=7)
    phases.enter(Phase.STEP, saved=Saved(7, 0.25, 1.5))
    phases.tell(Saved(8, 0.25, 2.0))
    found = lines(tmp_path)
    times = [line.pop("time") for line in found]
    assert times == sorted(times) and times[0] > 1.7e9
    assert found == [
        {"phase": "import", "can": ["stacks"]},
        {"phase": "save", "step": 7, "can": ["stacks", "save"]},
        {"phase": "step", "saved": 7, "stall_s": 0.25, "write_s": 1.5, "can": ["stacks", "save"]},
        {"phase": "step", "saved": 8, "stall_s": 0.25, "write_s": 2.0, "can": ["stacks", "save"]},
    ]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Phases().enter(Phase.INIT)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_ends_no_work(tmp_path: Path) -> None:
    (tmp_path / "metrics").touch()
    Phases(tmp_path, 3).enter(Phase.INIT)
    assert (tmp_path / "metrics").is_file()
