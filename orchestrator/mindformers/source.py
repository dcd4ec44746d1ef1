"""A run YAML that remembers what was taken from it: the rest is told, with a reason each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.mindformers.keys import WITHOUT_EFFECT, Path
from orchestrator.yaml_file import YamlFile, dotted

__all__ = ["LeftOut", "Source"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A key, or a section, that was not carried over; `where` is `file:line: key`."""

    where: str
    key: str
    value: Any
    reason: str


class Source:
    """The run YAML, which remembers what was taken from it and on which line."""

    def __init__(self, file: YamlFile) -> None:
        self.file = file
        self.taken: set[Path] = set()
        self.lines_of_job: dict[tuple[str | int, ...], int] = {}

    def take(self, *path: str, to: Path = ()) -> Any:
        """The value at a key path, None where there is none; `to` is the job's key that it becomes."""
        value = self.file.get(path)
        if value is not None:
            self.taken.add(path)
            self.lines_of_job[to] = self.file.line(path)
        return value

    def left_out(self) -> Iterator[LeftOut]:
        yield from self._left_out(self.file.data, ())

    def _left_out(self, value: Any, path: Path) -> Iterator[LeftOut]:
        if path in self.taken:
            return
        inside = any(taken[: len(path)] == path for taken in self.taken)
        if isinstance(value, Mapping) and value and (inside or path not in WITHOUT_EFFECT):
            for key, inner in value.items():
                yield from self._left_out(inner, (*path, key))
        elif path and value not in (None, "", {}, []):
            reason = next(
                (
                    WITHOUT_EFFECT[path[:end]]
                    for end in range(len(path), 0, -1)
                    if path[:end] in WITHOUT_EFFECT
                ),
                "a job has no such key",
            )
            yield LeftOut(self.file.where(path), dotted(path), value, reason)
