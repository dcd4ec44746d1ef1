"""The verbs that hold a host ready for a run: its spare, see `spare_holder`.

A request that says that the run is over (`over`, see `attempt_guard`) lets go of it, whatever it asks.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping

from orchestrator.agent import attempt_guard
from orchestrator.agent.device_hold import taken_over
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.agent.spare_holder import Hold, SpareFolder, hold
from orchestrator.agent.spare_locks import ask_holder, release_spare
from orchestrator.core.codec import from_json
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir
from orchestrator.core.records import Attempt

__all__ = ["spare_hold", "spare_release", "spare_renew", "spare_status"]

_LATER = Attempt(2)  # than any that this host was of


def spare_hold(request: Request) -> Iterator[Answer]:
    """Hold this host ready; one that is held for the run already stays as it is, and is renewed."""
    args, workdir = request.args, Workdir(request.root)
    folder, claim = _folder(request), attempt_guard.claim_in(args)
    attempt_guard.require_claim(workdir, folder.run_id, claim)
    try:
        yield Answer(ask_holder(folder, "renew", claim))
        return
    except AgentError as error:
        if error.kind != "no_spare":
            raise
    lock_dir = args["lock_dir"]
    wanted = Hold(
        folder.run_id,
        args["devices"],
        workdir.locks if lock_dir is None else Workdir(lock_dir).root,
        from_json(float, args["lease"]),
        args["packages"],
        env_script=args.get("env_script"),
        inputs=args.get("inputs", ()),
        claim=claim,
    )
    # A host that was of an attempt before may keep its devices for the next one, which has others.
    with taken_over(workdir.run(folder.run_id), _LATER) as taken:
        hold(workdir, wanted, taken)
    yield Answer(ask_holder(folder, "status", claim))


def spare_status(request: Request) -> Iterator[Answer]:
    """How it is; AgentError, kind `no_spare`, where this host is no spare of the run."""
    yield _asked("status", request)


def spare_renew(request: Request) -> Iterator[Answer]:
    """A monitor is there: the lease begins anew."""
    yield _asked("renew", request)


def spare_release(request: Request) -> Iterator[Answer]:
    """Let go of all that is held for the run here, which may be nothing."""
    release_spare(_folder(request), attempt_guard.claim_in(request.args))
    yield Answer()


def _asked(verb: str, request: Request) -> Answer:
    folder, claim = _folder(request), attempt_guard.claim_in(request.args)
    if _is_over(request.args):
        release_spare(folder, claim)
        raise AgentError(f"run {folder.run_id} is over: this host is no spare of it", kind="no_spare")
    answer: Dict[str, Any] = ask_holder(folder, verb, claim)
    return Answer(answer)


def _is_over(args: Mapping[str, Any]) -> bool:
    return isinstance(args.get("over"), str)


def _folder(request: Request) -> SpareFolder:
    return SpareFolder(Workdir(request.root), request.args["run_id"])
