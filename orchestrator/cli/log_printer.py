"""The printer of log lines: each behind its rank, many at a time, nothing in them that a terminal obeys."""

from __future__ import annotations

import functools
import os
import time

from orchestrator.cli.options import json_text
from orchestrator.cli.sentences import ranks_text
from orchestrator.control.log_fold import FoldedLine
from orchestrator.control.log_stream import LogBatch, LogLine
from orchestrator.core.ends import rank_of_label
from orchestrator.core.visible_text import RawStream, visible_lines

__all__ = ["LogPrinter", "folded_data", "line_data", "wants_colour"]


# Without `rich`, which takes longer to be imported than a log to be found.
def wants_colour(out: RawStream) -> bool:
    """Whether people look at this, and have not asked for no colours."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


_LATEST = 1e11  # seconds since the epoch; a host may say what it likes


class LogPrinter:
    """Prints to `out`, in colour where that is wanted; with `times` each line has one in front."""

    def __init__(self, out: RawStream, *, colour: bool, times: bool) -> None:
        self._out = out
        self._colour = colour
        self._times = times
        self._open = ""  # whose line has not ended yet

    def show(self, batch: LogBatch) -> None:
        """Print a batch, and have it seen at once."""
        prefix = self._prefix((batch.label,), batch.time, batch.was_there)
        lines = visible_lines(batch.text.removesuffix("\n")).replace("\n", "\n" + prefix)
        goes_on = not batch.begins and self._open == batch.label
        if self._open and not goes_on:
            self._out.write("\n")
        is_whole = batch.text.endswith("\n")
        self._out.write(("" if goes_on else prefix) + lines + ("\n" if is_whole else ""))
        self._open = "" if is_whole else batch.label
        self._out.flush()

    def show_folded(self, folded: FoldedLine) -> None:
        """Print one line of several workers; the caller flushes."""
        prefix = self._prefix(folded.labels, folded.line.time, folded.line.was_there)
        self._out.write(f"{prefix}{visible_lines(folded.line.text)}\n")

    def _prefix(self, labels: tuple[str, ...], when: float | None, was_there: bool) -> str:
        name = f"[{_names(labels)}]"
        coloured = f"\x1b[36m{name}\x1b[0m" if self._colour else name
        return f"{stamp(when, was_there)} {coloured} " if self._times else f"{coloured} "


def stamp(when: float | None, was_there: bool) -> str:
    """`2026-11-26T21:05:42`, when the line was read; `<2026-…`, when it had been written at the latest."""
    known = when is not None and 0 <= when < _LATEST
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when)) if known else "-" * 19
    return f"<{text}" if was_there else text


@functools.lru_cache(1024)
def _names(labels: tuple[str, ...]) -> str:
    ranks = [rank_of_label(label) for label in labels]
    return visible_lines(ranks_text(tuple(rank for rank in ranks if rank is not None)))


def line_data(line: LogLine) -> str:
    """One line as JSON."""
    data = {"host": line.host, "label": line.label, "line": line.text}
    return json_text({**data, **_more(line)})


def folded_data(folded: FoldedLine) -> str:
    """A folded line as JSON."""
    return json_text({"labels": list(folded.labels), "line": folded.line.text, **_more(folded.line)})


def _more(line: LogLine) -> dict[str, object]:
    known: dict[str, object] = {"time": line.time, "was_there": line.was_there}
    return {**known, "goes_on": True} if line.goes_on else known
