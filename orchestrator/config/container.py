"""The key `container` of jobs and inventories: the image in which workers run; how the two are combined."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from orchestrator.config.job_fields import Flag, Text
from orchestrator.config.schema import Check, Section, key
from orchestrator.config.yaml_messages import Invalid, show
from orchestrator.core.container_records import PRIVILEGED, ContainerSpec, Mount

__all__ = ["Container", "ContainerOrOff", "combined", "mount_of", "off", "seen_at", "spec_of"]

_ENV = "values do not go into command lines: write them under the job's `env:`"
# What is said by other keys, or decided by who starts and ends the workers.
_OWNED = {
    "--name": "containers are found by their id and labels",
    "--rm": "containers are removed at their end in any case",
    "--restart": "`restart:` of the job says what goes on",
    "--detach": "workers are watched",
    "-d": "workers are watched",
    "--interactive": "workers read nothing",
    "-i": "workers read nothing",
    "--tty": "workers have no terminal",
    "-t": "workers have no terminal",
    "-it": "workers have no terminal",
    "--attach": "workers write to their logs",
    "-a": "workers write to their logs",
    "--cidfile": "the orchestrator keeps it",
    "--entrypoint": "it is the image's Python: `python:`",
    "--user": "it is the account of the host, whose files the run's are",
    "-u": "it is the account of the host, whose files the run's are",
    "--workdir": "it is the run's directory",
    "-w": "it is the run's directory",
    "--network": "it is the host's, in which ranks find each other",
    "--net": "it is the host's, in which ranks find each other",
    "--pid": "a namespace of its own is what ends all that a worker has started",
    "--pull": "an image that is missing is an error, not a download at launch",
    "--volume": "write it under `mounts:`",
    "-v": "write it under `mounts:`",
    "--mount": "write it under `mounts:`",
    "--env": _ENV,
    "-e": _ENV,
    "--env-file": _ENV,
    "--env-host": _ENV,
    "--env-merge": _ENV,
}
# Of flags that may stand together the last one may have a value: `-Pv/a:/b`.
_SHORT = re.compile(r"-[dituwvaPq][^=-]")
_DEVICE = re.compile(r"/+dev/+davinci|ASCEND_\w*VISIBLE_DEVICES")
_ALL_DEVICES = re.compile(r"(--device=)?/+dev/*(:.*)?")
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


def _image(text: str) -> str:
    if not text or text.startswith("-") or _CONTROL.search(text) or " " in text:
        raise Invalid(f"{show(text)} is not the name of an image", "such as registry/mindformers:1.9.0")
    return text


def _program(text: str) -> str:
    if not text or text.startswith("-") or _CONTROL.search(text):
        raise Invalid(f"{show(text)} is not a program", "write python3, or its path in the image")
    return text


def _mount(text: str) -> str:
    parts = text.split(":")
    paths, how = parts[:2], parts[2:]
    if len(paths) < 2 or how not in ([], ["ro"], ["rw"]) or not all(path.startswith("/") for path in paths):
        remedy = "absolute paths: on the host, then in the container"
        raise Invalid(f"expected SRC:DST or SRC:DST:ro, got {show(text)}", remedy)
    if _CONTROL.search(text) or any(".." in path.split("/") for path in paths) or not paths[1].strip("/"):
        raise Invalid(f"{show(text)} cannot be mounted", "name a folder or a file below /, without ..")
    return text


def _option(text: str) -> str:
    name = "-e" if text.startswith("-e") else text.partition("=")[0]
    if _DEVICE.search(text) or _ALL_DEVICES.fullmatch(text):
        raise Invalid(f"{show(text)} is not for options: each worker is given its own device", "remove it")
    if name == "--privileged" and text not in PRIVILEGED:
        raise Invalid(f"expected {' or '.join(PRIVILEGED)}, got {show(text)}", "or remove it")
    if name in _OWNED:
        raise Invalid(f"{name} is not for options: {_OWNED[name]}", "remove it")
    if _SHORT.match(text):
        raise Invalid(f"{show(text)} cannot be told apart from what is not for options", "write it in full")
    if _CONTROL.search(text):
        raise Invalid("holds a control character")
    return text


def off(value: Any) -> Any:
    """`off`: no container, whatever the inventory says."""
    return {"enabled": False} if value is False or value == "off" else value


@dataclass(frozen=True, slots=True)
class Container(Section):
    """The container in which each worker runs; without it workers run on the host itself.
    The job's keys go before the host's, the host's before the inventory's `defaults`, key by key. Mounts add
    up, and at one place in the container the nearer one wins; options are those of all, the nearer ones last.
    """

    image: Annotated[Text, Check(_image, "name of an image")] | None = key(
        None,
        "which must be there on all hosts, and the same: `check` compares its digest; nothing is pulled",
    )
    runtime: Literal["docker", "podman", "nerdctl"] | None = key(
        None, "the program on the hosts that makes containers; without it `docker`"
    )
    python: Annotated[Text, Check(_program)] | None = key(
        None,
        "the image's own interpreter, which is `{python}` there; without it `python3`",
    )
    mounts: tuple[Annotated[Text, Check(_mount, "`SRC:DST` or `SRC:DST:ro`")], ...] = key(
        (),
        "what of the host is seen in the container, as `SRC:DST` or `SRC:DST:ro`, beside the "
        "run's directory and, on Ascend, devices and driver; data that the job names by an absolute path "
        "must be in one of them",
    )
    options: tuple[Annotated[Text, Check(_option)], ...] = key(
        (),
        "more words for `docker run`, as they are, such as `--ulimit=memlock=-1`; with "
        "`--privileged` every device is seen by its number on the host",
    )
    enabled: Flag = key(True, "`container: off` is short for `enabled: false`: no container")


ContainerOrOff = Annotated[Container, Check(off, before=True)]


def combined(nearer: Container | None, farther: Container | None) -> Container | None:
    """What holds where both are given: the nearer one's keys win."""
    if nearer is None or farther is None or not nearer.enabled:
        return nearer or farther
    given = {
        name: getattr(nearer, name)
        for name in ("image", "runtime", "python")
        if getattr(nearer, name) is not None
    }
    targets = {mount_of(text).target for text in nearer.mounts}
    mounts = (*(text for text in farther.mounts if mount_of(text).target not in targets), *nearer.mounts)
    options = farther.options
    if options[len(options) - len(nearer.options) :] != nearer.options:  # not so in the plan of a run already
        options = (*options, *nearer.options)
    return replace(farther, **given, mounts=mounts, options=options, enabled=True)


def mount_of(text: str) -> Mount:
    """A mount as it is written."""
    source, target, *how = text.split(":")
    return Mount(source.rstrip("/") or "/", target.rstrip("/"), how == ["ro"])


def spec_of(container: Container, *, ascend: bool, hccn_conf: str) -> ContainerSpec:
    """What a host needs to know of it; `image` must be there."""
    assert container.image is not None
    return ContainerSpec(
        image=container.image,
        runtime=container.runtime or "docker",
        python=container.python or "python3",
        mounts=tuple(map(mount_of, container.mounts)),
        options=container.options,
        ascend=ascend,
        hccn_conf=hccn_conf,
    )


def seen_at(container: Container, path: str) -> str | None:
    """Where the host has what is at this path in the container; None where no mount covers it."""
    found = list(_sources(container, path))
    return found[-1] if found else None


def _sources(container: Container, path: str) -> Iterator[str]:
    """The innermost mount comes last."""
    mounts = sorted(map(mount_of, container.mounts), key=lambda mount: len(mount.target))
    for mount in mounts:
        if path == mount.target or path.startswith(f"{mount.target}/"):
            yield f"{mount.source.rstrip('/')}{path[len(mount.target) :]}" or "/"
