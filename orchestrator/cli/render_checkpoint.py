"""Checkpoints as text and tables for people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.checkpoint.cut.coverage import is_moment
from orchestrator.cli.units import byte_size
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.transfer.convert import Conversion
from orchestrator.transfer.inspect import Difference, Listing, Row
from orchestrator.transfer.verify import Finding

__all__ = ["conversion_view", "diff_view", "finding_line", "listing_view"]

_BLOCK = re.compile(r"(?<=\bblocks\.)\d+|(?<=\bh\.)\d+")
_MOST_DIFFERENCES = 20


def listing_view(listing: Listing, *, every: bool) -> RenderableType:
    """A line of facts, then a row per tensor.

    Unless `every`, blocks that are alike are one row and the optimizer's state is one line in all.
    """
    moments = [row for row in listing.rows if is_moment(row.name)]
    folds = not every and len(moments) < len(listing.rows)
    shown = [row for row in listing.rows if not (folds and is_moment(row.name))]
    rows = [(row.name, row, 1) for row in shown] if every else list(_folded(shown))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("NAME", overflow="fold")
    shaped = listing.kind != "strategy"
    if shaped:
        table.add_column("SHAPE", no_wrap=True)
        table.add_column("TYPE", no_wrap=True)
    has_cut = any(row.cut for row in listing.rows)
    if has_cut:
        table.add_column("CUT", no_wrap=True)
    if shaped:
        table.add_column("SIZE", justify="right", no_wrap=True)
    for name, row, count in rows:
        table.add_row(Text(name), *_cells(row, count, shaped, has_cut))
    more = []
    if len(shown) < len(listing.rows):
        more = [Text(f"and the optimizer's state: {_moments(moments)} (--all lists it)", style="dim")]
    return Group(Text(_facts(listing)), table, *more)


def _moments(rows: Sequence[Row]) -> str:
    size = sum(row.nbytes or 0 for row in rows)
    return f"{len(rows)} tensors" + (f", {byte_size(size)}" if size else "")


def _cells(row: Row, count: int, shaped: bool, has_cut: bool) -> Iterator[Text]:
    if shaped:
        yield Text(",".join(map(str, row.shape or ())) or "-")
        yield Text(row.type or "")
    if has_cut:
        yield Text("×".join(map(str, row.cut)) if max(row.cut, default=1) > 1 else "whole")
    if shaped:
        yield Text((f"{count} × " if count > 1 else "") + byte_size(row.nbytes or 0))


def _facts(listing: Listing) -> str:
    facts = listing.facts
    parts = []
    if "files" in facts:
        parts.append(f"{facts['files']} files of epoch {facts['epoch']} step {facts['step']}")
    if "ranks" in facts:
        stages = f" in {facts['stages']} stages" if facts["stages"] > 1 else ""
        parts.append(f"{facts['ranks']} ranks{stages}")
    parts.append(f"{len(listing.rows)} tensors")
    if "nbytes" in facts:
        parts.append(f"{facts['parameters']:,} numbers, {byte_size(facts['nbytes'])}")
    return ", ".join(parts)


def _folded(rows: Sequence[Row]) -> Iterator[tuple[str, Row, int]]:
    """Rows that differ in the number of the block alone, as one: `blocks.[0-29].ln_1`; order is kept."""
    families: dict[tuple[str, object], list[tuple[int, Row]]] = {}
    for row in rows:
        match = _BLOCK.search(row.name)
        pattern = row.name[: match.start()] + "{}" + row.name[match.end() :] if match else row.name
        families.setdefault((pattern, (row.shape, row.type, row.cut)), []).append(
            (int(match[0]) if match else -1, row)
        )
    for (pattern, _), members in families.items():
        numbers = [number for number, _ in members]
        name = (
            pattern.replace("{}", f"[{fold_numbers(numbers)}]", 1) if len(members) > 1 else members[0][1].name
        )
        yield name, members[0][1], len(members)


def conversion_view(conversion: Conversion, output: str) -> RenderableType:
    """What `--dry-run` prints: files, bytes, and what is left out."""
    sizes = conversion.sizes
    lines = [f"{output}: {conversion.label}{_files(conversion, sizes)}"]
    lines.append(f"  {len({c.path for c in conversion.plan.copies})} files are read, {_read(conversion)}")
    for reason, (count, nbytes) in conversion.left_out.items():
        lines.append(f"  left out: {count} tensors, {byte_size(nbytes)}: {reason}")
    return Text("\n".join([*lines, "nothing was written (--dry-run)"]))


def _read(conversion: Conversion) -> str:
    return f"{byte_size(sum(copy.nbytes for copy in conversion.plan.copies))} of tensors"


def _files(conversion: Conversion, sizes: Sequence[int]) -> str:
    total = byte_size(sum(sizes))
    if not conversion.is_folder:
        return f"{len(conversion.plan.outputs[0].tensors)} tensors, {total}"
    least, most = byte_size(min(sizes)), byte_size(max(sizes))
    each = least if least == most else f"{least} to {most}"
    return f"{len(sizes)} files of {each}, {total} in all"


def finding_line(finding: Finding) -> Text:
    """One line of `verify`."""
    sign = Text("ok    ", style="green") if finding.ok else Text("wrong ", style="bold red")
    return Text.assemble(sign, f"{finding.where}: {finding.what}")


def diff_view(found: Sequence[Difference]) -> Text:
    """The worst first; the rest is counted."""
    lines = [f"{one.name} {one.what}" for one in found[:_MOST_DIFFERENCES]]
    if len(found) > _MOST_DIFFERENCES:
        lines.append(f"… and {len(found) - _MOST_DIFFERENCES} more (--json lists all)")
    return Text(
        "\n".join([f"{len(found)} tensors differ, the worst first:", *(f"  {line}" for line in lines)])
    )
