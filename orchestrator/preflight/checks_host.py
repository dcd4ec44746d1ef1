"""Checks of what the host itself gives: access, space, limits, clock, names, ports, paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from orchestrator.ascend.hccl_env import host_ports
from orchestrator.config.host_ranges import fold
from orchestrator.config.yaml_messages import plain
from orchestrator.preflight.host_facts import Facts, Needs
from orchestrator.preflight.report import Level, Result
from orchestrator.rank_table.table import is_loopback

__all__ = [
    "MOST_SKEW",
    "clocks_agree",
    "disk_has_space",
    "env_script_is_there",
    "host_names_differ",
    "limits_suffice",
    "memory_suffices",
    "paths_exist",
    "ports_are_free",
    "shared_memory_suffices",
    "workdir_is_writable",
    "workdirs_differ",
]

_LEAST_FREE_BYTES = 64 << 20
# Docker's default is 64 MiB, with which MindSpore's data loaders end by SIGBUS.
_LEAST_SHARED = 256 << 20
_LEAST_LIMITS = {"open files": 1024, "processes": 4096}
MOST_SKEW = 1.0
"""Seconds by which a host's clock may be ahead of ours, or behind."""
# Of an NPU's own network; a host that emulates or proxies it may hold it, too.
_NPU_PORT = 16666


def workdir_is_writable(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        probe = fact.probe
        if not probe.writable:
            remedy = "set another `workdir:`"
            yield Result(host, Level.FAIL, f"no write access to {probe.workdir}", remedy)
        elif not probe.locks_writable:
            what = f"no write access to {needs.host(host).lock_dir}"
            yield Result(host, Level.FAIL, what, "set another `lock_dir:`")
        else:
            yield Result(host, Level.OK)


def workdirs_differ(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Each host has a folder of its own: in a common one the hosts of a run would take each other's files."""
    places: dict[str, list[str]] = {}
    for host, fact in facts.items():
        if fact.probe.shared_place:
            places.setdefault(fact.probe.shared_place, []).append(host)
    for host, fact in facts.items():
        others = [other for other in places.get(fact.probe.shared_place, ()) if other != host]
        if others:
            kind, _, where = plain(fact.probe.shared_place).partition(" ")
            what = f"{plain(fact.probe.workdir)} is one folder for {fold([host, *others])} ({kind}, {where})"
            remedy = (
                f"give each its own: `workdir: {needs.host(host).workdir.rstrip('/')}/{{name}}` in defaults"
            )
            yield Result(host, Level.FAIL, what, remedy)
        else:
            yield Result(host, Level.OK)


def disk_has_space(needs: Needs, facts: Facts) -> Iterator[Result]:
    # Once in the content store and once in the run.
    needed = _LEAST_FREE_BYTES + 2 * needs.shipped_bytes
    for host, fact in facts.items():
        free = fact.probe.free_bytes
        if free < needed:
            what = f"no space: {free >> 20} MiB free in {fact.probe.workdir}, {needed >> 20} MiB needed"
            yield Result(host, Level.FAIL, what, "free space there, or set another `workdir:`")
        else:
            yield Result(host, Level.OK)


def shared_memory_suffices(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        free = fact.probe.shm_free_bytes
        if free is None:
            yield Result(host, Level.WARN, "there is no /dev/shm", "mount one; data loaders need it")
        elif free < _LEAST_SHARED:
            what = f"{free >> 20} MiB free in /dev/shm, data loaders need more"
            yield Result(host, Level.WARN, what, "mount it larger (docker: --shm-size)")
        else:
            yield Result(host, Level.OK)


def memory_suffices(needs: Needs, facts: Facts) -> Iterator[Result]:
    """Of a job that keeps copies of its shards in memory; without room they end it hours later."""
    for host, fact in facts.items() if needs.snapshot_bytes else ():
        free = fact.probe.memory_free_bytes
        if free is None:
            yield Result(host, Level.SKIP, "not known")
        elif free < needs.snapshot_bytes:
            needed = (
                f"copies of the shards take up to {needs.snapshot_bytes / 2**30:.1f} GiB (checkpoint.async)"
            )
            what = f"{free / 2**30:.1f} GiB of memory free, {needed}"
            yield Result(host, Level.FAIL, what, "set checkpoint.async to false, or use more hosts")
        else:
            yield Result(host, Level.OK)


def limits_suffice(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        low = {
            name: limit
            for name, limit in fact.probe.limits.items()
            if limit is not None and limit < _LEAST_LIMITS.get(name, 0)
        }
        for name, limit in low.items():
            what = f"the limit of {name} is {limit}, {_LEAST_LIMITS[name]} is the least that works"
            yield Result(host, Level.WARN, what, "raise it in /etc/security/limits.conf (ulimit -n, -u)")
        if not low:
            yield Result(host, Level.OK)


def clocks_agree(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        ahead = fact.clock_ahead
        if abs(ahead) > MOST_SKEW:
            way = "ahead of" if ahead > 0 else "behind"
            what = f"its clock is {_duration(abs(ahead))} {way} this machine's"
            yield Result(
                host, Level.WARN, what, "synchronise the clocks (chrony, ntp); logs are told by time"
            )
        else:
            yield Result(host, Level.OK)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def host_names_differ(needs: Needs, facts: Facts) -> Iterator[Result]:
    """HCCL tells its servers apart by their names."""
    names = {host: fact.probe.hostname for host, fact in facts.items()}
    counts = Counter(names.values())
    for host, fact in facts.items():
        name = names[host]
        loopback = [text for text in fact.probe.resolves_to if is_loopback(text.partition("%")[0])]
        if counts[name] > 1:
            others = fold(other for other in facts if other != host and names[other] == name)
            what = f"its name is {name}, as that of {others}"
            yield Result(host, Level.FAIL, what, "give every host its own name (hostnamectl)")
        elif loopback and len(facts) > 1:
            what = f"its name {name} means {loopback[0]} there"
            yield Result(host, Level.WARN, what, "correct /etc/hosts: it should mean the host's real address")
        else:
            yield Result(host, Level.OK)


def ports_are_free(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The scheduler's on the master; where HCCL runs, its own on every host."""
    for host, fact in facts.items():
        taken = fact.probe.taken_ports
        if fact.port_trouble and needs.port not in taken:
            remedy = "set networking.port to a free one, or leave it out to have one chosen"
            yield Result(host, Level.FAIL, fact.port_trouble, remedy)
        if taken:
            ports = ", ".join(map(str, taken))
            remedy = (
                "stop what listens there (ss -ltnp), or choose others: networking.port, HCCL_IF_BASE_PORT"
            )
            yield Result(host, Level.FAIL, f"port {ports} is in use", remedy)
        elif fact.port_trouble:
            continue
        elif wanted_ports(needs, host, fact.has_tools or bool(needs.ascend)):
            yield Result(host, Level.OK)
        else:
            yield Result(host, Level.SKIP, "no fixed port is needed")


def wanted_ports(needs: Needs, host: str, runs_hccl: bool) -> list[int]:
    """The ports that must be free on a host."""
    ports = [needs.port] if needs.port is not None and host == needs.master.name else []
    return ports + ([*host_ports(needs.env), _NPU_PORT] if runs_hccl else [])


def env_script_is_there(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        script = needs.host(host).env_script
        trouble = fact.environment_trouble
        if trouble and fact.probe.image is not None and not fact.probe.image.python:
            yield Result(host, Level.SKIP, "not known")  # the image's own row says why
            continue
        if not fact.probe.env_script_exists:
            yield Result(host, Level.FAIL, f"env_script {script} does not exist", "mend the inventory")
        elif trouble:
            what = f"env_script {script}" if script else fact.probe.executable
            yield Result(
                host, Level.FAIL, f"{what} {trouble}", "see what it does there, as a worker would run it"
            )
        elif script:
            yield Result(host, Level.OK)
        else:
            yield Result(host, Level.SKIP, "the inventory names none")


def paths_exist(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        missing = fact.probe.missing_paths
        for path in missing:
            remedy = "put it there, or give a path relative to the job file to have it shipped"
            yield Result(host, Level.FAIL, f"{path} does not exist", remedy)
        if not missing:
            yield Result(host, Level.OK) if needs.paths else Result(host, Level.SKIP, _no_paths(needs))


def _no_paths(needs: Needs) -> str:
    return "the job needs none of the hosts' files" if needs.has_job else "no --job"
