"""The containers of a launch plan for people and as data: image, runtime, mounts, devices and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from orchestrator.agent.container_command import MANAGERS, wanted_mounts
from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host
from orchestrator.core.codec import to_json
from orchestrator.core.container_records import ContainerSpec, Mount
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["container_data", "container_lines", "python_of"]


def python_of(plan: LaunchPlan, host: Host) -> str:
    """Which interpreter workers there have, and in what: the host's own one, or the image's."""
    spec = plan.manifests[host.name].container
    if spec is None:
        return f"python {host.python}"
    return f"{spec.python} in a container of {spec.image} ({spec.runtime}), agent by {host.python}"


def container_lines(plan: LaunchPlan) -> Iterator[tuple[str, list[str]]]:
    """For hosts with the same container: which they are, and what it has, a line each."""
    found: dict[tuple[str, ...], list[str]] = {}
    for host in plan.hosts:
        manifest = plan.manifests[host.name]
        if manifest.container is not None:
            lines = _lines(manifest.container)
            alike = [re.sub(rf"(?<=/){re.escape(host.name)}(?=[/:, ]|$)", "{name}", line) for line in lines]
            found.setdefault(tuple(alike), []).append(host.name)
    for lines_alike, names in found.items():
        yield fold(names), list(lines_alike)


def container_data(plan: LaunchPlan, host: Host) -> dict[str, Any]:
    """What is said of it, with what follows where nothing is; {} without a container."""
    manifest = plan.manifests[host.name]
    spec = manifest.container
    if spec is None or host.container is None:
        return {}
    given = {key: value for key, value in to_json(host.container).items() if value is not None}
    more = {"runtime": spec.runtime, "python": spec.python}
    own = [f"/dev/davinci{device}" for device in manifest.devices]
    devices = [*own, *MANAGERS] if spec.ascend and not spec.is_privileged else []
    driver = [_text(mount) for mount in _driver(spec)]
    return {"container": {**given, **more, "driver_mounts": driver, "devices": devices}}


def _driver(spec: ContainerSpec) -> list[Mount]:
    known = {mount.target for mount in spec.mounts}
    return [mount for mount in wanted_mounts(spec.hccn_conf) if spec.ascend and mount.target not in known]


def _lines(spec: ContainerSpec) -> Iterator[str]:
    yield f"image    {spec.image}"
    yield f"runtime  {spec.runtime}, Python {spec.python}"
    yield f"mounts   {', '.join(['the run directory', *map(_text, spec.mounts)])}"
    if driver := [_text(mount).removesuffix(":ro") for mount in _driver(spec)]:
        yield f"driver   {', '.join(driver)} (read-only, those that the host has)"
    yield f"devices  {_devices(spec)}"
    yield f"options  {' '.join(spec.options) or 'none of its own'}"


def _text(mount: Mount) -> str:
    seen = "" if mount.source == mount.target else f":{mount.target}"
    return f"{mount.source}{seen}{':ro' * mount.read_only}"


def _devices(spec: ContainerSpec) -> str:
    if not spec.ascend:
        return "none"
    if spec.is_privileged:
        return "all of the host, by their numbers there"
    return f"each worker's own /dev/davinci<N>, as number 0 to it; {', '.join(MANAGERS)}"
