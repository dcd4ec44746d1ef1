"""Which questions the checks put to a host's tools."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.ascend.answers import Call, ToolAnswers, hccn, smi
from orchestrator.discovery.devices import first_calls, info_of, later_calls
from orchestrator.preflight.facts import HostFacts

__all__ = [
    "NETWORK",
    "board_call",
    "ecc_call",
    "first_questions",
    "health_call",
    "later_questions",
    "npus_of",
]

# What is asked about every device's own network.
NETWORK = ("-link", "-net_health", "-netdetect", "-gateway", "-tls")


def board_call(npu: int) -> Call:
    return smi("-i", npu, "-t", "board")


def ecc_call(npu: int) -> Call:
    return smi("-i", npu, "-t", "ecc")


def health_call(npu: int, chip: int) -> Call:
    return smi("-i", npu, "-c", chip, "-t", "health")


def first_questions(ids: Sequence[int]) -> list[Call]:
    """What can be asked at once."""
    return first_calls(ids) + [hccn(device, command) for device in ids for command in NETWORK]


def later_questions(ids: Sequence[int], answers: ToolAnswers) -> list[Call]:
    """What only the table of chips tells to ask: the NPUs' numbers, and the codes of those that are ill."""
    info = info_of(answers)
    chips = [chip for chip in info.chips if not ids or chip.id in ids] if info else []
    npus = sorted({chip.npu for chip in chips})
    ill = [health_call(chip.npu, chip.chip) for chip in chips if chip.health != "OK"]
    boards = [call for npu in npus for call in (board_call(npu), ecc_call(npu))]
    return [*later_calls(ids, answers), *boards, *ill]


def npus_of(fact: HostFacts) -> list[int]:
    """The NPUs whose board was asked for."""
    info = info_of(fact.tools) if fact.tools else None
    npus = {chip.npu for chip in info.chips} if info else set()
    return [npu for npu in sorted(npus) if fact.tools is not None and board_call(npu) in fact.tools]
