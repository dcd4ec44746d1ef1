"""The kinds of YAML that people hand to commands, told apart: one in another's place is named in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from orchestrator.config.inventory_ansible import is_ansible
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["Kind", "kind_of", "refuse_other"]

Kind = Literal["job", "inventory", "run YAML of MindFormers", "rank table"]

# Keys that nearly every run YAML of MindFormers has, and no job.
_OF_MINDFORMERS: dict[str, type] = {
    "run_mode": str,
    "use_parallel": bool,
    "runner_config": dict,
    "parallel_config": dict,
    "trainer": dict,
    "train_dataset_task": dict,
    "processor": dict,
}
# What a job has at its top and no inventory; with its type, since groups of hosts may have any name.
_OF_JOBS: dict[str, type] = {
    "name": str,
    "task": str,
    "devices_per_host": int,
    "host_count": int,
    "device_target": str,
    "parallel": dict,
    "model": dict,
    "data": dict,
    "train": dict,
    "checkpoint": dict,
    "predict": dict,
    "networking": dict,
    "timeouts": dict,
    "command": list,
    "mindformers": dict,
    "sync": list,
}
_OF_INVENTORIES: dict[str, type] = {"transport": str, "ssh": dict, "defaults": dict, "groups": dict}
_OF_RANK_TABLES = ("server_list", "group_list", "prefill_device_list", "decode_device_list")


def kind_of(data: Mapping[str, Any]) -> Kind | None:
    """What the keys at the top of a mapping say it is; None where they do not tell, or tell two things."""
    if any(key in data for key in _OF_RANK_TABLES):
        return "rank table"
    if is_ansible(data):
        return "inventory"
    of_jobs = _count(data, _OF_JOBS)
    if "task" not in data and _count(data, _OF_MINDFORMERS):
        return "run YAML of MindFormers"
    hosts = data.get("hosts")
    lists_hosts = isinstance(hosts, list) and any(isinstance(host, dict) for host in hosts)
    # A stray key does not make it another file.
    if lists_hosts or _count(data, _OF_INVENTORIES):
        return "inventory" if of_jobs <= 1 else None
    return "job" if of_jobs > 1 else None


def _count(data: Mapping[str, Any], known: Mapping[str, type]) -> int:
    return sum(isinstance(data.get(key), kind) for key, kind in known.items())


def refuse_other(name: str, data: Mapping[str, Any], wanted: Kind) -> None:
    """Raise ConfigError, of one line, where the data of the file `name` are of another kind than `wanted`."""
    kind = kind_of(data)
    if kind is None or kind == wanted or (kind == "rank table" and wanted == "inventory"):
        return
    if kind == "job" and wanted == "run YAML of MindFormers" and "task" not in data:
        return  # some sections have the same names
    what = f"is {'an' if kind == 'inventory' else 'a'} {kind} and no {wanted}"
    raise ConfigError([Problem(plain(name), what, plain(_remedy(name, kind, wanted)))])


def _remedy(name: str, kind: Kind, wanted: Kind) -> str:
    if wanted == "run YAML of MindFormers":
        return f"orchestrate launch {name}" if kind == "job" else "name MindFormers' run_<model>.yaml"
    if kind == "run YAML of MindFormers":
        return f"orchestrate import-mindformers {name} -o job.yaml"
    if kind == "job":
        return "-i names the servers, as inventory/local.yaml does; a job is given as JOB or --job"
    return f"name the job here, and the servers with -i {name}"
