"""Files that are no YAML, YAML that is no mapping, and what plain scalars mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.config.yaml_reader import dotted, read_yaml
from orchestrator.core.errors import ConfigError
from tests.config.support import JOB, job, lines_of

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)
)
SYNTAX = {
    "": "f.yaml: is empty (write lines such as `name: value`)",
    "# only this\n": "f.yaml: is empty (write lines such as `name: value`)",
    "- a\n- b\n": "f.yaml: is not a mapping of keys to values (write lines such as `name: value`)",
    "hello\n": "f.yaml: is not a mapping of keys to values (write lines such as `name: value`)",
    "a:\n\tb: 1\n": "f.yaml:2: a tab is used for indentation (use spaces)",
    "a: b: c\n": "f.yaml:1: a second ': ' on one line (put text that holds a colon in quotes)",
    "a: 1\nb: @x\n": "f.yaml:2: a value begins with a character that YAML reserves (put the value in quotes)",
    "a: %x\n": "f.yaml:1: a value begins with a character that YAML reserves (put the value in quotes)",
    "a: [x, !y]\n": "f.yaml:1: a value begins with !, which YAML takes for a tag (put the value in quotes)",
    "a: !y z\n": "f.yaml:1: a: !y is a YAML tag, and none is used here"
    " (put text that begins with ! in quotes: '!y')",
    "a: [n[1-3], b]\n": "f.yaml:1: a list in [ ] or a mapping in { } is not closed"
    " (put names with brackets in quotes)",
    "a: {b: 1\nc: 2\n": "f.yaml:2: a list in [ ] or a mapping in { } is not closed"
    " (put names with brackets in quotes)",
    'a: "b\n': "f.yaml:2: a quoted text is not closed (add the closing quote)",
    "a:\n  b: 1\n c: 2\n": "f.yaml:3: a line does not fit its indentation"
    " (give the keys of one mapping the same indentation)",
    "a: 1\n---\nb: 2\n": "f.yaml:2: holds more than one YAML document (keep one, without `---` between)",
    "a: x\x00y\n": "f.yaml:1: holds a control character (remove it)",
    "a: *x\n": "f.yaml:1: *x refers to no &x before it"
    " (write &x before the value that it repeats, or put text that begins with * in quotes)",
    "a: 1\nb: [é, *train_dataset, 2]\n": "f.yaml:2: *train_dataset refers to no &train_dataset before it"
    " (write &train_dataset before the value that it repeats, or put text that begins with * in quotes)",
    "a: &a [*a]\n": "f.yaml:1: grows without end (an alias (*name) repeats or contains itself)",
    "? [a, b]\n: c\n": "f.yaml:1: a list or a mapping is used as a key",
    "a: " + "[" * 5000: "f.yaml:1: is nested more than 64 deep",
    "- " * 100_000: "f.yaml:1: is nested more than 64 deep",
    BOMB: "f.yaml:1: grows without end (an alias (*name) repeats or contains itself)",
    "a: 1\nb:\n  c: 1\n  c: 2\na: 3\n": "f.yaml:4: b.c: is given twice, first on line 3",
}


def _read(path: Path) -> None:
    file = read_yaml(path)
    if file.problems:
        raise ConfigError(file.problems)


@pytest.mark.parametrize("text", SYNTAX, ids=lambda text: repr(text[:20]))
def test_text_that_is_no_such_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    assert lines_of(tmp_path, lambda: _read(tmp_path / "f.yaml"))[0] == SYNTAX[text]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a: 1\nb: d\xe9\n", "f.yaml:2: is not UTF-8 text (save it as UTF-8)"),
        ("a: 1".encode("utf-16"), "f.yaml:1: is not UTF-8 text (save it as UTF-8)"),
        (b"#" * (5 << 20), "f.yaml: is larger than 4 MiB (is it the right file?)"),
    ],
)
def test_bytes_that_are_no_such_file(tmp_path: Path, data: bytes, line: str) -> None:
    (tmp_path / "f.yaml").write_bytes(data)
    assert lines_of(tmp_path, lambda: _read(tmp_path / "f.yaml")) == [line]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert lines_of(tmp_path, lambda: _read(tmp_path / "none.yaml")) == ["none.yaml: no such file"]
    (tmp_path / "d").mkdir()
    assert lines_of(tmp_path, lambda: _read(tmp_path / "d")) == ["d: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("0x1F", 31),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("22:30", "22:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda item: str(item)[:12],
)
def test_plain_scalars(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "f.yaml").write_text(f"a: {text}\n")
    read = read_yaml(tmp_path / "f.yaml").data["a"]
    assert read == value and type(read) is type(value)


def test_every_key_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("\ufeffa: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", encoding="utf-8")
    file = read_yaml(tmp_path / "f.yaml")
    assert file.lines[("b", 1, "d")] == 5
    assert file.where(("b", 1, "d")).endswith("f.yaml:5: b[1].d")
    assert file.where(("b", 1, "none")).endswith("f.yaml:4: b[1].none")
    assert dotted(("b", 1, "d")) == "b[1].d"


def test_aliases_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("a: &x {b: 1}\nc: *x\n")
    assert read_yaml(tmp_path / "f.yaml").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_reading_and_checking_report_together(tmp_path: Path) -> None:
    text = JOB + "name: again\ntrian: {}\n"
    assert lines_of(tmp_path, lambda: job(tmp_path, text)) == [
        "job.yaml:10: name: is given twice, first on line 1",
        "job.yaml:11: trian: unknown key (did you mean `train`?)",
    ]


@pytest.mark.parametrize("given", [b"networking.mode=\xff", b"networking.mode=['\xff']", b"a\xffb=1"])
def test_an_argument_that_is_no_text_is_refused(tmp_path: Path, given: bytes) -> None:
    lines = lines_of(tmp_path, lambda: job(tmp_path, JOB, os.fsdecode(given)))
    key = os.fsdecode(given).partition("=")[0].replace("\udcff", "\\udcff")
    assert lines == [f"--set {key}: is not UTF-8 text (write it as UTF-8)"]
