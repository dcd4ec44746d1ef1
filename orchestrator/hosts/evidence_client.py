"""The part of the client to agents that asks what a host finds of a run that fails or hangs, and checks it.

More than an honest agent says of one thing is none of an answer; see `agent_client`.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.found_evidence import FoundEvidence, FoundLine
from orchestrator.core.host_answers import Label
from orchestrator.hosts.agent_questions import AgentQuestions
from orchestrator.hosts.answer_checks import LARGEST, LATEST
from orchestrator.hosts.conversation import Limits

__all__ = ["EvidenceClient"]

_TEXT = 24 << 20
_MOST_LOGS = 1024
_MOST_LINES = 600
_WIDEST = 4000  # a line whose control characters have been made visible


class EvidenceClient(AgentQuestions):
    """Asks for evidence."""

    def evidence(
        self,
        run_id: str,
        *,
        labels: Sequence[str] | None = None,
        devices: Sequence[int] = (),
        attempt: int | None = None,
        only: Sequence[str] = (),
        seconds: float = 20.0,
        timeout: float | None = None,
    ) -> FoundEvidence:
        """What the host finds of a run, or of one of its attempts, in at most so many seconds for each thing.

        `labels` are the processes that it has, where that is known; of `devices` the health is asked.
        `only` names what is looked at (kernel, memory, disks, chips) where that is not everything.
        """
        found = self._ask(
            FoundEvidence,
            "evidence",
            limits=Limits(_TEXT, items=1 << 20),
            timeout=seconds + 60.0 if timeout is None else timeout,
            run_id=run_id,
            devices=list(devices),
            attempt=attempt,
            only=list(only),
            seconds=seconds,
        )
        self._expect(len(found.logs) <= _MOST_LOGS, "no more logs than processes")
        self._expect(labels is None or set(found.logs) <= set(map(Label, labels)), "the host's own processes")
        self._expect(all(map(_is_told, (found.kernel, *found.logs.values()))), "lines within their bounds")
        self._expect({chip.device for chip in found.chips} <= set(devices), "devices that were asked for")
        self._expect(len(found.chips) <= len(devices) and len(found.disks) <= 64, "each thing once")
        self._expect(all(len(chip.lines) <= _MOST_LINES for chip in found.chips), "a tool's few lines")
        sizes = [size for disk in found.disks for size in (disk.free, disk.total, disk.free_inodes or 0)]
        counts = [found.kills_in_groups or 0, found.kills_on_host or 0, *sizes]
        self._expect(all(count < 1 << 62 for count in counts), "numbers of this world")
        texts = [*found.unread, *(text for chip in found.chips for text in (*chip.lines, chip.failure))]
        self._expect(len(texts) <= 100 * _MOST_LOGS and _are_narrow(texts), "a line for each")
        self._expect(found.launched is None or 0 <= found.launched <= LATEST, "a time")
        return found


def _is_told(lines: Sequence[FoundLine]) -> bool:
    return len(lines) <= _MOST_LINES and all(
        len(line.text) <= _WIDEST
        and len(line.source) <= 60
        and (line.time is None or abs(line.time) < LARGEST)
        for line in lines
    )


def _are_narrow(lines: Sequence[str]) -> bool:
    return all(len(line) <= _WIDEST for line in lines)
