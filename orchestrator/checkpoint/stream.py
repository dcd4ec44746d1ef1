"""A file of a plan as a stream: its bytes in order, without the file being written anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.checkpoint.copy_engine import Format, lay_out
from orchestrator.checkpoint.copy_plan import Copy, CopyPlan
from orchestrator.checkpoint.spans import CHUNK, MappedFiles
from orchestrator.core.errors import CheckpointError

__all__ = ["StreamedFile"]


class StreamedFile:
    """Output number `number` of a plan whose source is one checkpoint of whole tensors.

    Each iteration yields the file from its beginning. CheckpointError: a tensor that is made of several
    parts, which only a file that is written can be; and while iterating, a source that has changed.
    """

    def __init__(self, plan: CopyPlan, number: int, format: Format) -> None:
        self._layout = lay_out(format, plan.outputs[number].specs)
        self._copies: dict[int, Copy] = {}
        for copy in plan.copies:
            if copy.output != number:
                continue
            if copy.tensor in self._copies:
                raise CheckpointError(f"{copy.held.spec.name} is made of several parts", where=copy.path)
            self._copies[copy.tensor] = copy

    def __len__(self) -> int:
        return self._layout.size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        # Frames and pieces of tensors alternate in the file; a tensor's pieces follow each other.
        frames = dict(self._layout.frames)
        position = 0
        with MappedFiles() as files:
            for tensor, places in enumerate(self._layout.places):
                copy = self._copies[tensor]
                data = files.chunks(copy.path, copy.held, copy.part, CHUNK)
                rest = memoryview(b"")
                for offset, length in places:
                    if position in frames:
                        yield frames[position]
                        position += len(frames[position])
                    if position != offset:
                        raise AssertionError(f"the layout leaves a gap at byte {position}")
                    position += length
                    while length:
                        rest = rest or next(data)
                        part, rest = rest[:length], rest[length:]
                        length -= len(part)
                        yield part
