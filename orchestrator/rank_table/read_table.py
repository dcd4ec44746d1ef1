"""The reader of rank tables: bytes become a table, or a clear line says what keeps them from being one.

JSON is read strictly: what the standard forbids, or nobody could write back, is refused.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config.yaml_messages import plain, show
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.rank_table.findings import Finding, Severity, errors_of, problems_of
from orchestrator.rank_table.old_template import is_old_template, of_version_1
from orchestrator.rank_table.table import RankTable, in_bulk

__all__ = [
    "STDIN",
    "Reading",
    "parse_rank_table",
    "read_json",
    "read_rank_table",
    "read_rank_tables",
    "refusal",
]

_DEEPEST = 32
# Faults of form that are told one by one.
_MOST_FAULTS = 20_000
_BOMS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def refusal(where: str, what: str, remedy: str = "") -> ConfigError:
    return ConfigError([Problem(plain(where), plain(what), remedy)])


def read_json(data: bytes, name: str) -> Any:
    """The value in these bytes; `name` is the file's, for messages. Raises ConfigError."""
    content = _json(_text(data, name), name)
    if _is_deep(content):
        raise refusal(name, "is nested too deeply: this is no rank table")
    return content


def _text(data: bytes, name: str) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            raise refusal(name, f"is {encoding}", "save it as UTF-8 without a byte order mark")
    if not data.strip():
        raise refusal(name, "is empty")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refusal(
            f"{name}:{line}", f"is not UTF-8: byte 0x{data[error.start]:02x}", "save it as UTF-8"
        ) from None


class _NotJson(ValueError):
    """What the JSON standard forbids and Python's reader would let pass."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _NotJson(f"key {show(key)} is given twice in one object")
            seen.add(key)
    return found


def _constant(text: str) -> Any:
    raise _NotJson(f"{text} is not JSON")


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        what, remedy = _syntax(text, error)
        raise refusal(f"{name}:{error.lineno}:{error.colno}", what, remedy) from None
    except RecursionError:
        raise refusal(name, "is nested too deeply: this is no rank table") from None
    except _NotJson as error:
        raise refusal(name, str(error)) from None
    except ValueError:  # int() refuses thousands of digits
        raise refusal(name, "holds a number of thousands of digits") from None


def _is_deep(content: Any) -> bool:
    """Whether more than `_DEEPEST` objects lie in each other: what could not be written back."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(_DEEPEST):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (dict, list))
        ]
    return bool(level)


def _syntax(text: str, error: json.JSONDecodeError) -> tuple[str, str]:
    rest = text[error.pos :].strip()
    if error.msg == "Extra data":
        return "something stands behind the end of the table", "keep one table in one file"
    if not rest or error.msg.startswith("Unterminated string"):
        return "ends in the middle: the file is cut off", "copy or generate it again"
    if rest.startswith(("/", "#")):
        return "holds a comment, which JSON does not have", "remove the comments"
    if rest.startswith(("}", "]")):
        return f"is not JSON: something is missing before {rest[0]}, or a comma is too many", ""
    return f"is not JSON: {error.msg[0].lower()}{error.msg[1:]}, at {show(rest[:20])}", ""


STDIN = Path("-")
# 32,768 devices are 6 MB. Whatever is larger than this is no rank table, and would fill the memory.
_LARGEST = 64 << 20
# Key at the top -> what such a file is. HCCL reads some of them; this project writes none.
_OTHER_KINDS = {
    "rank_list": "a rank table of version 2.0 (Ascend 950)",
    "rank_count": "a rank table of version 2.0 (Ascend 950)",
    "cluster_list": "MindSpore's table for jobs across clusters (cluster_list)",
    "server_group_list": "MindCluster's global table (server_group_list)",
    "prefill_device_list": "vllm-ascend's list of devices for prefill and decode, which HCCL does not read",
    "decode_device_list": "vllm-ascend's list of devices for prefill and decode, which HCCL does not read",
}
_SUPPORTED = "only versions 1.0 and 1.2 are supported"
_AS_INVENTORY = "use it as an inventory (-i), of which `rank-table generate` makes a table"
_REMEDIES = {"prefill_device_list": _AS_INVENTORY, "decode_device_list": _AS_INVENTORY}


@dataclass(frozen=True, slots=True)
class Reading:
    """A table as read. What its form lacks is in `findings`, and mended in `table`: rules can go on."""

    name: str
    table: RankTable
    data: bytes = b""
    findings: tuple[Finding, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the bytes as they were read."""
        return hashlib.sha256(self.data).hexdigest()

    def require_form(self) -> RankTable:
        """The table. Raises ConfigError with every error of its form."""
        if errors := errors_of(self.findings):
            raise ConfigError(list(problems_of(self.name, errors)))
        return self.table


def read_rank_table(path: Path) -> Reading:
    """Read a file, `-` being standard input. Raises ConfigError for what is no rank table we know."""
    name = "standard input" if path == STDIN else str(path)
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise refusal(name, f"cannot be read: {reason}") from None
    return parse_rank_table(data, name)


def read_rank_tables(paths: Iterable[Path]) -> list[Reading]:
    """Read several files. Raises ConfigError with what is wrong with every file that cannot be read."""
    readings: list[Reading] = []
    problems: list[Problem] = []
    with in_bulk():
        for path in paths:
            try:
                readings.append(read_rank_table(path))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems)
    return readings


def parse_rank_table(data: bytes, name: str) -> Reading:
    """The table in these bytes; `name` is the file's, for messages. Raises ConfigError."""
    if len(data) > _LARGEST:
        raise refusal(name, f"is larger than {_LARGEST >> 20} MiB: this is no rank table")
    content = read_json(data, name)
    if not isinstance(content, dict):
        raise refusal(name, f"expected an object {{...}}, got {_kind(content)}")
    _refuse_other_kinds(content, name)
    findings: tuple[Finding, ...] = ()
    if is_old_template(content):
        content, findings = of_version_1(content), (_OLD_TEMPLATE,)
    try:
        return Reading(name, RankTable.model_validate(content), data, findings)
    except ValidationError as error:
        if error.error_count() > _MOST_FAULTS:
            what = f"has {error.error_count()} values of the wrong kind"
            raise refusal(name, what, "HCCL reads strings, in lists of objects") from None
        findings = (*findings, *_mend(content, error))
    return Reading(name, RankTable.model_validate(content), data, findings)


_OLD_TEMPLATE = Finding(
    "old-template",
    Severity.WARNING,
    "group_list",
    "is the older template, which HCCL reads on a 910 alone: looked at as version 1.0",
    "use it as an inventory (-i), or write version 1.0 with `rank-table merge FILE`",
)


def _refuse_other_kinds(content: Mapping[str, Any], name: str) -> None:
    version = content.get("version")
    if version in ("2.0", 2, 2.0):
        raise refusal(name, f"is {_OTHER_KINDS['rank_list']}", _SUPPORTED)
    if "server_list" not in content:
        for key, kind in _OTHER_KINDS.items():
            if key in content:
                raise refusal(name, f"is {kind}", _REMEDIES.get(key, _SUPPORTED))


def _kind(value: Any) -> str:
    """A JSON value in JSON's own words."""
    if isinstance(value, str):
        return f"the text {json.dumps(value)}" if len(value) <= 60 else "a long text"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {value}" if len(str(value)) <= 30 else "a long number"
    return "a list" if isinstance(value, list) else "an object"


def _mend(content: dict[str, Any], error: ValidationError) -> Iterator[Finding]:
    """Every fault of form as a finding, mended in place: numbers become strings, the rest becomes empty."""
    for item in error.errors(include_url=False, include_context=False):
        *inner, last = item["loc"]
        holder: Any = content
        for key in inner:
            holder = holder[key]
        path = _path(item["loc"])
        if item["type"] == "missing":
            holder[last] = _empty(str(last))
            yield Finding("missing-key", Severity.ERROR, path, "is missing", "HCCL needs it")
            continue
        value = holder[last]
        if item["type"] != "string_type":
            holder[last] = _empty(last if isinstance(last, str) else _ITEMS[str(inner[-1])])
            wanted = "a list" if isinstance(holder[last], list) else "an object"
            what = f"expected {wanted}, got {_kind(value)}"
            yield Finding("wrong-kind", Severity.ERROR, path, what, "", (_short(value),))
            continue
        is_scalar = isinstance(value, (bool, int, float))
        holder[last] = json.dumps(value) if is_scalar else ""
        what = f"expected a string, got {_kind(value)}"
        remedy = f'write "{holder[last]}"' if is_scalar else "HCCL reads strings only"
        yield Finding("not-a-string", Severity.ERROR, path, what, remedy, (_short(value),))


# What a list of this name holds.
_ITEMS = {"server_list": "server", "device": "item of device", "super_pod_list": "pod"}


def _empty(name: str) -> Any:
    if name in ("server_list", "device", "super_pod_list"):
        return []
    if name == "server":
        # In a super pod, or at the top: each takes of this what it knows.
        return {"server_id": "", "device": []}
    if name == "item of device":
        return {"device_id": "", "rank_id": ""}
    if name == "pod":
        return {"super_pod_id": "", "server_list": []}
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path(loc: tuple[str | int, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
