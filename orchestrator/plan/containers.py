"""The containers of a launch: what inventory and job make of each other, what must be seen from inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.config.container import combined, seen_at, spec_of
from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.job import Job
from orchestrator.core.container_records import ContainerSpec
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["container_of", "device_seen", "require_mounted", "with_container"]


def with_container(job: Job, host: Host, inventory: Inventory) -> Host:
    """The host with the container that its workers run in, or with none. Raises ConfigError."""
    container = combined(job.container, host.container)
    if container is not None and not container.enabled:
        container = None
    if container is not None and container.image is None:
        where = job.where("container", "image") if job.container is not None else str(inventory.path)
        what = f"is missing: nothing says which image the workers of {host.name} run in"
        raise ConfigError([Problem(where, what, "write `container: {image: NAME}`, or `container: off`")])
    return host if container is host.container else replace(host, container=container)


def container_of(job: Job, host: Host) -> ContainerSpec | None:
    """What the host needs to know of it."""
    if host.container is None:
        return None
    return spec_of(host.container, ascend=job.device_target == "Ascend", hccn_conf=host.hccn_conf)


def device_seen(job: Job, host: Host, device: int) -> int:
    """The number that a device of the host has to a worker there (agent/container_command.py)."""
    container = container_of(job, host)
    return 0 if container is not None and container.ascend and not container.is_privileged else device


def require_mounted(job: Job, hosts: Sequence[Host], host_paths: Sequence[str]) -> None:
    """Raise ConfigError for a path on the hosts that workers in containers could not see."""
    problems: dict[str, Problem] = {}
    for host in hosts:
        for path in host_paths if host.container is not None else ():
            if host.container is not None and path.startswith("/") and seen_at(host.container, path) is None:
                folder = path.rpartition("/")[0] or path
                remedy = f"add `{folder}:{folder}:ro` to container.mounts"
                what = f"{path} is not seen in the container on {host.name}: no mount covers it"
                problems.setdefault(path, Problem(job.where("container", "mounts"), what, remedy))
    if problems:
        raise ConfigError(list(problems.values()))
