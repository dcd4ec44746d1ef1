"""The kinds of value that the keys of a job and of a worker's configuration take; stdlib only."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any

from orchestrator.agent.worker_environment import RESERVED, WITH_TABLE
from orchestrator.config.schema import Check, Limits
from orchestrator.config.yaml_messages import Invalid, nearest, show, words

__all__ = [
    "FILLED_IN",
    "Count",
    "Duration",
    "EnvName",
    "FileName",
    "FilePath",
    "Flag",
    "NotNegative",
    "Positive",
    "Span",
    "Text",
    "WholeNotNegative",
    "above_0",
    "argv",
    "duration",
    "env_value",
    "is_path",
    "jit_level",
    "loss_scale",
    "memory",
    "off",
    "one_or_more",
    "preset",
    "save_every",
    "with_target",
]


def _file_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text, re.ASCII):
        remedy = "letters, digits and . _ - only, at most 64, a letter or digit first"
        raise Invalid(f"{show(text)} cannot be part of a file name", remedy)
    return text


def _file_path(text: str) -> str:
    if not text or "\0" in text:
        raise Invalid("is empty" if not text else "holds a NUL character")
    if text.startswith("~"):
        raise Invalid(
            f"{text!r}: ~ differs from host to host",
            "write an absolute path, or one relative to the job file",
        )
    return text


def _env_name(name: str) -> str:
    if name in RESERVED or name.startswith("MS_SCHED_"):
        raise Invalid("is set by the orchestrator for every rank", "remove it")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII):
        raise Invalid(f"{name!r} is not the name of an environment variable")
    return name


def _text(text: str) -> str:
    if "\0" in text:
        raise Invalid("holds a NUL character")
    return text


Count = Annotated[int, Limits(gt=0)]
WholeNotNegative = Annotated[int, Limits(ge=0)]
Positive = Annotated[float, Limits(gt=0)]
NotNegative = Annotated[float, Limits(ge=0)]
Flag = Annotated[bool, Limits()]


_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = r"(\d{1,9}(?:\.\d{1,9})?)(d|h|ms|m|s)"


def duration(value: Any) -> Any:
    """Seconds of a text such as `90s`, `10m`, `3h`, `1h30m` or `250ms`; a bare number is seconds.

    What is no text stays what it is. Raises Invalid.
    """
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    if not re.fullmatch(f"(?:{_PART})+", value, re.ASCII):
        raise Invalid(f"expected a duration such as 90s, 10m or 3h, got {show(value)}")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, value, re.ASCII))


Duration = Annotated[float, Check(duration, "duration, such as 90s or 3h", before=True), Limits(ge=0, le=3e8)]
Span = Annotated[float, Limits(gt=0), Check(duration, "duration, such as 90s or 3h", before=True)]
Text = Annotated[str, Check(_text)]
FileName = Annotated[str, Check(_file_name, "part of a file name")]
FilePath = Annotated[str, Check(_file_path, "path")]
EnvName = Annotated[str, Check(_env_name, "name")]


def env_value(value: Any) -> Any:
    """Numbers and booleans become text; a NUL cannot be handed to a process."""
    if isinstance(value, bool):
        return str(value).lower()
    value = str(value) if isinstance(value, (int, float)) else value
    return _text(value) if isinstance(value, str) else value


def one_or_more(value: Any) -> Any:
    """One text, or a list of them."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (list, tuple)) and not value:
        raise Invalid("is empty", "name a group, a host range, or all")
    return value


def off(value: Any) -> Any:
    """A section that is written as `off`, or as on."""
    if value is False or value == "off":
        return {"enabled": False}
    return {} if value is True or value == "on" else value


def argv(value: Any) -> Any:
    """A list of arguments: nothing is ever split by a shell."""
    if isinstance(value, str):
        raise Invalid("expected a list, got text", f"write [{', '.join(value.split())}]")
    if value is not None and not value:
        raise Invalid("is empty", "write [program, argument, ...]")
    return value


def is_path(text: str) -> bool:
    """Whether a preset is a file rather than a name."""
    return "/" in text or text.endswith((".yaml", ".yml"))


def preset(value: Any) -> Any:
    """One of ours, or a path."""
    # Late: what looks at a run has values of these kinds, and knows no network.
    from orchestrator.families.registry import preset_names

    if isinstance(value, str) and value not in (names := preset_names()) and not is_path(value):
        close = nearest(value, names)
        remedy = close if close.startswith("did") else "or write the path of a preset file"
        raise Invalid(f"expected one of {', '.join(names)}; got {show(value)}", remedy)
    return _file_path(value) if isinstance(value, str) else value


def above_0(value: Any) -> Any:
    """A number that stays what it is, whole or not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise Invalid(*words("float_type", value))
    if value <= 0:
        raise Invalid(*words("greater_than", value, {"gt": 0}))
    return value


def loss_scale(value: Any) -> Any:
    """`dynamic`, or the number itself."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == "dynamic" or (number and 0 < value < float("inf")):
        return float(value) if number else value
    raise Invalid(f"expected dynamic or a number above 0, got {show(value)}")


def save_every(value: Any) -> Any:
    """`auto`, or the seconds of a duration above 0."""
    if value == "auto" or value is None:
        return value
    try:
        seconds = duration(value)
    except Invalid:
        raise Invalid(f"expected auto or a duration such as 10m, got {show(value)}") from None
    return float(above_0(seconds))


def memory(text: str) -> str:
    """A size as MindSpore's `max_device_memory` takes it: `31GB`."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)GB", text)
    if found is None or int(float(found[1]) * 2**30) == 0:
        raise Invalid(f"expected a size such as 31GB, got {show(text)}")
    return text


def jit_level(value: Any) -> Any:
    """How far MindSpore compiles for an Ascend; its third level is refused with the reason."""
    if value == "O2":
        what = "O2 gives the whole graph to GE, where the groups of a job have no communicators"
        raise Invalid(what, "write O0 or O1, or leave it out")
    return value


# What `with_target` fills in, for the reference.
FILLED_IN = {
    "device_target": "`Ascend` with a rank table or task `mindformers`, else `CPU`",
    "networking": "",
    "mode": "`rank_table` on Ascend, else `dynamic`",
}


def with_target(data: Any) -> Any:
    """Fill in `device_target` and `networking.mode`, each from the other: Ascend goes with a rank table.

    MindFormers is for Ascends, however its ranks meet.

    What is absent or null is filled in; anything else that was written is judged as it is.
    """
    if not isinstance(data, dict):
        return data
    networking = data.get("networking", {})
    if not isinstance(networking, dict):
        return {"device_target": "CPU", **data}
    has_table = networking.get("mode") in tuple(WITH_TABLE)  # what was written may be a list, too
    target, mode = data.get("device_target"), networking.get("mode")
    if target is None:
        target = "Ascend" if has_table or data.get("task") == "mindformers" else "CPU"
    if mode is None:
        mode = "rank_table" if target == "Ascend" else "dynamic"
    return {**data, "device_target": target, "networking": {**networking, "mode": mode}}
