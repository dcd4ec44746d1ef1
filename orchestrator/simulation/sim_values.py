"""The values that pass between a simulated host and a session without bytes: see `sim_session`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agent.request_loop import Answer
from orchestrator.core.codec import to_json
from orchestrator.core.records import Manifest
from orchestrator.hosts.conversation import Event

__all__ = ["DIRECT", "HEADER", "LaunchValue", "Packet", "Value", "answer_packet", "event_packet"]

DIRECT = ("an agent without bytes",)  # the program at the other end
HEADER = 120  # bytes of a message beside its data, about


class Value:
    """A value that stands for its JSON: it is made that where there are bytes, and only there."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    @staticmethod
    def plain(data: Any) -> Any:
        """JSON in the place of a value."""
        return to_json(data.value) if isinstance(data, Value) else data


@dataclass(frozen=True, slots=True)
class LaunchValue:
    """What a host is prepared with, as `hosts.launch_bundle` has it."""

    manifest: Manifest
    worker_config: str
    rank_table: str | None
    run_yaml: str | None = None
    contents: Mapping[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        brought = sum(map(len, self.contents.values()))
        texts = (self.worker_config, self.rank_table or "", self.run_yaml or "")
        return 1000 + sum(map(len, texts)) + brought


class Packet:
    """One message on its way; `size` is what it counts for on the link."""

    __slots__ = ("content", "size")

    def __init__(self, content: Any, size: int = HEADER) -> None:
        self.content = content
        self.size = size

    def __len__(self) -> int:
        return self.size


def event_packet(name: str, data: Any) -> Packet:
    """What a host says unasked."""
    return Packet(Event(name, data))


def answer_packet(number: Any, answer: Answer) -> Packet:
    """The answer to the request of this number."""
    return Packet((number, answer), HEADER + len(answer.data))
