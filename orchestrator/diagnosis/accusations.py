"""What ranks say of others: HCCL's votes, both ends of a link that failed, whom they waited for. Pure.

Wordings are those of HCCL's heartbeat.cc, task_exception_handler.cc, hccl_socket_manager.cc and error codes
(HCOMM, CANN 8 and 9), and of MindSpore's scheduler. A line is believed only where a program writes its
errors, and none makes a cause that is sure: any program can print it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.ends import SCHEDULER
from orchestrator.core.log_signatures import Meaning, accused_by, is_formal, waited_for_by
from orchestrator.diagnosis.evidence import Culprit, LogLine
from orchestrator.diagnosis.scene import Said, Scene

__all__ = ["Accusation", "Pair", "operations", "pairs", "scheduler_says", "tls_minority", "votes", "waits"]


@dataclass(frozen=True, slots=True)
class Accusation:
    """A rank says that another failed, and how: `kind` is that of the other's failure."""

    speaker: int
    named: Culprit
    kind: str
    line: LogLine


@dataclass(frozen=True, slots=True)
class Pair:
    """A rank says that what it has in common with another failed: a link, or an operation's arguments."""

    speaker: int
    here: Culprit
    there: Culprit
    kind: str
    line: LogLine


_LOCATION = re.compile(r"\bCluster Exception Location ?\[IP/ID\] ?: ?\[([^\]/]{1,128})/(\d{1,5})\](.*)")
_CRIMER = re.compile(
    r"(?:\blocal rank ?\[[^]]*\] ?[:：] ?)?"
    r"\bcrimer rank ?\[([^\]/]{1,128})/(\d{1,5})\](?: ?status ?\[([^]]{0,32})\])?"
)
_HEADER_ROW = "LINK_ERROR_INFO"
_LINK_ROW = re.compile(
    r"\|\s*([\da-fA-F.:]{3,64})\((\d{1,7})\)\s*\|(?:\s*\d+\s*\|)?\s*([\da-fA-F.:]{3,64})\((\d{1,7})\)\s*\|"
)
_DST_RANK = re.compile(r"\bdstRank \(server ([^,()]{1,128}), device ID (\d{1,5})\)")
_UNCONNECTED = re.compile(r"\bunconnected ranks: ?\"?\[([\d, ]{0,4000})")
_GROUP_SIZE = re.compile(r"\brankSize\[(\d{1,7})\]")
_CQE_CODE = re.compile(
    r"\bLocal information: server ([^,]{1,128}), device ID (\d{1,5}), "
    r"device IP ([^,. ]{1,40}(?:\.[\d.]{1,40})?)\.? ?"
    r"Peer information: server ([^,]{1,128}), device ID (\d{1,5})(?:, device IP ([\da-fA-F.:]{1,64}))?"
)
_CQE_LINE = re.compile(
    r"localInfo\{.{0,200}?deviceIp\[([^]]{1,64})\]\}.{0,40}?remoteIP\{.{0,200}?deviceIp\[([^]]{1,64})\]\}"
)
_CQE_OLD = re.compile(r"\bcqe err status\[\d+\].{0,80}?\bip:\[([^]]{1,64})\]")
_SDMA = re.compile(r"\bRemote rank: ?\[(\d{1,7})\]")
_ARGUMENTS = re.compile(r"\blocal rank \[?(\d{1,7})\]?, remote rank \[?(\d{1,7})\b")
_TLS = re.compile(r"rankList for (enabled|disabled) tls: ?((?:\[?[\w.:%-]{1,64}/\d{1,5}\]?,? ?)*)")
_TLS_RANK = re.compile(r"([\w.:%-]{1,64})/(\d{1,5})")
_OPERATION = re.compile(r"\btag\[([A-Z][A-Za-z]{2,30})_([\w.%:-]{1,128})")
# Of these the two ends are called by different names.
_OF_TWO = frozenset({"Send", "Recv", "Receive", "SendRecv", "BatchSendRecv"})
_STATUS = {"STUCK": "rank_stuck", "LOST": "rank_lost"}


def votes(scene: Scene) -> list[Accusation]:
    """What HCCL's heartbeat and MindSpore's scheduler say of ranks, each of each speaker once."""
    found: dict[tuple[int, Culprit], Accusation] = {}
    for speaker, line, text, _ in _formal_lines(scene):
        for named, kind in _voted(scene, text):
            said = (speaker, named)
            if scene.by_rank(named) != speaker and (said not in found or kind == "rank_stuck"):
                found[said] = Accusation(speaker, named, kind, line)
    return list(found.values())


def _voted(scene: Scene, text: str) -> Iterator[tuple[Culprit, str]]:
    location = _LOCATION.search(text)
    if location is not None and is_formal(text, location.start()):
        named = scene.at(location[1], location[2])
        kind = "rank_stuck" if "Stuck Occurred" in location[3] else "rank_lost"
        if named is not None and "cqe" not in location[3].lower():
            yield named, kind
    crimer = _CRIMER.search(text)
    if crimer is not None and is_formal(text, crimer.start()):
        named = scene.at(crimer[1], crimer[2])
        if named is not None and "CQE" not in (crimer[3] or ""):
            yield named, _STATUS.get((crimer[3] or "").strip(), "rank_lost")


def scheduler_says(scene: Scene) -> list[Accusation]:
    """The ranks whose heartbeat MindSpore's scheduler no longer heard."""
    found = []
    for speaker, line, text, row in _formal_lines(scene):
        if row is None or row.kind != "rank_lost" or row.meaning is not Meaning.VICTIM:
            continue
        for rank in accused_by([text])[:1]:
            if rank in scene.ranks and rank not in (speaker, SCHEDULER):
                found.append(Accusation(speaker, scene.culprit(rank), "rank_lost", line))
    return found


def waits(scene: Scene) -> list[Accusation]:
    """For whom the victims have waited in vain, or whose end they have noticed."""
    found: dict[tuple[int, Culprit], Accusation] = {}
    victims, in_table = set(scene.victims), set()
    kinds: dict[int, str] = {}
    for speaker, line, text, row in scene.said:
        if speaker not in victims:
            continue
        if _HEADER_ROW in text:
            in_table.add(speaker)
        if row is not None and row.meaning is Meaning.VICTIM:
            kinds[speaker] = row.kind
            names = list(_waited_for(scene, text))
        else:
            names = list(_from_table(scene, text)) if speaker in in_table else []
        for named in names:
            if scene.by_rank(named) != speaker:
                kind = kinds.get(speaker, "rank_stuck")
                found.setdefault((speaker, named), Accusation(speaker, named, kind, line))
    return list(found.values())


def _waited_for(scene: Scene, text: str) -> Iterator[Culprit]:
    size = _GROUP_SIZE.search(text)
    # In a communicator of some ranks only they have numbers of their own.
    is_of_all = size is None or int(size[1]) >= scene.case.world_size
    for rank in waited_for_by([text]) if is_of_all else ():
        if rank in scene.ranks:
            yield scene.culprit(rank)
    for server, device in _DST_RANK.findall(text):
        named = scene.at(server, device)
        if named is not None:
            yield named
    listed = _UNCONNECTED.search(text)
    for number in re.findall(r"\d{1,7}", listed[1]) if listed is not None else ():
        if int(number) in scene.ranks:
            yield scene.culprit(int(number))


def _from_table(scene: Scene, text: str) -> Iterator[Culprit]:
    """The destination in a row of LINK_ERROR_INFO: by its address where that is known, else by its rank."""
    row = _LINK_ROW.search(text)
    if row is None:
        return
    named = scene.at(row[1])
    if named is not None and named.rank is not None:
        yield named
    elif int(row[2]) in scene.ranks:
        yield scene.culprit(int(row[2]))


def pairs(scene: Scene, kind: str) -> list[Pair]:
    """Both ends of what failed between two: `link_fault` or `collective_mismatch`."""
    found: dict[tuple[int, Culprit, Culprit], Pair] = {}
    for speaker, line, text, row in _formal_lines(scene):
        if row is None or row.kind != kind or row.meaning is not Meaning.BETWEEN:
            continue
        ends = _mismatched(scene, text) if kind == "collective_mismatch" else _linked(scene, speaker, text)
        if ends is not None and ends[0] != ends[1]:
            found.setdefault((speaker, *ends), Pair(speaker, *ends, kind, line))
    return list(found.values())


def _linked(scene: Scene, speaker: int, text: str) -> tuple[Culprit, Culprit] | None:
    here = scene.culprit(speaker)
    code = _CQE_CODE.search(text)
    if code is not None:
        there = scene.at((code[6] or "").rstrip(".")) or scene.at(code[4], code[5])
        return (here, there) if there is not None else None
    named = _CQE_LINE.search(text)
    remote = named[2] if named is not None else (_CQE_OLD.search(text) or (None, None))[1]
    if remote is not None:
        there = scene.at(remote)
        return (here, there) if there is not None else None
    sdma = _SDMA.search(text)
    if sdma is not None and int(sdma[1]) in scene.ranks:
        return here, scene.culprit(int(sdma[1]))
    return None


def _mismatched(scene: Scene, text: str) -> tuple[Culprit, Culprit] | None:
    found = _ARGUMENTS.search(text)
    if found is None or not {int(found[1]), int(found[2])} <= set(scene.ranks):
        return None
    return scene.culprit(int(found[1])), scene.culprit(int(found[2]))


def tls_minority(scene: Scene) -> tuple[list[Culprit], int, LogLine] | None:
    """The devices whose TLS switch is unlike most others', by EI0016, the speaker and its line."""
    for speaker, line, text, row in _formal_lines(scene):
        if row is not None and row.kind == "tls_mismatch":
            lists = {word: _TLS_RANK.findall(ranks) for word, ranks in _TLS.findall(text)}
            fewer = min(lists.values(), key=len, default=[])
            named = [found for each in fewer if (found := scene.at(*each)) is not None]
            is_minority = len({len(ranks) for ranks in lists.values()}) > 1
            return named if is_minority else [], speaker, line
    return None


def operations(scene: Scene) -> dict[str, dict[str, list[int]]]:
    """By communicator, which collective operation each rank waited in: {group: {AllReduce: [0, 2]}}."""
    found: dict[str, dict[str, list[int]]] = {}
    unheard = set(scene.victims)
    for speaker, _, text, row in scene.said:
        if speaker in unheard:
            tag = _OPERATION.search(text) if row is not None and row.kind == "rank_stuck" else None
            if tag is not None and tag[1] not in _OF_TWO:
                ranks = found.setdefault(tag[2], {}).setdefault(tag[1], [])
                ranks.append(speaker)
                unheard.discard(speaker)
    return found


def _formal_lines(scene: Scene) -> Iterator[Said]:
    """Lines that may tell of others. Of a rank that failed by an error of its program only CANN's logs."""
    for said in scene.said:
        row = scene.told[said.speaker].row
        if row is None or row.kind != "program_error" or said.line.source.startswith("plog"):
            yield said
