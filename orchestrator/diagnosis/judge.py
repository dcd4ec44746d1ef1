"""The judgement of a failure: from the evidence of all ranks and hosts its cause, or its suspects. Pure.

In this order are named

1. what failed by itself and says so: a rank by its log, its signal or its kernel's word of it, the first of
   them by clocks that are compared with their errors; a host that is gone, before what may only follow from
   that;
2. a fault of a device or of a kernel that touches a rank;
3. a rank that was made to end, and had told of an error of its own;
4. whom HCCL's heartbeat or MindSpore's scheduler accuses, or the link or the operation that two have in common;
5. the one for which the others waited; an end that says nothing; the one rank that is silent; the one that
   came too late.

1 and 2 are sure where nothing contradicts; what only others say is likely at most. Where two may be it, nobody
is named and both are suspects.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence

from orchestrator.core.ends import SCHEDULER
from orchestrator.core.log_signatures import Meaning, bare
from orchestrator.core.states import RankState
from orchestrator.diagnosis import accusations
from orchestrator.diagnosis.accusations import Accusation, Pair
from orchestrator.diagnosis.evidence import Case, Cause, Certainty, Culprit, Proof
from orchestrator.diagnosis.findings import (
    Finding,
    Weight,
    earliest,
    faults_around,
    host_losses,
    own_failures,
    with_device_fault,
)
from orchestrator.diagnosis.scene import RUN_LOG, Scene, lines_of

__all__ = ["judge"]

_LIKELY, _UNKNOWN = Certainty.LIKELY, Certainty.UNKNOWN
_MOST_SUSPECTS = 16
_MOST_PROOFS = 8
# HCCL's time-outs where the log does not tell others, in seconds: HCCL_CONNECT_TIMEOUT, HCCL_EXEC_TIMEOUT.
_TIMEOUTS = {"rank_missing": 120.0, "rank_stuck": 1836.0}
_SET_TIMEOUT = re.compile(r"\bHCCL_(CONNECT|EXEC)_TIMEOUT (?:is )?set (?:by \w+ )?to \[?(\d{1,7})\b")
_TIMEOUT_OF = {"CONNECT": "rank_missing", "EXEC": "rank_stuck"}

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
        _unlike_others,
        _voted,
        _link,
        _missed_by_the_scheduler,
        _waited_for_alone,
        _ended_without_a_word,
        _silent,
        _other_operations,
        _late,
        _waited_for,
    )


def _cause(scene: Scene, found: Finding) -> Cause:
    culprit = found.culprit if found.certainty is not _UNKNOWN else None
    ended = [number for number, rank in scene.ranks.items() if rank.state not in _NO_VICTIM]
    own = culprit.rank if culprit is not None else None
    victims = tuple(number for number in ended if number >= 0 and number != own)
    suspects = tuple(dict.fromkeys(found.suspects))[:_MOST_SUSPECTS]
    if culprit is not None:
        suspects = tuple(suspect for suspect in suspects if suspect != culprit)
    proofs = tuple(dict.fromkeys(found.proofs))[:_MOST_PROOFS]
    return Cause(found.kind, found.certainty, culprit, proofs, victims, suspects, found.code)


_NO_VICTIM = frozenset({RankState.SUCCEEDED, RankState.PENDING, RankState.STARTING, RankState.RUNNING})


# 1: what failed by itself.


def _failed_by_itself(scene: Scene) -> Finding | None:
    """The first failure that says outright what happened, or a host that is gone."""
    own = [found for found in own_failures(scene) if found.weight == Weight.PLAIN]
    losses = [] if scene.case.stopped_by_hand else host_losses(scene)
    if not losses:
        return _first_of(own)
    loss = _first_of(losses)
    assert loss is not None
    # A crash without a word, or being killed, may follow from the loss of a host, unless it was before.
    before = [found for found in own if found.is_before(loss)]
    if before:
        return _first_of(before)
    said = _first_of([found for found in own if found.kind not in _FOLLOWS])
    if said is not None and _gap(loss, said) <= _HEARD_EVERY:
        return dataclasses.replace(_doubted(said), suspects=(*said.suspects, *_culprits([loss])))
    return loss


_FOLLOWS = frozenset({"killed", "crashed"})
# A host that is lost was lost some time after it was last heard of.
_HEARD_EVERY = 60.0


def _gap(loss: Finding, said: Finding) -> float:
    """How long after a host was last heard of somebody else failed, at the least."""
    if loss.time is None or said.time is None:
        return 0.0
    return said.time - loss.time - loss.error - said.error


def _rank(found: Finding) -> int:
    assert found.culprit is not None and found.culprit.rank is not None
    return found.culprit.rank


def _first_of(findings: Sequence[Finding]) -> Finding | None:
    """The earliest. Several that may be the earliest, of which none says more: suspects, and nobody is named,
    unless they say the same: what fails alike everywhere has one cause."""
    near = earliest(findings)
    if not near:
        return None
    first = min(near, key=lambda each: (each.time is None, each.time or 0.0, _place(each.culprit)))
    if len(near) == 1:
        return first
    others = [each for each in near if each is not first]
    if all(each.kind == first.kind and _text(each) == _text(first) for each in others) and _text(first):
        return dataclasses.replace(first, suspects=_culprits(others))
    if len({each.culprit.host for each in near if each.culprit is not None}) == 1:
        return dataclasses.replace(_doubted(first), suspects=_culprits(others))
    kinds = {each.kind for each in near}
    return Finding(
        kinds.pop() if len(kinds) == 1 else "unknown",
        None,
        tuple(proof for each in near for proof in each.proofs),
        certainty=_UNKNOWN,
        suspects=_culprits(near),
    )


def _place(culprit: Culprit | None) -> tuple[int, str]:
    return (-1, "") if culprit is None else (-1 if culprit.rank is None else culprit.rank, culprit.host)


def _text(found: Finding) -> str:
    """What it says, without its numbers; empty where it is only an end."""
    said = [proof.text for proof in found.proofs if proof.source != "end"]
    return re.sub(r"[\d.:]+", "", said[0]) if said else ""


def _culprits(findings: Sequence[Finding]) -> tuple[Culprit, ...]:
    return tuple(each.culprit for each in findings if each.culprit is not None)


def _doubted(found: Finding) -> Finding:
    return dataclasses.replace(found, certainty=_LIKELY) if found.certainty is Certainty.SURE else found


# 2 and 3: faults, and what was told before it was made to end.


def _fault(scene: Scene) -> Finding | None:
    """A device or kernel that has a fault. Of several that whose rank is accused or waited for, then the gravest."""
    faults = faults_around(scene)
    sure = [fault for fault in faults if fault.certainty is Certainty.SURE] or faults
    if len(sure) <= 1:
        return sure[0] if sure else None
    named = {scene.by_rank(each.named) for each in (*accusations.votes(scene), *accusations.waits(scene))}
    named |= {number for number, told in scene.told.items() if told.is_culprit}
    meant = [fault for fault in sure if fault.culprit is not None and fault.culprit.rank in named]
    if len(meant) == 1:
        return dataclasses.replace(_doubted(meant[0]), suspects=_culprits(sure))
    proofs = tuple(proof for fault in sure for proof in fault.proofs)
    kinds, hosts = {fault.kind for fault in sure}, {fault.culprit.host for fault in sure if fault.culprit}
    kind = kinds.pop() if len(kinds) == 1 else "device_fault"
    if len(hosts) == 1:
        return Finding(kind, Culprit(hosts.pop()), proofs, certainty=_LIKELY, suspects=_culprits(sure))
    return Finding(kind, None, proofs, certainty=_UNKNOWN, suspects=_culprits(sure))


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
    return _first_of(found)


_MADE_TO_END = frozenset({RankState.STOPPED, RankState.RUNNING, RankState.LOST, RankState.UNREACHABLE})
_STATED = re.compile(r"^\W*(?:\[[^]]*\]|\w*(?:Error|Exception)\b|E[A-Z0-9]\d{4}\b|[\s(]|-)")


def _is_stated(text: str) -> bool:
    """Whether it begins as an error does, and not as a sentence."""
    return _STATED.match(bare(text)) is not None


# 4: what ranks say of others.


def _unlike_others(scene: Scene) -> Finding | None:
    """The one whose settings are unlike those of the others."""
    tls = accusations.tls_minority(scene)
    if tls is not None:
        named, speaker, line = tls
        found = Finding("tls_mismatch", None, scene.proof(speaker, line), certainty=_LIKELY, code="EI0016")
        return _named(found, named)
    pairs = accusations.pairs(scene, "collective_mismatch")
    if pairs:
        return _of_pairs(scene, pairs, "EI0005")
    return None


def _other_operations(scene: Scene) -> Finding | None:
    """The one that waited in another collective operation than the others of its communicator."""
    for calls in accusations.operations(scene).values():
        if len(calls) > 1:
            groups = sorted(calls.values(), key=len)
            few = groups[0] if len(groups[0]) < len(groups[1]) else [rank for ranks in groups for rank in ranks]
            proofs = tuple(
                Proof(scene.ranks[ranks[0]].host, ranks[0], "plog", f"rank {ranks[0]}: {call}")
                for call, ranks in calls.items()
            )
            found = Finding("collective_mismatch", None, proofs, certainty=_LIKELY)
            return _named(found, [scene.culprit(rank) for rank in few])
    return None


def _named(found: Finding, named: Sequence[Culprit]) -> Finding:
    """With its culprit, where that is one; their host where they are all of one; else they are suspects."""
    if len(named) == 1:
        return dataclasses.replace(found, culprit=named[0])
    return dataclasses.replace(found, suspects=tuple(named))


def _voted(scene: Scene) -> Finding | None:
    """Whom HCCL's heartbeat accuses; nobody where two accuse each other."""
    said = accusations.votes(scene)
    if not said:
        return None
    speakers = {each.speaker for each in said}
    by_named: dict[Culprit, list[Accusation]] = {}
    for each in said:
        by_named.setdefault(each.named, []).append(each)
    # Who speaks was there to speak, but where all who are accused do.
    quiet = {named: each for named, each in by_named.items() if scene.by_rank(named) not in speakers}
    stuck = {named: each for named, each in quiet.items() if any(one.kind == "rank_stuck" for one in each)}
    chosen = stuck or quiet or by_named
    most = max(map(len, chosen.values()))
    top = [named for named, each in chosen.items() if len(each) == most]
    proofs = tuple(proof for named in top for one in chosen[named][:2] for proof in scene.proof(one.speaker, one.line))
    if len(top) > 1:
        return Finding("unknown", None, proofs, certainty=_UNKNOWN, suspects=tuple(top))
    kind = "rank_stuck" if any(one.kind == "rank_stuck" for one in chosen[top[0]]) else chosen[top[0]][0].kind
    return _with_own_end(scene, Finding(kind, top[0], proofs, certainty=_LIKELY))


def _with_own_end(scene: Scene, found: Finding) -> Finding:
    """As the accused rank's own end has it, where that says more."""
    rank = None if found.culprit is None else scene.by_rank(found.culprit)
    own = [each for each in own_failures(scene) if rank is not None and _rank(each) == rank]
    if not own:
        return found
    return dataclasses.replace(own[0], certainty=_LIKELY, proofs=(*own[0].proofs, *found.proofs))


def _link(scene: Scene) -> Finding | None:
    pairs = accusations.pairs(scene, "link_fault")
    return _of_pairs(scene, pairs, "") if pairs else None


def _of_pairs(scene: Scene, pairs: Sequence[Pair], code: str) -> Finding:
    """The one end that all pairs of several speakers have in common; else both ends are suspects."""
    ends = Counter(end for pair in pairs for end in (pair.here, pair.there))
    common = [end for end, count in ends.items() if count == len(pairs) > 1]
    proofs = tuple(proof for pair in pairs for proof in scene.proof(pair.speaker, pair.line))
    found = Finding(pairs[0].kind, None, proofs, certainty=_LIKELY, code=code)
    if len(common) == 1:
        return _with_own_end(scene, dataclasses.replace(found, culprit=common[0]))
    return dataclasses.replace(found, suspects=tuple(ends))


def _missed_by_the_scheduler(scene: Scene) -> Finding | None:
    said = accusations.scheduler_says(scene)
    named = list(dict.fromkeys(each.named for each in said))
    if len(named) != 1:
        return None
    rank = scene.by_rank(named[0])
    if rank is None or scene.ranks[rank].state is RankState.SUCCEEDED:
        return None
    proofs = tuple(proof for each in said[:2] for proof in scene.proof(each.speaker, each.line))
    return _with_own_end(scene, Finding("rank_lost", named[0], proofs, certainty=_LIKELY))


# 5: who waited for whom, and who says nothing.


def _chain_ends(scene: Scene) -> dict[Culprit, list[Accusation]]:
    """Who is waited for and waits for nobody, with those who wait."""
    said = accusations.waits(scene)
    waiting = {each.speaker for each in said}
    ends: dict[Culprit, list[Accusation]] = {}
    for each in said:
        if scene.by_rank(each.named) not in waiting:
            ends.setdefault(each.named, []).append(each)
    return ends


def _of_waits(scene: Scene, named: Culprit, said: Sequence[Accusation]) -> Finding:
    kinds = Counter(each.kind for each in said)
    proofs = tuple(proof for each in said[:3] for proof in scene.proof(each.speaker, each.line))
    found = Finding(kinds.most_common(1)[0][0], named, proofs, certainty=_LIKELY)
    return _with_own_end(scene, found)


def _waited_for_alone(scene: Scene) -> Finding | None:
    """The one rank that is waited for and is silent."""
    silent = set(scene.silent())
    ends = {named: said for named, said in _chain_ends(scene).items() if scene.by_rank(named) in silent}
    return _of_waits(scene, *next(iter(ends.items()))) if len(ends) == 1 else None


def _ended_without_a_word(scene: Scene) -> Finding | None:
    """The first that ended and does not say why, or with an error that may follow from another's."""
    own = own_failures(scene)
    vague = [each for each in own if each.weight != Weight.PLAIN and _rank(each) != SCHEDULER]
    vague = vague or [each for each in own if each.weight != Weight.PLAIN]
    found = _first_of(vague)
    return _doubted(found) if found is not None and scene.victims() else found


def _silent(scene: Scene) -> Finding | None:
    """The one rank that says nothing where others wait, or that made fewer steps than all others."""
    victims, silent = scene.victims(), scene.silent()
    if len(silent) > 1:
        silent = _fewest_steps(scene, silent)
    if len(silent) != 1 or (not victims and not _hangs(scene, silent[0])):
        return None
    kind = _missed_kind(scene, victims)
    proofs = tuple(proof for number in victims[:3] for proof in scene.proof(number, scene.told[number].line))
    return Finding(kind, scene.culprit(silent[0]), proofs, certainty=_LIKELY)


def _missed_kind(scene: Scene, victims: Sequence[int]) -> str:
    """The kind of failure that most of the victims tell of."""
    kinds = Counter(told.row.kind for number in victims if (told := scene.told[number]).row is not None)
    return kinds.most_common(1)[0][0] if kinds else "rank_stuck"


def _hangs(scene: Scene, rank: int) -> bool:
    """Whether nothing has failed yet, and this one runs."""
    return scene.ranks[rank].state is RankState.RUNNING and not _is_failed(scene)


def _is_failed(scene: Scene) -> bool:
    return any(rank.state is RankState.FAILED for rank in scene.ranks.values())


def _fewest_steps(scene: Scene, silent: Sequence[int]) -> list[int]:
    """Those of the silent that made fewer steps than every other rank of the run; none where steps do not tell."""
    steps = {number: rank.step for number, rank in scene.ranks.items() if number >= 0}
    if any(step is None for step in steps.values()) or not steps:
        return []
    least = min(step for step in steps.values() if step is not None)
    behind = [number for number, step in steps.items() if step == least]
    return behind if len(behind) == 1 and behind[0] in silent else []


def _late(scene: Scene) -> Finding | None:
    """Where all waited, and for longer than they wait: those who ended last had come last."""
    victims = [scene.ranks[number] for number in scene.victims() if number >= 0]
    times = [(rank.time, rank) for rank in victims if rank.time is not None]
    if len(times) < 2 or len(times) != len(scene.ranks) - (SCHEDULER in scene.ranks):
        return None
    limit = _timeout(scene, _missed_kind(scene, scene.victims()))
    first, first_rank = min(times, key=lambda each: each[0])
    late = [rank for time, rank in times if time - first - rank.error - first_rank.error > limit]
    if not late:
        return None
    proofs = tuple(
        Proof(rank.host, rank.rank, "end", f"{time - first:.0f} s after the first, {limit:.0f} s are waited")
        for time, rank in times
        if rank in late
    )
    found = Finding("rank_late", None, proofs, certainty=_LIKELY)
    if len({rank.host for rank in late}) == 1 < len(late):
        suspects = tuple(scene.culprit(rank.rank) for rank in late)
        return dataclasses.replace(found, culprit=Culprit(late[0].host), suspects=suspects)
    return _named(found, [scene.culprit(rank.rank) for rank in late])


def _timeout(scene: Scene, kind: str) -> float:
    """How long a rank waits, by the run logs of HCCL where they tell."""
    for rank in scene.ranks.values():
        for line in lines_of(rank):
            found = _SET_TIMEOUT.search(line.text) if line.source == RUN_LOG else None
            if found is not None and _TIMEOUT_OF[found[1]] == kind:
                return float(found[2])
    return _TIMEOUTS.get(kind, _TIMEOUTS["rank_stuck"])


def _waited_for(scene: Scene) -> Finding | None:
    """The end of the chain of those who wait, or the one for which most do."""
    ends = sorted(_chain_ends(scene).items(), key=lambda each: -len(each[1]))
    if not ends:
        return None
    rest = sum(len(said) for _, said in ends[1:])
    if len(ends[0][1]) > rest:
        return _of_waits(scene, *ends[0])
    proofs = tuple(proof for _, said in ends for proof in scene.proof(said[0].speaker, said[0].line))
    return Finding("unknown", None, proofs, certainty=_UNKNOWN, suspects=tuple(named for named, _ in ends))


# Nobody.


def _stopped(scene: Scene) -> Finding | None:
    return Finding("stopped", None)


def _nobody(scene: Scene) -> Finding:
    """Nothing suffices: the suspects, as far as there are some, and what the first victims say."""
    silent, victims = scene.silent(), scene.victims()
    told = sorted(victims or scene.of_meaning(Meaning.BETWEEN), key=lambda number: scene.ranks[number].time or 0.0)
    proofs = tuple(proof for number in told[:3] for proof in scene.proof(number, scene.told[number].line))
    seen = [number for number in silent if scene.ranks[number].state is not RankState.UNREACHABLE]
    suspects = tuple(scene.culprit(number) for number in (seen if victims else ()))
    hangs = not victims and not _is_failed(scene)
    is_running = any(rank.state is RankState.RUNNING for rank in scene.ranks.values())
    kind = "hang" if hangs and is_running else "unknown"
    return Finding(kind, None, proofs, certainty=_UNKNOWN, suspects=suspects)
