"""Suspects: whom the ranks accuse, whom they waited for, who is silent or came too late. Pure.

What is found here is likely at most: it is what others say, or what they do not.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from orchestrator.core.ends import SCHEDULER
from orchestrator.core.log_signatures import Meaning
from orchestrator.core.states import RankState
from orchestrator.diagnosis import accusations
from orchestrator.diagnosis.accusations import Accusation, Pair
from orchestrator.diagnosis.evidence import Certainty, Culprit, Proof
from orchestrator.diagnosis.failures import own_failures
from orchestrator.diagnosis.finding import Finding, place_of, rank_of
from orchestrator.diagnosis.scene import RUN_LOG, Scene, lines_of

__all__ = [
    "is_failed",
    "late",
    "link",
    "missed_by_the_scheduler",
    "other_operations",
    "silent",
    "unlike_others",
    "voted",
    "waited_for",
    "waited_for_alone",
]

_LIKELY, _UNKNOWN = Certainty.LIKELY, Certainty.UNKNOWN
# HCCL's time-outs where the log does not tell others, in seconds: HCCL_CONNECT_TIMEOUT, HCCL_EXEC_TIMEOUT.
_TIMEOUTS = {"rank_missing": 120.0, "rank_stuck": 1836.0}
_SET_TIMEOUT = re.compile(r"\bHCCL_(CONNECT|EXEC)_TIMEOUT (?:is )?set (?:by \w+ )?to \[?(\d{1,7})\b")
_TIMEOUT_OF = {"CONNECT": "rank_missing", "EXEC": "rank_stuck"}


def unlike_others(scene: Scene) -> Finding | None:
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


def other_operations(scene: Scene) -> Finding | None:
    """The one that waited in another collective operation than the others of its communicator."""
    for calls in accusations.operations(scene).values():
        if len(calls) > 1:
            groups = sorted(calls.values(), key=len)
            few = (
                groups[0] if len(groups[0]) < len(groups[1]) else [rank for ranks in groups for rank in ranks]
            )
            proofs = tuple(
                Proof(scene.ranks[ranks[0]].host, ranks[0], "plog", f"rank {ranks[0]}: {call}")
                for call, ranks in calls.items()
            )
            found = Finding("collective_mismatch", None, proofs, certainty=_LIKELY)
            return _named(found, [scene.culprit(rank) for rank in few])
    return None


def _named(found: Finding, named: Sequence[Culprit]) -> Finding:
    """With its culprit, where that is one; else they are suspects."""
    if len(named) == 1:
        return dataclasses.replace(found, culprit=named[0])
    return dataclasses.replace(found, suspects=tuple(named))


def voted(scene: Scene) -> Finding | None:
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
    proofs = tuple(
        proof for named in top for one in chosen[named][:2] for proof in scene.proof(one.speaker, one.line)
    )
    if len(top) > 1:
        return Finding("unknown", None, proofs, certainty=_UNKNOWN, suspects=tuple(top))
    kind = "rank_stuck" if any(one.kind == "rank_stuck" for one in chosen[top[0]]) else chosen[top[0]][0].kind
    return _with_own_end(scene, Finding(kind, top[0], proofs, certainty=_LIKELY))


def _with_own_end(scene: Scene, found: Finding) -> Finding:
    """As the accused rank's own end has it, where that says more."""
    rank = None if found.culprit is None else scene.by_rank(found.culprit)
    own = [each for each in own_failures(scene) if rank is not None and rank_of(each) == rank]
    if not own:
        return found
    return dataclasses.replace(own[0], certainty=_LIKELY, proofs=(*own[0].proofs, *found.proofs))


def link(scene: Scene) -> Finding | None:
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


def missed_by_the_scheduler(scene: Scene) -> Finding | None:
    said = accusations.scheduler_says(scene)
    named = list(dict.fromkeys(each.named for each in said))
    if len(named) != 1:
        return None
    rank = scene.by_rank(named[0])
    if rank is None or scene.ranks[rank].state is RankState.SUCCEEDED:
        return None
    proofs = tuple(proof for each in said[:2] for proof in scene.proof(each.speaker, each.line))
    return _with_own_end(scene, Finding("rank_lost", named[0], proofs, certainty=_LIKELY))


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


def waited_for_alone(scene: Scene) -> Finding | None:
    """The one rank that is waited for and is silent."""
    quiet = set(scene.silent)
    ends = {named: said for named, said in _chain_ends(scene).items() if scene.by_rank(named) in quiet}
    return _of_waits(scene, *next(iter(ends.items()))) if len(ends) == 1 else None


def silent(scene: Scene) -> Finding | None:
    """The one rank that says nothing where others wait, or that made fewer steps than all others."""
    victims, quiet = scene.victims, scene.silent
    if len(quiet) > 1:
        quiet = _fewest_steps(scene, quiet)
    if len(quiet) != 1 or (not victims and not _hangs(scene, quiet[0])):
        return None
    kind = _missed_kind(scene, victims)
    proofs = tuple(proof for number in victims[:3] for proof in scene.proof(number, scene.told[number].line))
    return Finding(kind, scene.culprit(quiet[0]), (*_steps_made(scene, quiet[0]), *proofs), certainty=_LIKELY)


def _steps_made(scene: Scene, rank: int) -> tuple[Proof, ...]:
    """That it made fewer steps than others, where it did."""
    own = scene.ranks[rank]
    steps = [other.step for other in scene.ranks.values() if other.step is not None]
    if own.step is None or own.step >= max(steps):
        return ()
    return (Proof(own.host, rank, "steps", f"step {own.step}, others {max(steps)}"),)


def _missed_kind(scene: Scene, victims: Sequence[int]) -> str:
    """The kind of failure that most of the victims tell of."""
    kinds = Counter(told.row.kind for number in victims if (told := scene.told[number]).row is not None)
    return kinds.most_common(1)[0][0] if kinds else "rank_stuck"


def _hangs(scene: Scene, rank: int) -> bool:
    """Whether nothing has failed yet, and this one runs."""
    return scene.ranks[rank].state is RankState.RUNNING and not is_failed(scene)


def is_failed(scene: Scene) -> bool:
    return any(rank.state is RankState.FAILED for rank in scene.ranks.values())


def _fewest_steps(scene: Scene, quiet: Sequence[int]) -> list[int]:
    """The silent one that made fewer steps than every other rank of the run; none where steps do not tell."""
    steps = {number: rank.step for number, rank in scene.ranks.items() if number >= 0}
    if any(step is None for step in steps.values()) or not steps:
        return []
    least = min(step for step in steps.values() if step is not None)
    behind = [number for number, step in steps.items() if step == least]
    return behind if len(behind) == 1 and behind[0] in quiet else []


def late(scene: Scene) -> Finding | None:
    """Where all waited, and for longer than they wait: those who ended last had come last."""
    victims = [scene.ranks[number] for number in scene.victims if number >= 0]
    times = [(rank.time, rank) for rank in victims if rank.time is not None]
    if len(times) < 2 or len(times) != len(scene.ranks) - (SCHEDULER in scene.ranks):
        return None
    limit = _timeout(scene, _missed_kind(scene, scene.victims))
    first, first_rank = min(times, key=lambda each: each[0])
    last = [(time, rank) for time, rank in times if time - first - rank.error - first_rank.error > limit]
    if not last:
        return None
    proofs = tuple(
        Proof(rank.host, rank.rank, "end", f"{time - first:.0f} s after the first, {limit:.0f} s are waited")
        for time, rank in last
    )
    found = Finding("rank_late", None, proofs, certainty=_LIKELY)
    culprits = [scene.culprit(rank.rank) for _, rank in last]
    if len({culprit.host for culprit in culprits}) == 1 < len(last):
        return dataclasses.replace(found, culprit=Culprit(culprits[0].host), suspects=tuple(culprits))
    return _named(found, culprits)


def _timeout(scene: Scene, kind: str) -> float:
    """How long a rank waits, by the run logs of HCCL where they tell."""
    for rank in scene.ranks.values():
        for line in lines_of(rank):
            found = _SET_TIMEOUT.search(line.text) if line.source == RUN_LOG else None
            if found is not None and _TIMEOUT_OF[found[1]] == kind:
                return float(found[2])
    return _TIMEOUTS.get(kind, _TIMEOUTS["rank_stuck"])


def waited_for(scene: Scene) -> Finding | None:
    """The end of the chain of those who wait, or the one for which most do."""
    ends = sorted(_chain_ends(scene).items(), key=lambda each: (-len(each[1]), place_of(each[0])))
    # Who has itself only noticed that another is gone is not the last of the chain.
    ends = [(named, said) for named, said in ends if not _noticed_a_loss(scene, named)]
    if not ends:
        return None
    rest = sum(len(said) for _, said in ends[1:])
    if len(ends[0][1]) > rest:
        return _of_waits(scene, *ends[0])
    proofs = tuple(proof for _, said in ends for proof in scene.proof(said[0].speaker, said[0].line))
    return Finding("unknown", None, proofs, certainty=_UNKNOWN, suspects=tuple(named for named, _ in ends))


def _noticed_a_loss(scene: Scene, culprit: Culprit) -> bool:
    rank = scene.by_rank(culprit)
    told = None if rank is None else scene.told[rank]
    return (
        told is not None
        and told.row is not None
        and (told.meaning, told.row.kind) == (Meaning.VICTIM, "rank_lost")
    )
