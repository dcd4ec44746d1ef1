"""The agent's dataclass against the standard library's, on classes of all that the agent uses."""

from __future__ import annotations

import copy
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest

from orchestrator.core import record_class
from orchestrator.core.record_class import light_dataclass

ROOT = Path(__file__).parents[2]
EVERYTHING = """
import importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
for room in ("core", "agent"):
    for path in sorted(pathlib.Path(sys.argv[1], "orchestrator", room).glob("[!_]*.py")):
        importlib.import_module(f"orchestrator.{room}.{path.stem}")
from orchestrator.core import record_class
assert record_class.dataclass is record_class.light_dataclass
"""
LAUNCH = """
import sys
sys.path.insert(0, sys.argv[1])
import orchestrator.agent.run_watch, orchestrator.agent.verbs_data
import orchestrator.agent.verbs_host, orchestrator.agent.verbs_run
absent = {"dataclasses", "inspect", "hashlib", "tempfile", "shutil", "traceback", "platform"}
found = absent & set(sys.modules)
assert not found, found
"""
REPLACED = """
import sys
sys.path.insert(0, sys.argv[1])
from orchestrator.core.record_class import dataclass, field, light_dataclass, replace
assert dataclass is light_dataclass
@dataclass(frozen=True)
class Part:
    FORMAT: "ClassVar[int]" = 1
    number: int
    name: str = "a"
    notes: dict = field(default_factory=dict)
part = Part(1)
other = replace(part, name="z")
assert vars(other) == {"number": 1, "name": "z", "notes": {}} and part.name == "a"
assert other != part and replace(other, name="a") == part and type(other) is Part
try:
    replace(part, colour=1)
except TypeError:
    pass
else:
    raise SystemExit("a field that there is not was taken")
"""


def _make(decorate: Callable[..., Any], field: Callable[..., Any]) -> tuple[Any, Any]:
    @decorate(frozen=True)
    class Base:
        FORMAT: ClassVar[int] = 1
        LARGEST = 5

        number: int
        name: str = "a"

    @decorate(frozen=True)
    class Derived(Base):
        LARGEST = 6

        more: tuple[int, ...] = ()
        notes: Mapping[str, Any] = field(default_factory=dict)
        other: Base | None = None

        @property
        def twice(self) -> int:
            return self.number * 2

    return Base, Derived


REAL = _make(dataclasses.dataclass, dataclasses.field)
LIGHT = _make(light_dataclass, record_class._light_field)
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "by-place": ((1, "b", (1, 2), {"x": 1}), {}),
    "by-name": ((), {"number": 1, "notes": {"y": [1]}}),
    "mixed": ((3,), {"name": "c", "more": (4,)}),
    "defaults": ((7,), {}),
    "missing": ((), {"name": "c"}),
    "unknown": ((1,), {"colour": 1}),
    "twice": ((1,), {"number": 1}),
    "too-many": ((1, "b", (), {}, None, 6), {}),
    "one-missing-one-unknown": ((), {"colour": 1}),
}


def _said(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (TypeError, AttributeError) as error:
        return type(error) if type(error) is TypeError else AttributeError


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_instance_is_made_and_shown_like_the_real_one(name: str) -> None:
    args, named = ARGUMENTS[name]
    real, light = (_said(lambda kind=kind: kind(*args, **named)) for kind in (REAL[1], LIGHT[1]))
    if real is TypeError:
        assert light is TypeError
        return
    assert repr(light) == repr(real)
    assert vars(light) == vars(real)
    assert light == LIGHT[1](*args, **named)
    assert light != LIGHT[1](number=99)
    assert light != real
    assert light.twice == real.twice


def test_it_is_frozen_hashed_and_replaced_like_the_real_one() -> None:
    for act in (
        lambda kind: setattr(kind(1), "number", 2),
        lambda kind: delattr(kind(1), "number"),
        lambda kind: setattr(kind(1), "new", 2),
    ):
        assert _said(lambda act=act: act(LIGHT[0])) is _said(lambda act=act: act(REAL[0])) is AttributeError
    assert hash(LIGHT[0](1)) == hash(LIGHT[0](1, "a")) != hash(LIGHT[0](2))
    assert _said(lambda: hash(LIGHT[1](1))) is _said(lambda: hash(REAL[1](1))) is TypeError  # holds a dict
    new = LIGHT[1](1, name="z")
    assert copy.deepcopy(new) == new


@dataclasses.dataclass(frozen=True)
class Checked:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError("high < low")

    @functools.cached_property
    def width(self) -> int:
        return self.high - self.low


@dataclasses.dataclass(frozen=True)
class Counted:
    low: int
    high: int

    @functools.cached_property
    def width(self) -> int:
        return self.high - self.low


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    low: int
    high: int


@pytest.mark.parametrize("kind", [REAL[0], REAL[1], Checked, Counted, Slotted])
def test_a_field_is_replaced_as_by_the_standard_library(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind)][:2]
    value = kind(**dict(zip(names, (1, 5), strict=True)))
    for change in ({}, {names[1]: 9}, {names[0]: 2, names[1]: 3}, {"colour": 1}):
        new, old = (
            _said(lambda make=make, change=change: make(value, **change))
            for make in (record_class.replace, dataclasses.replace)
        )
        assert new == old and repr(new) == repr(old)


def test_what_is_kept_beside_the_fields_is_not_taken_over() -> None:
    value = Counted(1, 5)
    assert value.width == 4 and record_class.replace(value, high=9).width == 8
    with pytest.raises(ValueError, match="high < low"):
        record_class.replace(Checked(1, 5), high=0)


def test_its_fields_are_those_of_the_real_one() -> None:
    def told(found: Any, missing: Any) -> list[Any]:
        return [
            (each.name, each.init, each.default is missing or each.default, each.default_factory is missing)
            for each in found
        ]

    for real, light in zip(REAL, LIGHT, strict=True):
        assert told(record_class._light_fields(light), record_class._MISSING) == told(
            dataclasses.fields(real), dataclasses.MISSING
        )
        assert get_type_hints(light, localns={"Base": int}) == get_type_hints(real, localns={"Base": int})
    assert record_class._light_is_dataclass(LIGHT[0]) and record_class._light_is_dataclass(LIGHT[0](1))
    assert not record_class._light_is_dataclass(int)


def test_two_instances_share_no_default_that_is_made() -> None:
    assert LIGHT[1](1).notes is not LIGHT[1](1).notes


def test_a_class_that_is_not_frozen_can_be_changed_and_not_hashed() -> None:
    @light_dataclass
    class Place:
        inode: int
        size: int = 0

    place = Place(1)
    place.size = 2
    assert (place.inode, place.size) == (1, 2)
    assert _said(lambda: hash(place)) is TypeError


def test_the_light_ones_are_replaced_alike() -> None:
    """With `-S`, as agents run: elsewhere all dataclasses are the standard library's."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", REPLACED, str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", [EVERYTHING, LAUNCH], ids=["everything", "a-launch"])
def test_an_agent_starts_without_what_it_does_not_need(program: str) -> None:
    """With `-S`, as agents run."""
    argv = [sys.executable, "-I", "-S", "-c", program, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
