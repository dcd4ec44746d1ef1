"""The bounds of an inventory file: ranges, groups and keys are counted before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.config.host_ranges import MAX_HOSTS, RangeError, size
from orchestrator.config.yaml_reader import Loc, YamlFile

__all__ = ["MOST_DEVICES", "too_many"]

# Of one host: devices, or places for ranks on one without.
MOST_DEVICES = 1024

# Names in the groups of one file, and addresses of devices: a small file can ask for far more.
_MOST_MEMBERS = 262_144
# A file or a host with more is of another kind: each key would be looked up among ours.
_MOST_KEYS = 100


def too_many(file: YamlFile) -> Iterator[tuple[Loc, str, str]]:
    """Ranges that ask for more hosts than there are anywhere, told before a name is made of them."""
    hosts = file.get(("hosts",))
    entries = [entry for entry in hosts if isinstance(entry, dict)] if isinstance(hosts, list) else []
    for loc, part in (((), file.data), *((("hosts", i), each) for i, each in enumerate(entries))):
        if len(part) > _MOST_KEYS:
            what = f"holds {len(part)} keys, of which an inventory knows few"
            yield loc, what, "see docs/reference/inventory.md"
            return
    groups = file.get(("groups",))
    asked = (
        ("hosts", MAX_HOSTS, "hosts", [entry.get(key) for entry in entries for key in ("name", "address")]),
        ("hosts", _MOST_MEMBERS, "device_ips", [entry.get("device_ips") for entry in entries]),
        ("groups", _MOST_MEMBERS, "names", list(groups.values()) if isinstance(groups, dict) else []),
    )
    for key, most, what, values in asked:
        # Each host has a name and an address.
        if sum(map(_names_in, values)) > most * (2 if what == "hosts" else 1):
            yield (key,), f"there are more than {most} {what}", "is a range longer than it should be?"


def _names_in(value: Any) -> int:
    """How many names a range or a list of them makes; what is wrong with it is told later."""
    texts = value if isinstance(value, list) else [value]
    try:
        return sum(size(text) for text in texts if isinstance(text, str))
    except RangeError:
        return 0
