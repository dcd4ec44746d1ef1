from __future__ import annotations

import io
import json

import pytest

from model.config.prompt_templates import wrap
from model.data.records import Document, Record, RecordError, format_of, load_records, parse, stream
from model.errors import ModelError


def test_the_templates():
    plain = wrap("Count {to} three.")
    assert (
        plain.endswith("### Instruction:\nCount {to} three.\n\n### Response:\n") and "### Input" not in plain
    )
    paired = wrap("Add {input}.", "1 and {instruction}")
    assert "paired with an input" in paired
    assert paired.endswith(
        "### Instruction:\nAdd {input}.\n\n### Input:\n1 and {instruction}\n\n### Response:\n"
    )
    assert wrap("Hello", template="none") == "Hello\n"
    assert wrap("你好", template="belle") == "Human: 你好 \n\nAssistant:"
    assert wrap("Add.", "1", template="belle") == "Human: Add.\n1 \n\nAssistant:"


RECORD = {"instruction": "a", "input": "", "output": "b"}


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (json.dumps([RECORD, {"text": "t"}]), "json", [Record("a", "b"), Document("t")]),
        ("\n " + json.dumps(RECORD) + "\n\n" + json.dumps({"text": "t"}) + "\n", "jsonl", None),
        ("\ufeff" + json.dumps(RECORD) + '\n{"text": "t"}', "jsonl", None),
        (
            "one line\nand its second\n\n\nanother\n",
            "text",
            [Document("one line\nand its second"), Document("another")],
        ),
    ],
)
def test_a_file_says_what_it_is_and_gives_its_records(tmp_path, content, kind, expected):
    path = tmp_path / "data"
    path.write_text(content)
    assert format_of(path) == kind
    assert load_records(path) == (expected or [Record("a", "b"), Document("t")])


def test_a_list_is_not_read_further_than_it_is_asked_for():
    pytest.importorskip("ijson")

    class Endless:
        read_bytes = 0

        def read(self, size):
            head = b"[" if size and not self.read_bytes else b""
            self.read_bytes += size
            return head + (json.dumps(RECORD) + ",").encode() * (size // 60)

    file = Endless()
    values = stream(file, "json", "x")
    assert [parse(next(values)) for _ in range(10)] == [Record("a", "b")] * 10
    assert file.read_bytes < 1e6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "is no JSON"),
        ('[{"instruction": "a", "output": "b"}', "is no JSON"),
        ("[]", "holds no record"),
        ("", "is empty"),
        ('{"a": 1}', "record 0: 'instruction' must be a text that is not empty"),
        ('[{"instruction": "a", "output": "b"}, 3]', "record 1: must be a table, not int"),
        ('[{"instruction": "a"}]', "record 0: 'output' must be a text that is not empty"),
        ('[{"instruction": "a", "output": "b", "input": 3}]', "record 0: 'input' must be a text"),
        ('{"instruction": "\\ud800", "output": "b"}', "'instruction' holds half a surrogate pair"),
        ('{"instruction": "a", "output": "b"}\n{"instruc', "record 1: is no JSON"),
        (b"good\n\n\xff\xfe\n", "record 1: is no UTF-8"),
    ],
)
def test_bad_records_are_named(tmp_path, content, message):
    path = tmp_path / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError) as caught:
        load_records(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no\.json: cannot be read: No such file"):
        load_records(tmp_path / "no.json")


def test_what_is_deep_is_one_bad_record():
    lines = io.BytesIO(b"[" * 100_000 + b"\n" + json.dumps(RECORD).encode())
    first, second = stream(lines, "jsonl", "x")
    assert isinstance(first, RecordError) and parse(second) == Record("a", "b")
