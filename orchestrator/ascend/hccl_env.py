"""The environment variables of HCCL and the values it takes; any other one ends the job with EI0001.

Ranges: HCCL user guide, "environment variables"; MindSpore's list of environment variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

__all__ = ["EnvFault", "env_faults", "host_ports"]

_INT_RANGES = {
    "HCCL_CONNECT_TIMEOUT": (120, 7200),
    "HCCL_EXEC_TIMEOUT": (0, 2**31 - 1),
    "HCCL_IF_BASE_PORT": (1024, 65520),
    "HCCL_BUFFSIZE": (1, 2**31 - 1),
    "HCCL_RDMA_TIMEOUT": (5, 24),
    "HCCL_RDMA_RETRY_CNT": (1, 7),
    "HCCL_RDMA_TC": (0, 255),
    "HCCL_RDMA_SL": (0, 7),
    "HCCL_WHITELIST_DISABLE": (0, 1),
    "HCCL_INTRA_ROCE_ENABLE": (0, 1),
    "HCCL_INTRA_PCIE_ENABLE": (0, 1),
}
_910A_EXEC_TIMEOUT = (1, 17340)
_DETERMINISTIC = ("true", "false", "strict")  # in capitals, too
_PORT_RANGES = ("HCCL_HOST_SOCKET_PORT_RANGE", "HCCL_NPU_SOCKET_PORT_RANGE")
# MindSpore sets its own when it is imported, unless there is one (mindspore/context.py, _init_parallel_env).
_DEFAULT_CONNECT, _MINDSPORES_CONNECT, _DEFAULT_EXEC = 120, 600, 1836
_DEFAULT_PORT, _PORTS = 60000, 32


@dataclass(frozen=True, slots=True)
class EnvFault:
    """A variable that HCCL will refuse, and what to do."""

    name: str
    what: str
    remedy: str


def env_faults(
    env: Mapping[str, str], *, is_910a: bool = False, mindspore: bool = False
) -> Iterator[EnvFault]:
    """Everything in an environment that HCCL would refuse, where its process is `mindspore` or is not."""
    for name, (least, most) in _INT_RANGES.items():
        if name == "HCCL_EXEC_TIMEOUT" and is_910a:
            least, most = _910A_EXEC_TIMEOUT
        if name in env and not _is_int(env[name], least, most):
            yield EnvFault(name, f"is {env[name]!r}", f"set it to {least} to {most}")
    if _is_int(env.get("HCCL_RDMA_TC", "0"), 0, 255) and int(env.get("HCCL_RDMA_TC", "0")) % 4:
        yield EnvFault("HCCL_RDMA_TC", f"is {env['HCCL_RDMA_TC']!r}", "set it to a multiple of 4")
    if env.get("HCCL_DETERMINISTIC", "false").lower() not in _DETERMINISTIC:
        what = f"is {env['HCCL_DETERMINISTIC']!r}"
        yield EnvFault("HCCL_DETERMINISTIC", what, f"set it to {' or '.join(_DETERMINISTIC)}")
    yield from _timeouts(env, mindspore)
    yield from _addresses(env)
    for name in _PORT_RANGES:
        if name in env and not _is_port_list(env[name]):
            remedy = "set it to ports and ranges such as 60000,60050-60100, none of them twice, or to auto"
            yield EnvFault(name, f"is {env[name]!r}", remedy)
    if env.get("HCCL_INTRA_ROCE_ENABLE") == env.get("HCCL_INTRA_PCIE_ENABLE") == "1":
        what = "is 1, and so is HCCL_INTRA_PCIE_ENABLE"
        yield EnvFault("HCCL_INTRA_ROCE_ENABLE", what, "set one of them to 0")
    if env.get("HCCL_WHITELIST_DISABLE") == "0" and not env.get("HCCL_WHITELIST_FILE"):
        what = "is 0 without HCCL_WHITELIST_FILE"
        yield EnvFault("HCCL_WHITELIST_DISABLE", what, "name the file, or set it to 1")


def host_ports(env: Mapping[str, str]) -> range:
    """The ports on which HCCL listens on every host: 60000 to 60031, or those from HCCL_IF_BASE_PORT on."""
    base = env.get("HCCL_IF_BASE_PORT", "")
    first = int(base) if _is_int(base, *_INT_RANGES["HCCL_IF_BASE_PORT"]) else _DEFAULT_PORT
    return range(first, min(first + _PORTS, 65536))


def _is_int(text: str, least: int, most: int) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,10}", text, re.ASCII)) and least <= int(text) <= most


def _timeouts(env: Mapping[str, str], mindspore: bool) -> Iterator[EnvFault]:
    default = _MINDSPORES_CONNECT if mindspore else _DEFAULT_CONNECT
    connect = env.get("HCCL_CONNECT_TIMEOUT", str(default))
    execute = env.get("HCCL_EXEC_TIMEOUT", str(_DEFAULT_EXEC))
    if not _is_int(connect, *_INT_RANGES["HCCL_CONNECT_TIMEOUT"]) or not _is_int(execute, 1, 2**31 - 1):
        return  # told already, or 0: it waits for ever
    if int(connect) < int(execute):
        return
    if "HCCL_CONNECT_TIMEOUT" in env:
        what, remedy = connect, "lower it, or raise the other"
    else:
        what = f"is not set, so {connect} by {'MindSpore' if mindspore else 'HCCL'}, which"
        remedy = "set it lower, or raise the other"
    yield EnvFault("HCCL_CONNECT_TIMEOUT", f"{what} is not below HCCL_EXEC_TIMEOUT {execute}", remedy)


def _addresses(env: Mapping[str, str]) -> Iterator[EnvFault]:
    if "HCCL_IF_IP" in env:
        try:
            ip_address(env["HCCL_IF_IP"])
        except ValueError:
            what = f"is {env['HCCL_IF_IP']!r}, which is no IP address"
            yield EnvFault("HCCL_IF_IP", what, "set it to the host's own address")
    names = env.get("HCCL_SOCKET_IFNAME")
    if names is not None and not re.fullmatch(r"\^?=?[^\s,^=]+(,[^\s,^=]+)*", names):
        remedy = "set it to eth (a beginning), =eth0 (a name), ^eth or ^=eth0 (all but those)"
        yield EnvFault("HCCL_SOCKET_IFNAME", f"is {names!r}", remedy)


def _is_port_list(text: str) -> bool:
    if text == "auto":
        return True
    taken: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", item.strip(), re.ASCII)
        if match is None:
            return False
        first, last = int(match[1]), int(match[2] or match[1])
        ports = set(range(first, last + 1))
        if not 1 <= first <= last <= 65535 or taken & ports:
            return False
        taken |= ports
    return True
