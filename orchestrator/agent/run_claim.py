"""The claim on a run, as its supervisor keeps it: which control node may act, and who is told which. Pure.

A request has `"claim": {"epoch": n, "holder": text}`. The highest epoch that has come is in force; whoever
comes with a lower one, or with the same in another name, is refused. An earlier version's control node has no
claim: it may act on a run as long as nobody has taken that over, which is what an epoch above the first says.
So it starts, stops and undoes its own runs as before, and cannot act on one that another has taken from it.
"""

from __future__ import annotations

from typing import Any, Optional

from orchestrator.core.codec import DecodeError, from_json
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Claim

__all__ = ["FIRST_EPOCH", "admitted"]

FIRST_EPOCH = 1
_LATEST_EPOCH = 1 << 53
_LONGEST_HOLDER = 200


def admitted(known: Optional[Claim], said: Any) -> Optional[Claim]:
    """The claim in force once a request has come that says `said`, None where it has none.

    Raises AgentError, kind `claim`, where who asks may not act.
    """
    asked = None if said is None else _claim_in(said)
    if asked is None or asked.epoch == 0:  # who only watches, as far as it knows
        if known is not None and known.epoch > FIRST_EPOCH:
            raise _refusal(known)
        return known
    if known is None or asked.epoch > known.epoch:
        return asked
    if asked.epoch < known.epoch or asked.holder != known.holder:
        raise _refusal(known)
    return known


def _claim_in(said: Any) -> Claim:
    try:
        claim = from_json(Claim, said)
    except DecodeError as error:
        raise AgentError(f"what was sent is no claim on a run: {error}", kind="claim") from None
    if not 0 <= claim.epoch < _LATEST_EPOCH or len(claim.holder) > _LONGEST_HOLDER:
        raise AgentError("what was sent is no claim on a run: out of bounds", kind="claim")
    return claim


def _refusal(known: Claim) -> AgentError:
    holder = known.holder or "another control node"
    return AgentError(
        f"the run is in the hands of {holder} (claim {known.epoch})",
        remedy="act from there, or take the run over: orchestrate attach --take-over",
        kind="claim",
    )
