"""The figures of docs/scaling.md, from what bench/scale.py has measured.

    python bench/scale_figures.py REAL.json [SIMULATED.json ...]

Each file is what `bench/scale.py --json` printed; of two rows for as many hosts the later counts.
Writes the curves to docs/pictures/scale_*.svg, and the table into the page, between its two marks. Points of
simulated hosts are hollow and their lines dashed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scaling.md"
PICTURES = ROOT / "docs" / "pictures"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

sys.path.insert(0, str(ROOT))

from bench.scale import per_host  # noqa: E402

Row = dict[str, Any]
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure over the number of hosts; `value` is None where it was not measured."""

    name: str
    value: Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """Curves with one unit; `goal` is a bound that they are to keep."""

    file: str
    title: str
    unit: str
    curves: tuple[Curve, ...]


def _of(key: str, scale: float = 1.0) -> Callable[[Row], float | None]:
    return lambda row: None if row.get(key) is None else row[key] * scale


PICTURES_OF_THE_PAGE = (
    Picture(
        "scale_launch.svg",
        "A launch and a stop",
        "s",
        (Curve("launch", _of("launch_wall")), Curve("stop", _of("stop_wall"))),
    ),
    Picture(
        "scale_cpu.svg",
        "CPU of a launch",
        "ms a host",
        (Curve("new hosts", _of("launch_ms")), Curve("again", _of("again_ms"))),
    ),
    Picture("scale_monitor.svg", "A steady monitor", "% of a core", (Curve("monitor", _of("monitor_cpu")),)),
    Picture(
        "scale_memory.svg", "The monitor's memory", "MB", (Curve("memory", _of("monitor_memory", 1e-6)),)
    ),
    Picture(
        "scale_loss.svg",
        "A rank is killed",
        "s",
        (Curve("last host told", _of("told")), Curve("all dead", _of("dead"))),
    ),
)


def read_rows(files: Iterable[Path]) -> list[Row]:
    """All rows, real ones first, by the number of hosts; each with `launch_ms` and `again_ms`, the fixed
    cost apart."""
    found: dict[tuple[bool, int], Row] = {}
    for file in files:
        data = json.loads(file.read_text())
        for row in data["rows"]:
            fixed = None if row["simulated"] else data.get("fixed_launch_cpu")
            row["launch_ms"], row["again_ms"] = (
                per_host(row.get(key), row["hosts"], fixed) for key in ("launch_cpu", "again_cpu")
            )
            found[row["simulated"], row["hosts"]] = row
    return [found[key] for key in sorted(found)]


def drawn(picture: Picture, rows: Sequence[Row]) -> str | None:
    """The picture as SVG; None where none of it was measured. Hosts are on a logarithmic scale."""
    points = [
        (curve, row["simulated"], row["hosts"], value)
        for curve in picture.curves
        for row in rows
        if (value := curve.value(row)) is not None
    ]
    if not points:
        return None
    low, high = min(each[2] for each in points), max(each[2] for each in points)
    top = _round_up(max(each[3] for each in points))

    def x(hosts: float) -> float:
        part = 0.5 if high == low else math.log(hosts / low) / math.log(high / low)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [*_axes(picture, sorted({each[2] for each in points}), top, x, y)]
    for number, curve in enumerate(picture.curves):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(_text(LEFT + 160 + 150 * number, 22, curve.name, colour=colour, anchor="start"))
        for is_simulated in (False, True):
            places = [(x(h), y(v)) for c, s, h, v in points if c is curve and s is is_simulated]
            parts += _line(places, colour, is_simulated)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _axes(
    picture: Picture,
    ticks: Sequence[int],
    top: float,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> list[str]:
    parts = [_text(12, 22, picture.title, anchor="start", weight="bold")]
    for step in range(5):
        value = top * step / 4
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(f'<line {ends} stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    parts += [_text(x(hosts), HEIGHT - BOTTOM + 18, str(hosts)) for hosts in ticks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "hosts (hollow, dashed: simulated)"))
    parts.append(_text(LEFT - 8, TOP - 6, picture.unit, anchor="end"))
    return parts


def _line(places: Sequence[tuple[float, float]], colour: str, is_simulated: bool) -> list[str]:
    dash, fill = (' stroke-dasharray="6 4"', "white") if is_simulated else ("", colour)
    drawn_points = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    line = f'<polyline points="{drawn_points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    dots = [
        f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
        for left, top in places
    ]
    return [line, *dots] if places else []


def _text(
    left: float,
    top: float,
    text: str,
    *,
    colour: str = "#1f2328",
    anchor: str = "middle",
    weight: str = "normal",
) -> str:
    look = f'fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{left:.1f}" y="{top:.1f}" {look}>{escape(text)}</text>'


def _round_up(value: float) -> float:
    """The next number that four equal steps lead to and that reads well."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of the page; simulated ones are called so."""
    columns: tuple[tuple[str, Callable[[Row], float | None], int], ...] = (
        ("launch, s", _of("launch_wall"), 1),
        ("its CPU, ms a host", _of("launch_ms"), 1),
        ("again", _of("again_ms"), 1),
        ("monitor, % of a core", _of("monitor_cpu"), 2),
        ("MB", _of("monitor_memory", 1e-6), 0),
        ("threads", _of("threads"), 0),
        ("open files", _of("descriptors"), 0),
        ("killed → last host told, s", _of("told"), 2),
        ("→ all dead, s", _of("dead"), 2),
        ("stop, s", _of("stop_wall"), 1),
    )
    lines = [
        "| hosts | " + " | ".join(name for name, _, _ in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        name = f"{row['hosts']:,}" + (" simulated" if row["simulated"] else "")
        cells = [value(row) for _, value, _ in columns]
        shown = ["" if cell is None else f"{cell:.{columns[n][2]}f}" for n, cell in enumerate(cells)]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def section(rows: Sequence[Row], files: Sequence[str]) -> str:
    """What stands between the marks of the page."""
    pictures = "\n\n".join(
        f"![{each.title}](pictures/{each.file})" for each in PICTURES_OF_THE_PAGE if each.file in files
    )
    return f"{BEGIN}\n\n{table(rows)}\n\n{pictures}\n\n{END}"


def main() -> int:
    """Write the pictures and the page's table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="what bench/scale.py --json has printed")
    given = parser.parse_args()
    try:
        rows = read_rows(given.files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot read the figures: {error!r}", file=sys.stderr)
        return 1
    PICTURES.mkdir(exist_ok=True)
    written = []
    for picture in PICTURES_OF_THE_PAGE:
        path, text = PICTURES / picture.file, drawn(picture, rows)
        if text is None:
            path.unlink(missing_ok=True)
            continue
        path.write_text(text)
        written.append(picture.file)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + section(rows, written) + after)
    print(f"{len(rows)} rows, {len(written)} pictures: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
