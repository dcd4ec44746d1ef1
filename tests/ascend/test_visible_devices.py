"""ASCEND_RT_VISIBLE_DEVICES, by what CANN's own unit tests expect of each value."""

from __future__ import annotations

import pytest

from orchestrator.ascend.visible_devices import read_visible

LONG = "0,1,3,4,5,6,7,8,9" + ",1,2,3,4,5,6,7,8,9" * 6 + ",1,2,3,4"


# hicann/runtime, tests/ut/runtime/runtime/test/platform/910B/rt_utest_runtime.cc,
# ut_GetVisibleDevicesByChipCloudTest0: `userDeviceCnt` on a host of three devices.
@pytest.mark.parametrize(
    ("value", "visible"),
    [
        ("", 0),
        (",0", 0),
        ("0,1,5,7", 2),
        ("1", 1),
        ("1,,", 1),
        ("1*", 1),
        ("1,", 1),
        ("0,1", 2),
        ("0,1$0,", 2),
        ("0#1,", 1),
        ("-1,3", 0),
        ("0,1,2", 3),
        ("0,1,2,0", 3),
        ("10,", 0),
        ("10", 0),
        ("10#", 0),
        ("1,-1", 1),
        ("0,1,1", 0),
        ("1,0,1", 0),
        ("1,1,0", 0),
        (LONG, 2),
        ("1234567891012345678910123456789", 0),
    ],
)
def test_as_many_devices_as_cann_sees(value: str, visible: int) -> None:
    assert len(read_visible(value, 3).ids) == visible


@pytest.mark.parametrize(
    ("value", "ids", "trouble"),
    [
        ("0,1,2,3", (0, 1, 2, 3), ""),
        ("4,5", (4, 5), ""),
        # The example of the reference: nothing after the blank is read.
        ("1, 2,3", (1,), "it ends before ', 2,3'"),
        ("0,,1", (0,), "it ends before ',,1'"),
        ("0-3", (0,), "it ends before '-3'"),
        ("3,2,1", (), "the ids must ascend"),
        ("0,1,1", (), "the ids must ascend"),
        (" 0,1", (), "it begins with no device id"),
        ("", (), "it begins with no device id"),
        ("٣", (), "it begins with no device id"),  # a digit, but none of CANN's
        ("0\n", (0,), "it ends before '\\n'"),
    ],
)
def test_what_is_not_read_is_told(value: str, ids: tuple[int, ...], trouble: str) -> None:
    assert read_visible(value) == (ids, trouble)


def test_an_id_beyond_the_devices_ends_it() -> None:
    assert read_visible("0,8,1", 8) == ((0,), "it ends before 8, for there are 8 devices")


def test_more_than_fits_is_cut() -> None:
    """A super node of 64 devices, all of them listed: the 128th character is the comma after 45."""
    visible = read_visible(",".join(map(str, range(64))))
    assert visible == (tuple(range(46)), "only 128 characters are read")
