"""What a simulated host tells of itself before a launch: its addresses, facts, and what its tools say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.agent.request_loop import Answer

if TYPE_CHECKING:
    from orchestrator.simulation.sim_agent import SimAgent

__all__ = ["FACT_VERBS"]

Args = Mapping[str, Any]


def _addresses(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host = agent.host
    found = {name: [host.address] if name in (host.name, host.address) else [] for name in args["names"]}
    own = [address for address in args["candidates"] if address == host.address]
    own += [address for listed in found.values() for address in listed]
    yield Answer(
        {"found": found, "own": list(dict.fromkeys(own)), "network": f"{host.boot} net:[4026531840]"}
    )


# What a host's workers find of CANN, as `agent/cann.py` tells it of a whole toolkit.
_CANN, _HOME = "8.3.RC1", "/usr/local/Ascend/ascend-toolkit/latest"
_TBE = f"{_HOME}/opp/built-in/op_impl/ai_core/tbe"
_TOOLKIT: dict[str, Any] = {
    "modules": {
        "hccl.sys_version": f"{_HOME}/python/site-packages/hccl/sys_version/__init__.py",
        "te": f"{_HOME}/python/site-packages/te/__init__.py",
        "tbe": f"{_HOME}/python/site-packages/tbe/__init__.py",
    },
    "variables": {
        "PYTHONPATH": f"{_HOME}/python/site-packages:{_TBE}",
        "LD_LIBRARY_PATH": f"{_HOME}/lib64",
        "ASCEND_OPP_PATH": f"{_HOME}/opp",
    },
    "opp_kernel": True,
}


def _probe(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host = agent.host
    yield Answer(
        {
            "hostname": host.name,
            "pid": 4000,
            "python": "3.10.12",
            "executable": "/usr/bin/python3",
            "workdir": host.workdir,
            "free_bytes": host.free_bytes,
            "writable": True,
            "shared_place": "",
            "clock": host.time(),
            "busy_devices": host.busy_devices(args.get("devices", ()), args.get("kept_for") or ""),
            "locks_writable": True,
            "packages": {name: host.packages.get(name, "1.0") for name in args.get("packages", ())},
            "environment": {},
            "environment_seen": bool(args.get("packages") or args.get("ascend")),
            "environment_trouble": "",
            "env_script_exists": True,
            "missing_paths": [],
            "port": host.free_port() if args.get("port_on") is not None else None,
            "resolves_to": [host.address] if args.get("ascend") else [],
            "image": None,  # its workers are in no container
            "cann": _CANN if args.get("ascend") else None,
            "ascend": _TOOLKIT if args.get("ascend") else None,
            "limits": {"open files": 65536, "processes": None},
            "shm_free_bytes": 64 << 30,
            "memory_free_bytes": 1 << 40,
            "taken_ports": sorted(set(args.get("ports", ())) & host.taken_ports),
        }
    )


def _ask_tools(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    answers = [agent.host.tool_says(call) for call in args["calls"]]
    yield Answer({"answers": answers, "files": [agent.host.file_says(path) for path in args["files"]]})


FACT_VERBS = {"addresses": _addresses, "ask_tools": _ask_tools, "probe": _probe}
