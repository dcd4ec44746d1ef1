"""The judgement of a failure: from the evidence of all ranks and hosts its cause, or its suspects. Pure.

In this order are named

1. what failed by itself and says so: a rank by its log, its signal or its kernel's word of it, the first of
   them by clocks that are compared with their errors; a host that is gone, before what may only follow from
   that;
2. a fault of a device or of a kernel that touches a rank;
3. a rank that was made to end, and had told of an error of its own;
4. whom HCCL's heartbeat or MindSpore's scheduler accuses, or the link or operation that two have in common;
5. the one for which the others waited; an end that says nothing; the one rank that is silent; the one that
   came too late.

1 and 2 are sure where nothing contradicts; what only others say is likely at most. Where two may be it,
nobody is named and both are suspects.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from orchestrator.core.ends import SCHEDULER
from orchestrator.core.log_signatures import Meaning, bare
from orchestrator.core.states import RankState
from orchestrator.diagnosis import accusations, suspects
from orchestrator.diagnosis.circumstances import faults_around, with_device_fault
from orchestrator.diagnosis.evidence import Case, Cause, Certainty, Culprit
from orchestrator.diagnosis.failures import host_losses, own_failures
from orchestrator.diagnosis.finding import Finding, Weight, culprits_of, doubted, first_of, rank_of
from orchestrator.diagnosis.scene import Scene

__all__ = ["judge"]

_LIKELY, _UNKNOWN = Certainty.LIKELY, Certainty.UNKNOWN
_MOST_SUSPECTS = 16
_MOST_PROOFS = 8


_Step = Callable[[Scene], Finding | None]


def judge(case: Case) -> Cause:
    """Why a run failed, or hangs; of kind `unknown` where the evidence does not suffice."""
    scene = Scene(case)
    found = next((found for step in _steps(scene) if (found := step(scene)) is not None), None)
    return _cause(scene, with_device_fault(scene, found or _nobody(scene)))


def _steps(scene: Scene) -> tuple[_Step, ...]:
    if scene.case.stopped_by_hand:
        return (_failed_by_itself, _stopped)
    return (
        _failed_by_itself,
        _fault,
        _stopped_with_an_error,
        suspects.unlike_others,
        suspects.voted,
        suspects.link,
        suspects.missed_by_the_scheduler,
        suspects.waited_for_alone,
        _ended_without_a_word,
        suspects.silent,
        suspects.other_operations,
        suspects.late,
        suspects.waited_for,
    )


def _cause(scene: Scene, found: Finding) -> Cause:
    culprit = found.culprit if found.certainty is not _UNKNOWN else None
    ended = [number for number, rank in scene.ranks.items() if rank.state not in _NO_VICTIM]
    own = culprit.rank if culprit is not None else None
    victims = tuple(number for number in ended if number >= 0 and number != own)
    others = tuple(suspect for suspect in dict.fromkeys(found.suspects) if suspect != culprit)[
        :_MOST_SUSPECTS
    ]
    proofs = tuple(dict.fromkeys(found.proofs))[:_MOST_PROOFS]
    return Cause(found.kind, found.certainty, culprit, proofs, victims, others, found.code)


_NO_VICTIM = frozenset({RankState.SUCCEEDED, RankState.PENDING, RankState.STARTING, RankState.RUNNING})


# 1: what failed by itself.


def _failed_by_itself(scene: Scene) -> Finding | None:
    """The first failure that says outright what happened, or a host that is gone."""
    own = [found for found in own_failures(scene) if found.weight == Weight.PLAIN]
    losses = [] if scene.case.stopped_by_hand else host_losses(scene)
    if not losses:
        return first_of(own)
    loss = first_of(losses)
    assert loss is not None
    # A crash without a word, or being killed, may follow from the loss of a host, unless it was before.
    before = [found for found in own if found.is_before(loss)]
    if before:
        return first_of(before)
    said = first_of([found for found in own if found.kind not in _FOLLOWS])
    if said is not None and _gap(loss, said) <= _HEARD_EVERY:
        return dataclasses.replace(doubted(said), suspects=(*said.suspects, *culprits_of([loss])))
    return loss


_FOLLOWS = frozenset({"killed", "crashed"})
# A host that is lost was lost some time after it was last heard of.
_HEARD_EVERY = 60.0


def _gap(loss: Finding, said: Finding) -> float:
    """How long after a host was last heard of somebody else failed, at the least."""
    if loss.time is None or said.time is None:
        return 0.0
    return said.time - loss.time - loss.error - said.error


# 2 and 3: faults, and what was told before it was made to end.


def _fault(scene: Scene) -> Finding | None:
    """A device or kernel that has a fault. Of several that whose rank is accused or waited for."""
    faults = faults_around(scene)
    sure = [fault for fault in faults if fault.certainty is Certainty.SURE] or faults
    if len(sure) <= 1:
        return sure[0] if sure else None
    named = {scene.by_rank(each.named) for each in (*accusations.votes(scene), *accusations.waits(scene))}
    named |= {number for number, told in scene.told.items() if told.is_culprit}
    meant = [fault for fault in sure if fault.culprit is not None and fault.culprit.rank in named]
    if len(meant) == 1:
        return dataclasses.replace(doubted(meant[0]), suspects=culprits_of(sure))
    proofs = tuple(proof for fault in sure for proof in fault.proofs)
    kinds, hosts = {fault.kind for fault in sure}, {fault.culprit.host for fault in sure if fault.culprit}
    kind = kinds.pop() if len(kinds) == 1 else "device_fault"
    if len(hosts) == 1:
        return Finding(kind, Culprit(hosts.pop()), proofs, certainty=_LIKELY, suspects=culprits_of(sure))
    return Finding(kind, None, proofs, certainty=_UNKNOWN, suspects=culprits_of(sure))


def _stopped_with_an_error(scene: Scene) -> Finding | None:
    """A rank that did not fail, and whose log tells of an error of its own: it hung after that, say."""
    found = []
    for number, told in scene.told.items():
        rank = scene.ranks[number]
        if told.row is None or told.line is None or not told.is_culprit or rank.state not in _MADE_TO_END:
            continue
        if _is_stated(told.line.text):
            culprit, proofs = scene.culprit(number), scene.proof(number, told.line)
            found.append(Finding(told.row.kind, culprit, proofs, told.time, rank.error, certainty=_LIKELY))
    return first_of(found)


_MADE_TO_END = frozenset({RankState.STOPPED, RankState.RUNNING, RankState.LOST, RankState.UNREACHABLE})
_STATED = re.compile(r"^\W*(?:\[[^]]*\]|\w*(?:Error|Exception)\b|E[A-Z0-9]\d{4}\b|[\s(]|-)")


def _is_stated(text: str) -> bool:
    """Whether it begins as an error does, and not as a sentence."""
    return _STATED.match(bare(text)) is not None


# 5: an end that says nothing.


def _ended_without_a_word(scene: Scene) -> Finding | None:
    """The first that ended and does not say why, or with an error that may follow from another's."""
    own = own_failures(scene)
    vague = [each for each in own if each.weight != Weight.PLAIN and rank_of(each) != SCHEDULER]
    vague = vague or [each for each in own if each.weight != Weight.PLAIN]
    found = first_of(vague)
    return doubted(found) if found is not None and scene.victims else found


# Nobody.


def _stopped(scene: Scene) -> Finding | None:
    return Finding("stopped", None)


def _nobody(scene: Scene) -> Finding:
    """Nothing suffices: the suspects, as far as there are some, and what the first victims say."""
    silent, victims = scene.silent, scene.victims
    told = sorted(
        victims or scene.of_meaning(Meaning.BETWEEN), key=lambda number: scene.ranks[number].time or 0.0
    )
    proofs = tuple(proof for number in told[:3] for proof in scene.proof(number, scene.told[number].line))
    seen = [number for number in silent if scene.ranks[number].state is not RankState.UNREACHABLE]
    quiet = tuple(scene.culprit(number) for number in (seen if victims else ()))
    hangs = not victims and not suspects.is_failed(scene)
    is_running = any(rank.state is RankState.RUNNING for rank in scene.ranks.values())
    kind = "hang" if hangs and is_running else "unknown"
    return Finding(kind, None, proofs, certainty=_UNKNOWN, suspects=quiet)
