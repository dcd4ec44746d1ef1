"""The verbs that ask what the host is, what of it is free, and what Ascend's own tools say."""

from __future__ import annotations

import time

from orchestrator.agent import host_probe
from orchestrator.agent.addresses import address_facts
from orchestrator.agent.device_locks import busy_devices as busy_of
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.paths import Workdir

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Iterator, List, Optional

__all__ = [
    "addresses",
    "ask_tools",
    "busy_devices",
    "clock",
    "probe",
    "require_port",
]


def addresses(request: Request) -> Iterator[Answer]:
    """What names mean on this host, and which addresses are its own."""
    yield Answer(address_facts(**request.args))


def clock(request: Request) -> Iterator[Answer]:
    """Nothing but the time: the control node compares it with its own at both ends of the call."""
    yield Answer(time.time())


def probe(request: Request) -> Iterator[Answer]:
    """The facts that decide whether a job can run here; `kept_for` as `run_id` of `busy_devices`."""
    args = dict(request.args)
    kept_for = args.pop("kept_for", None)
    found = host_probe.probe(Workdir(request.root), **args)
    yield Answer({**found, "busy_devices": _not_kept(request.root, kept_for, found["busy_devices"])})


def require_port(request: Request) -> Iterator[Answer]:
    """Nothing where the scheduler could listen there; refused where it could not."""
    host_probe.require_port(**request.args)
    yield Answer()


def busy_devices(request: Request) -> Iterator[Answer]:
    """Which of these devices another run of ours holds; quick, and before anything else is asked.

    Those that are kept for the next attempt of `run_id`, where that is named, are free for it.
    """
    lock_dir = request.args["lock_dir"]
    folder = Workdir(request.root).locks if lock_dir is None else Workdir(lock_dir).root
    yield Answer(
        _not_kept(request.root, request.args.get("run_id"), busy_of(folder, request.args["devices"]))
    )


def _not_kept(root: str, run_id: Optional[str], busy: List[int]) -> List[int]:
    """Those that are not kept for the next attempt of this run."""
    if not busy or not run_id:
        return busy
    from orchestrator.agent.device_hold import kept_devices  # late: few runs have a second attempt
    from orchestrator.agent.spare_holder import SpareFolder

    workdir = Workdir(root)
    kept = {*kept_devices(workdir.run(run_id)), *SpareFolder(workdir, run_id).devices()}
    return [device for device in busy if device not in kept]


def ask_tools(request: Request) -> Iterator[Answer]:
    """All calls, then all files, as they say it."""
    from orchestrator.agent import ascend_tools  # late: a launch does not ask them

    args = request.args
    answers = ascend_tools.ask_tools(args["calls"], timeout=args["tool_timeout"], parallel=args["parallel"])
    yield Answer({"answers": answers, "files": [ascend_tools.read_text(path) for path in args["files"]]})
