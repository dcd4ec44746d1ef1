"""The claim of this control node on a run: who we are, what we ask on it, how one is taken over."""

from __future__ import annotations

import dataclasses
import getpass
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.control.monitor_process import cannot_write, end_monitor
from orchestrator.control.run_record import RunRecord, read_record, write_record
from orchestrator.core.errors import AgentError, HostsFailed, OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, Claim
from orchestrator.hosts.run_address import RunAddress

if TYPE_CHECKING:  # else a command line brings in all that connects
    from orchestrator.hosts.fleet import Fleet

__all__ = ["address_of", "first_claim", "here", "take_over"]

_LONGEST = 200
_FAR = 10_000  # so many take-overs that this control node has not heard of


def here(control: ControlDir) -> str:
    """How this control node is called where it has a claim: the account, the machine, the state directory."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name
        user = "?"
    return f"{user}@{socket.gethostname()}:{control.runs.parent}"[:_LONGEST]


def first_claim(control: ControlDir) -> Claim:
    """That of the control node which launches a run."""
    return Claim(1, here(control))


def address_of(record: RunRecord, number: int | None = None) -> RunAddress:
    """What is meant by questions about a run: its attempt in force, or another one.

    What is over is not to run anywhere any more: whichever host is asked hears that.
    """
    last = record.attempts[-1]
    meant = next((each for each in record.attempts if each.number == number), last)
    over = None
    if meant is not last:
        over = f"attempt {last.number} followed"
    elif record.state.is_terminal:
        over = str(record.state)
    return RunAddress(record.run_id, Attempt(meant.number, meant.token), record.claim, over)


def take_over(control: ControlDir, fleet: Fleet) -> Mapping[str, OrchestrateError]:
    """Make this control node the one that acts on the run, on every host that answers.

    Returns why the others do not: they learn of it when they are first asked something. Raises HostsFailed,
    or the error of the one host, where none answers or somebody else takes the run over at this moment.
    """
    end_monitor(control)
    record = read_record(control)
    known = fleet.each(lambda agent: agent.claim(control.run_id))
    # One host that names a claim beyond all counting must not have the others told it: none could go higher.
    told = {host: claim for host, claim in known.values.items() if claim.epoch <= record.claim.epoch + _FAR}
    known.errors.update(
        {host: _beyond(host, known.values[host]) for host in known.values.keys() - told.keys()}
    )
    if not told:
        raise HostsFailed.of(known.errors)
    highest = max([record.claim, *told.values()], key=lambda claim: claim.epoch)
    mine = Claim(highest.epoch + 1, here(control))
    taken = fleet.each(lambda agent: agent.claim(control.run_id, mine), told)
    lost = {name: error for name, error in taken.errors.items() if _is_refusal(error)}
    if lost or not taken.values:
        raise HostsFailed.of(lost or taken.errors)
    try:
        write_record(control, dataclasses.replace(record, claim=mine))
    except OSError as error:
        raise cannot_write(control, error) from error
    return {**known.errors, **taken.errors}


def _beyond(host: str, claim: Claim) -> AgentError:
    what = f"it names claim {claim.epoch}, which nobody can have come to: it was not told"
    return AgentError(what, where=host, remedy="look at claim.json of the run there")


def _is_refusal(error: OrchestrateError) -> bool:
    return isinstance(error, AgentError) and error.kind == "claim"
