"""What codes of devices ask for: their levels, and how often they may come."""

from __future__ import annotations

import pytest

from orchestrator.control.decisions import DeviceFault, Level
from orchestrator.diagnosis import device_codes
from orchestrator.diagnosis.evidence import DeviceHealth
from orchestrator.recovery.device_levels import asked_by, counted, faults_of
from tests.recovery.ended import NOW, fault

HBM, PORT, TWICE, THRICE = "80E01801", "81078603", "80C98008", "80E18005"
DAY = 86400.0


@pytest.mark.parametrize(
    ("codes", "status", "level"),
    [
        (("80E01809",), "Alarm", Level.NOTED),
        (("81078605",), "Warning", Level.NOTED),  # some lanes are faulty: it goes on
        (("0x80e01801",), "Alarm", Level.AGAIN),
        (("80C98008",), "Alarm", Level.AGAIN),
        (("80C98001",), "Alarm", Level.OTHER_DEVICE),
        (("8C17A005",), "Alarm", Level.OTHER_DEVICE),
        (("8F180241",), "Alarm", Level.OTHER_DEVICE),  # PreSeparateNPU
        (("80E18402",), "Alarm", Level.DRAIN),
        (("81078603",), "Alarm", Level.AGAIN),  # its port is down, and may come up again
        (("12345678",), "Alarm", Level.OTHER_DEVICE),  # nobody knows it
        (("12345678",), "OK", Level.NOTED),
        ((), "Critical", Level.OTHER_DEVICE),
        (("8C1F8608",), "Alarm", Level.NOTED),  # alone
        (("8C1F8608", "81078603"), "Alarm", Level.DRAIN),  # with a port that is down
        (("8C1F8609", "81078603"), "Alarm", Level.AGAIN),
    ],
)
def test_what_a_code_asks_for(codes: tuple[str, ...], status: str, level: Level) -> None:
    found = faults_of("a", [DeviceHealth(3, status, codes)], NOW)
    assert max(each.level for each in found) is level
    assert {(each.host, each.device, each.time) for each in found} == {("a", 3, NOW)}


def test_a_device_that_is_well_tells_no_fault() -> None:
    assert faults_of("a", [DeviceHealth(0, "OK"), DeviceHealth(1, "Warning")], NOW) == ()


def repeated(code: str, *before: float) -> DeviceFault:
    """The fault of now, after it came so many seconds before."""
    history = [fault("a", 1, code, Level.AGAIN, time=NOW - seconds) for seconds in before]
    (found,) = counted([fault("a", 1, code, Level.AGAIN)], history)
    return asked_by(found)


@pytest.mark.parametrize(
    ("code", "before", "level"),
    [
        (HBM, (), Level.AGAIN),
        (HBM, (DAY - 1,), Level.OTHER_DEVICE),
        (HBM, (DAY + 1,), Level.AGAIN),
        (TWICE, (10.0,), Level.OTHER_DEVICE),
        (THRICE, (10.0,), Level.AGAIN),
        (THRICE, (20.0, 10.0), Level.OTHER_DEVICE),
        (PORT, (40.0, 30.0, 20.0), Level.AGAIN),
        (PORT, (50.0, 40.0, 30.0, 20.0), Level.OTHER_DEVICE),
        ("8C204E00", (30.0, 20.0, 10.0), Level.AGAIN),  # it has no such rule
    ],
)
def test_a_code_that_comes_too_often_takes_its_device_out(
    code: str, before: tuple[float, ...], level: Level
) -> None:
    assert repeated(code, *before).level is level


def test_a_port_is_used_again_after_two_days_and_others_are_not() -> None:
    assert repeated(PORT, 4.0, 3.0, 2.0, 1.0).released == NOW + 172_800
    assert repeated(HBM, 1.0).released is None


def test_other_devices_and_codes_count_for_themselves() -> None:
    history = [
        fault("b", 1, HBM, Level.AGAIN, time=NOW - 5000),
        fault("a", 2, HBM, Level.AGAIN, time=NOW - 4000),
        fault("a", 1, TWICE, Level.AGAIN, time=NOW - 3000),
    ]
    (found,) = counted([fault("a", 1, HBM, Level.AGAIN)], history)
    assert found.repeats == 0


def test_what_many_devices_tell_at_once_is_not_counted() -> None:
    at_once = [fault(host, 0, HBM, Level.AGAIN, time=NOW - 1000) for host in "ab"]
    (found,) = counted([fault("a", 0, HBM, Level.AGAIN)], at_once)
    assert found.repeats == 0
    alone = [fault("a", 0, HBM, Level.AGAIN, time=NOW - 1000)]
    now = [fault("a", 0, HBM, Level.AGAIN), fault("b", 0, HBM, Level.AGAIN, time=NOW - 29)]
    assert [each.repeats for each in counted(now, alone)] == [0, 0]
    apart = [now[0], fault("b", 0, HBM, Level.AGAIN, time=NOW - 31)]
    assert [each.repeats for each in counted(apart, alone)] == [1, 0]


def test_the_table_has_all_of_its_source() -> None:
    """Counts of faultCode.json, without codes that are listed twice."""
    levels = device_codes._table().levels
    counts = {level: sum(each is level for each in levels.values()) for level in device_codes.Level}
    assert counts[device_codes.Level.AVOID] == 200 and counts[device_codes.Level.SUB_HEALTHY] == 13
    assert len(levels) == 802 and len(device_codes._table().repeats) == 43
    assert device_codes.level_of("A2301001") is device_codes.Level.REPLACE  # it is in two lists
    assert all(code == code.upper() for code in levels)
