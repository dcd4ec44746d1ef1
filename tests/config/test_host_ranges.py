"""Host ranges, and their inverse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.host_ranges import RangeError, expand, fold, natural_key, split_list


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("npu1", ["npu1"]),
        ("npu[001-003]", ["npu001", "npu002", "npu003"]),
        ("192.168.0.[0-2]", ["192.168.0.0", "192.168.0.1", "192.168.0.2"]),
        ("a[1,3-4]b[01-02]", ["a1b01", "a1b02", "a3b01", "a3b02", "a4b01", "a4b02"]),
        ("a[1-2], b ,c[7]", ["a1", "a2", "b", "c7"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("[0-1].example.com", ["0.example.com", "1.example.com"]),
    ],
)
def test_expand(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,,b", "an item is empty in 'a,,b'"),
        ("n[]", "expected numbers such as [1-3,7], got []"),
        ("n[1..3]", "expected numbers such as [1-3,7], got [1..3]"),
        ("n[a-c]", "expected numbers such as [1-3,7], got [a-c]"),
        ("n[3-1]", "3-1: runs downwards"),
        ("n[1-03]", "1-03: both ends need the same number of digits"),
        ("n[1-2", "brackets do not match in 'n[1-2'"),
        ("n1-2]", "brackets do not match in 'n1-2]'"),
        ("n[[1-2]]", "brackets do not match in 'n[[1-2]]'"),
        ("n[0-8)", "brackets do not match in 'n[0-8)'"),
        ("n[1-999999]", "[1-999999] makes more than 65536 names"),
        ("n[1-300][1-300]", "'n[1-300][1-300]' makes more than 65536 names"),
        ("n[1-99999999999999999999]", "expected numbers such as [1-3,7], got [1-99999999999999999999]"),
    ],
)
def test_ranges_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(RangeError) as caught:
        expand(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["npu1"], "npu1"),
        (["npu001", "npu003", "npu002"], "npu[001-003]"),
        (["n10", "n9", "n8"], "n[8-10]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n1", "n01"], "n[1,01]"),
        (["a1b1", "a1b2", "a3b1", "a3b2"], "a[1,3]b[1-2]"),
        (["x2.dc1.net", "x3.dc1.net"], "x[2-3].dc1.net"),
        (["10.0.0.9", "10.0.0.10", "login"], "10.0.0.[9-10],login"),
    ],
)
def test_fold(names: list[str], text: str) -> None:
    assert fold(names) == text


NAMES = st.from_regex(r"[a-z]{0,2}[0-9]{1,3}([.-][a-z0-9]{1,3})?", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES, max_size=30))
def test_expand_undoes_fold(names: list[str]) -> None:
    folded = fold(names)
    back = expand(folded) if folded else ()
    assert set(back) == set(names)
    assert len(back) == len(set(names))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a1,[]-0 !", max_size=20))
def test_any_text_expands_or_is_refused_in_words(text: str) -> None:
    try:
        assert all(expand(text))
    except RangeError as error:
        assert "\n" not in str(error)


def test_natural_order_counts() -> None:
    assert sorted(["n10", "n9", "m", "n"], key=natural_key) == ["m", "n", "n9", "n10"]


def test_commas_in_brackets_do_not_split() -> None:
    assert split_list("a[1,2],b") == ["a[1,2]", "b"]
