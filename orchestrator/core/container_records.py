"""The container in which a host runs its workers, as the manifest of an attempt has it.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

from typing import Optional, Tuple

from orchestrator.core.record_class import dataclass

__all__ = ["PRIVILEGED", "ContainerSpec", "ImageFacts", "Mount"]

# How options say that a container sees all devices of the host; no other spelling is let in.
PRIVILEGED = ("--privileged", "--privileged=true")


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that workers see at `target`."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """What each worker of a host runs in; `runtime` is the program that makes it, `python` the image's own.

    `options` go to the runtime as they are. `ascend`: the workers compute on NPUs, whose devices and driver
    they need; `hccn_conf` is where the host has what they see as /etc/hccn.conf.
    """

    image: str
    runtime: str = "docker"
    python: str = "python3"
    mounts: Tuple[Mount, ...] = ()
    options: Tuple[str, ...] = ()
    ascend: bool = False
    hccn_conf: str = "/etc/hccn.conf"

    @property
    def is_privileged(self) -> bool:
        """Whether it sees all devices of the host, by the numbers that they have there."""
        return any(word in PRIVILEGED for word in self.options)


@dataclass(frozen=True)
class ImageFacts:
    """What a host tells of a container's runtime and image (agent/container_probe.py).

    A trouble is why nothing more is known: of the runtime, of the image, of what is inside. `digest` is the
    image's id without its algorithm, `python` the version of its interpreter.
    """

    runtime: str = ""
    image: str = ""
    digest: Optional[str] = None
    python: Optional[str] = None
    runtime_trouble: str = ""
    image_trouble: str = ""
    inside_trouble: str = ""
    missing_mounts: Tuple[str, ...] = ()
