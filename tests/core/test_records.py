"""What is on disk about a run, in the words of earlier versions."""

from __future__ import annotations

from orchestrator.core.codec import dumps, from_json, loads, parse, to_json
from orchestrator.core.records import Attempt, Event, LockNote, Manifest


def test_a_line_of_the_history_of_an_earlier_version() -> None:
    line = '{"time": 1.5, "event": "exit", "label": "rank_1", "exit_code": 3, "signal": null}'
    event = Event(1.5, "exit", rank=1, code=3)
    assert from_json(Event, parse(line)) == event == from_json(Event, to_json(event))


def test_the_note_in_a_lock_of_an_earlier_version() -> None:
    note = LockNote("run-1", 12)
    assert loads(LockNote, '{"run_id": "run-1", "pid": 12}') == note == loads(LockNote, dumps(note))


def test_a_manifest_without_attempts_is_that_of_the_first() -> None:
    written = '{"run_id": "r", "job": "j", "host": "h", "created": 1.0, "workers": []}'
    assert loads(Manifest, written).attempt == Attempt(1, "")
