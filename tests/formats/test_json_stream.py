from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.formats.json_stream import JsonError, first_value, line_values, list_values

BOM = b"\xef\xbb\xbf"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Trickle(io.BytesIO):
    """A file that gives a few bytes at a time, whatever it is asked for."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self.step = step

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.step)


@settings(max_examples=25)
@given(st.lists(VALUES, max_size=4), st.integers(1, 9), st.booleans(), st.booleans())
def test_a_list_is_read_as_the_json_module_reads_it(values, step, is_ascii, has_bom) -> None:
    data = json.dumps(values, ensure_ascii=is_ascii, indent=1).encode()
    file = Trickle(BOM + data if has_bom else data, step)
    assert list(list_values(file)) == json.loads(data)


@settings(max_examples=60)
@given(st.binary(max_size=40))
def test_what_the_json_module_refuses_is_refused(noise) -> None:
    data = b'[{"a": [1, 2.5e3, "\\u00e9"]}, ' + noise
    try:
        expected = json.loads(data)
    except (ValueError, RecursionError):
        with pytest.raises(JsonError):
            list(list_values(Trickle(data, 3)))
    else:
        assert list(list_values(Trickle(data, 3))) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON list"),
        (b"{}", "is no JSON list"),
        (b"[1, 2", "is no JSON: it breaks off after 2 values"),
        (b"[1, ", "is no JSON: it breaks off after 1 values"),
        (b"[1 2]", "is no JSON: after value 0 stands '2'"),
        (b"[1,]", "is no JSON: value 1: expecting value"),
        (b"[1] 2", "is no JSON: it goes on after the end of its list"),
        (b'[{"a": tru}]', "is no JSON: value 0: expecting value"),
        (b'["\xff"]', "is no UTF-8 near byte 2"),
        (b'["a', "is no JSON: value 0: unterminated string"),
        (b"[" * 100_000, "is no JSON: value 0: it is nested too deeply"),
        (b"[" + b"9" * 100_000 + b"]", "is no JSON: it holds a number of 100000 digits"),
    ],
)
def test_what_is_wrong_is_said(data, message) -> None:
    with pytest.raises(JsonError) as caught:
        list(list_values(io.BytesIO(data)))
    assert str(caught.value).startswith(message)


def test_a_list_is_not_read_further_than_it_is_asked_for() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1, /) -> bytes:
            head = b"[" if not self.given else b""
            self.given += size
            return head + b'{"a": "b"},' * (size // 11)

    file = Endless()
    values = list_values(file)  # type: ignore[arg-type]
    assert [next(values) for _ in range(10)] == [{"a": "b"}] * 10
    assert file.given < 1e6


def test_each_line_stands_for_itself() -> None:
    lines = BOM + b'{"a": 1}\r\n\r\n{"a": \n' + b"[" * 100_000 + b'\n"\xe4"\n' + BOM + '"\u2028\f"'.encode()
    first, broken, deep, latin, last = line_values(io.BytesIO(lines))
    assert first == {"a": 1} and isinstance(last, JsonError)  # a form feed must be escaped
    assert [str(error).split(":")[0] for error in (broken, deep, latin)] == [
        "is no JSON",
        "is no JSON",
        "is no UTF-8 at byte 1 of the line",
    ]
    assert list(line_values(io.BytesIO('"a\u2028b\x85c"\n'.encode()))) == ["a\u2028b\x85c"]


def test_a_value_over_several_lines() -> None:
    assert first_value(io.BytesIO(BOM + b'\n {\n "a": [1,\n 2]}\n{}')) == {"a": [1, 2]}
