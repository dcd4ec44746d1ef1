from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.formats.prompts import Prompt, check_prompts, prompts_of
from orchestrator.formats.text_records import (
    Document,
    Record,
    RecordError,
    RecordFileError,
    Unread,
    check_records,
    format_of,
    open_records,
    records,
)

RECORD = {"instruction": "a", "input": "", "output": "b"}
BOM = "\ufeff"


def read(path: Path) -> list[Record | Document | RecordError]:
    with open_records(path) as file:
        return list(records(file, format_of(path), str(path), Unread()))


@pytest.mark.parametrize("before", ["", BOM, "\n ", BOM + "\r\n"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (json.dumps([RECORD, {"text": "t"}]), "json"),
        (json.dumps(RECORD) + "\n\n" + json.dumps({"text": "t"}) + "\n", "jsonl"),
        (json.dumps(RECORD) + "\r\n" + BOM + '{"text": "t"}', "jsonl"),  # two files, one after the other
    ],
)
def test_a_file_says_what_it_is_and_gives_its_records(tmp_path, before, content, kind) -> None:
    path = tmp_path / "data"
    path.write_bytes((before + content).encode())
    assert format_of(path) == kind
    assert read(path) == [Record("a", "b"), Document("t")]
    assert check_records(path).words() == ""


@pytest.mark.parametrize("before", ["", BOM, BOM + "\n"])
def test_paragraphs_are_documents(tmp_path, before) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes((before + "one line\nand\x0cits\u2028second\n\n\r\nanother\n").encode())
    assert read(path) == [Document("one line\nand\x0cits\u2028second"), Document("another")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is no JSON"),
        ('[{"instruction": "a", "output": "b"}', "is no JSON: it breaks off"),
        ("", "is empty"),
        ("\n\n \n", "is empty"),
        ('{"a": 1}', "record 0: 'instruction' must be a text that is not empty; its keys are a"),
        ('[{"instruction": "a", "output": "b"}, 3]', "record 1: must be a table, not int"),
        ('[{"instruction": "a"}]', "record 0: 'output' must be a text that is not empty"),
        ('[{"instruction": "a", "output": "b", "input": 3}]', "record 0: 'input' must be a text"),
        ('{"instruction": "\\ud800", "output": "b"}', "'instruction' holds half a surrogate pair"),
        ('{"instruction": "a", "output": "b", "input": "\\udc00"}', "'input' holds half a surrogate pair"),
        ('{"instruction": "a", "output": "b"}\n{"instruc', "record 1: is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"text": ' + "[" * 100_000 + "\n", "record 0: is no JSON: it is nested too deeply"),
        ("<!DOCTYPE html>\n<p>Not found</p>", "is called .json but begins with '<!DOCTYPE html>"),
        ("Not JSON", "is called .json but begins with"),
        (json.dumps([{**RECORD, "history": "x"}]), "'history' must be a list of [question, answer]"),
        (json.dumps([{**RECORD, "history": [["x"]]}]), "'history' must be a list of [question, answer]"),
        (json.dumps([{**RECORD, "system": "Be a pirate."}]), "has a 'system', for which no template here"),
        (
            json.dumps([{"id": 1, "conversations": []}]),
            "its keys are id, conversations (conversations: ShareGPT",
        ),
        (json.dumps({"messages": []}), "its keys are messages (messages: messages of role and content"),
        (json.dumps({"version": 1, "data": [RECORD]}), "the records seem to be under `data`"),
        (json.dumps({"version": 1, "data": [RECORD]}, indent=1), "the records seem to be under `data`"),
        (json.dumps(RECORD, indent=1), "is one JSON object over several lines (its keys are instruction,"),
        ('{"prompt": "a", "completion": "b"}', "prompt and completion; not read here"),
    ],
)
def test_what_is_none_is_named(tmp_path, content, message) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(RecordFileError) as caught:
        check_records(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_what_is_no_text_among_paragraphs_is_one_bad_record(tmp_path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"good\n\n\xff\xfe\n\n" + b"more " * 20_000 + b"\n\na\0b\n\nlast")
    good, bad, _, nul, last = read(path)
    assert (good, last) == (Document("good"), Document("last"))
    assert "is no UTF-8" in str(bad) and "holds a NUL byte" in str(nul)


def test_turns_before_a_question_are_read_and_what_is_not_read_is_told(tmp_path) -> None:
    path = tmp_path / "data.json"
    more = {"id": 1, "history": [["hi", "A"], ["", "B"]], "system": ""}
    path.write_text(
        json.dumps([{**RECORD, **more}, {**RECORD, "id": 2, "history": []}, {"text": "t", "url": "u"}])
    )
    assert read(path)[0] == Record("a", "b", "", (("hi", "A"), ("", "B")))
    assert check_records(path).words() == "not read: 'id' of 2 records, 'url' of 1 records"


def test_only_so_much_is_checked_as_is_asked_for(tmp_path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text((json.dumps(RECORD) + "\n") * 3000 + "broken\n")
    check_records(path, limit=3000)
    check_records(path, most=1000)
    with pytest.raises(RecordFileError, match="record 3000: is no JSON"):
        check_records(path)


PROMPTS = ["a\u2028b", "c\x0cd\x85e", "f"]


@pytest.mark.parametrize("before", ["", BOM])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\n".join(PROMPTS) + "\r\n\n"),
        ("p.jsonl", "\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in PROMPTS)),
        ("p.jsonl", "\n".join(json.dumps({"instruction": text, "input": ""}) for text in PROMPTS) + "\n"),
        ("p.json", json.dumps([{"instruction": text} for text in PROMPTS], indent=2)),
        ("p.json", json.dumps(PROMPTS)),
    ],
)
def test_only_a_line_feed_ends_a_prompt(tmp_path, before, name, content) -> None:
    path = tmp_path / name
    path.write_bytes((before + content).encode())
    assert list(prompts_of(path, Unread())) == [Prompt(text) for text in PROMPTS]


def test_prompts_with_turns_and_with_keys_that_nobody_reads(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({**RECORD, "history": [["q", "r"]], "temperature": 2, "input": "i"}))
    unread = Unread()
    assert list(prompts_of(path, unread)) == [Prompt("a", "i", (("q", "r"),))]
    assert unread.words() == "not read: 'output' of 1 records, 'temperature' of 1 records"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"prompt": "\\ud800"}', "'prompt' holds half a surrogate pair"),
        (
            "p.jsonl",
            b'{"prompt": ' + b"[" * 100_000,
            "p.jsonl: prompt 1: is no JSON: it is nested too deeply",
        ),
        (
            "p.jsonl",
            b'{"prompt": "a"}\n{"prompt": 3}',
            "p.jsonl: prompt 2: is no prompt: 'prompt' must be a text",
        ),
        ("p.jsonl", b'{"prompt": " "}', "prompt 1: is no prompt: 'prompt' is blank"),
        ("p.jsonl", b'{"prompt": "a", "system": "b"}', "has a 'system'"),
        ("p.txt", b'{"prompt": "a"}\n', "holds JSON lines, but is not called so"),
        ("p.txt", b"good\n\xff\n", "p.txt:2: is no UTF-8"),
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.csv", b"a,b\n", "is CSV"),
        ("p.txt", b"\x1f\x8b\x08\x00", "is gzip"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path, name, content, message) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordFileError) as caught:
        check_prompts(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


MEGABYTE = 1 << 20
HARD = {
    "open lists": b"[" * MEGABYTE,
    "open tables": b'{"a":' * (MEGABYTE // 5),
    "numbers": b"[" + b"1," * (MEGABYTE // 2),
    "digits": b"[" + b"9" * MEGABYTE,
    "one string": b'["' + b"a" * MEGABYTE,
    "escapes": b'["' + b"\\u00e9" * (MEGABYTE // 6),
    "spaces": b" " * MEGABYTE + b"[",
    "lines": b"{\n" * (MEGABYTE // 2),
    "keys": b"[" + json.dumps({**RECORD, **{f"k{n}": n for n in range(70_000)}}).encode() + b"]",
    "paragraphs": b"a\n\n" * (MEGABYTE // 3),
    "one paragraph": b"a\n" * (MEGABYTE // 2),
    "empty lines": b"a" + b"\n" * MEGABYTE,
    "columns": b"a," * (MEGABYTE // 2),
    "the same key": b'[{"instruction": "a", "output": "b"' + b', "x": 1' * (MEGABYTE // 9) + b"}]",
    "noise": os.urandom(MEGABYTE),
}
# In one process, for its memory counts from its start.
WITHIN = r"""
import re, sys, time
from pathlib import Path
from orchestrator.formats.prompts import check_prompts
from orchestrator.formats.text_records import RecordFileError, check_records
for path in map(Path, sys.argv[1:]):
    for check in (check_records, check_prompts):
        began = time.process_time()
        try:
            check(path)
        except RecordFileError:
            pass
        # Of this program alone: `ru_maxrss` begins with what the process had that it was forked from.
        status = Path("/proc/self/status").read_text()
        memory = int(re.search(r"VmHWM:\s*(\d+)", status)[1])
        print(path.name, check.__name__, time.process_time() - began, memory)
"""


def test_a_megabyte_of_anything_is_answered_within_two_seconds_and_300_mb(tmp_path) -> None:
    paths = []
    for name, content in HARD.items():
        path = tmp_path / f"{name.replace(' ', '-')}{'.json' if content[:1] in b'[{' else '.txt'}"
        path.write_bytes(content)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, *paths],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 2 * len(paths)
    for name, check, seconds, kilobytes in rows:
        assert float(seconds) < 2 and int(kilobytes) < 300_000, (name, check, seconds, kilobytes)
