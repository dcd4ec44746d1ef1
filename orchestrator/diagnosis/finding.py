"""A finding: something that can be the cause of a failure, with its time; which of several was first. Pure.

It has a time, give or take an error; two of the same host are told apart by its clock alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.diagnosis.evidence import Certainty, Culprit, Proof

__all__ = ["Finding", "Weight", "culprits_of", "doubted", "earliest", "first_of", "place_of", "rank_of"]


class Weight:
    """How much an own failure says: the lower, the more."""

    PLAIN = 0  # its kernel, its log or a signal says outright what happened
    SOFT = 1  # it says so, but it may follow from another's failure
    VAGUE = 2  # it ended, and nothing says why


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that can be the cause. `culprit` is None where it is one of the `suspects`."""

    kind: str
    culprit: Culprit | None
    proofs: tuple[Proof, ...] = ()
    time: float | None = None
    error: float = 0.0
    weight: int = Weight.PLAIN
    certainty: Certainty = Certainty.SURE
    suspects: tuple[Culprit, ...] = ()
    code: str = ""

    def is_before(self, other: Finding) -> bool:
        """Whether it surely was earlier, as far as the clocks are known."""
        if self.time is None or other.time is None:
            return False
        is_one_clock = (
            self.culprit is not None and other.culprit is not None and self.culprit.host == other.culprit.host
        )
        return other.time - self.time > (0.0 if is_one_clock else self.error + other.error)


def earliest(findings: Sequence[Finding]) -> list[Finding]:
    """Those of which none was surely before."""
    # Of a host whose clock is one only the first count, so that this takes hosts and not ranks squared.
    firsts: dict[str, float] = {}
    for each in findings:
        if each.culprit is not None and each.time is not None:
            firsts[each.culprit.host] = min(each.time, firsts.get(each.culprit.host, each.time))
    near = [
        each
        for each in findings
        if each.time is None or each.culprit is None or each.time <= firsts[each.culprit.host]
    ]
    leaders = list(
        {(each.culprit.host, each.time): each for each in near if each.culprit is not None}.values()
    )
    return [each for each in near if not any(other.is_before(each) for other in leaders)]


def rank_of(found: Finding) -> int:
    assert found.culprit is not None and found.culprit.rank is not None
    return found.culprit.rank


def first_of(findings: Sequence[Finding]) -> Finding | None:
    """The earliest. Several that may be the earliest, of which none says more: suspects, and nobody is named,
    unless they say the same: what fails alike everywhere has one cause."""
    near = earliest(findings)
    if not near:
        return None
    first = min(near, key=lambda each: (each.time is None, each.time or 0.0, place_of(each.culprit)))
    if len(near) == 1:
        return first
    others = [each for each in near if each is not first]
    if _text(first) and all(each.kind == first.kind and _text(each) == _text(first) for each in others):
        lowest = min(near, key=lambda each: place_of(each.culprit))
        return dataclasses.replace(lowest, suspects=culprits_of(near))
    if len({each.culprit.host for each in near if each.culprit is not None}) == 1:
        return dataclasses.replace(doubted(first), suspects=culprits_of(others))
    kinds = {each.kind for each in near}
    return Finding(
        kinds.pop() if len(kinds) == 1 else "unknown",
        None,
        tuple(proof for each in near for proof in each.proofs),
        certainty=Certainty.UNKNOWN,
        suspects=culprits_of(near),
    )


def place_of(culprit: Culprit | None) -> tuple[int, str]:
    return (-1, "") if culprit is None else (-1 if culprit.rank is None else culprit.rank, culprit.host)


def _text(found: Finding) -> str:
    """What it says, without its numbers; empty where it is only an end."""
    said = [proof.text for proof in found.proofs if proof.source not in ("end", "host")]
    return re.sub(r"[\d.:]+", "", said[0]) if said else ""


def culprits_of(findings: Sequence[Finding]) -> tuple[Culprit, ...]:
    return tuple(each.culprit for each in findings if each.culprit is not None)


def doubted(found: Finding) -> Finding:
    return (
        dataclasses.replace(found, certainty=Certainty.LIKELY) if found.certainty is Certainty.SURE else found
    )
