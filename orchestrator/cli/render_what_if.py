"""What other choices would give a run, estimated: a row for each, in lines of 80 columns, and as data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cli.account_lines import account_data
from orchestrator.cli.sentences import duration
from orchestrator.control.time_account import TimeAccount
from orchestrator.core.codec import to_json
from orchestrator.simulation.measured_figures import Measured
from orchestrator.simulation.what_if import Figures, Variant, variants

__all__ = ["estimate_data", "estimate_lines"]

_NAME = 25
_COLUMNS = {
    "GOODPUT": ("productive",),
    "LOST": ("lost",),
    "SAVING": ("saving",),
    "STARTING": ("starting",),
    "BETWEEN": ("waiting", "restarting", "down", "unknown"),
}
_DAY = 24.0


def estimate_lines(found: Measured, simulated: TimeAccount | None = None) -> Iterator[str]:
    """The figures, a row for each choice with what it gains in a day, and what was assumed."""
    yield "What if (estimated)"
    yield f"  {_figures_text(found.figures)}"
    yield f"  {'':<{_NAME}}{''.join(f'{name:>9}' for name in _COLUMNS)}{'A DAY':>8}"
    if simulated is not None:
        yield f"  {'simulated':<{_NAME}}{_shares(simulated)}"
    first, *others = variants(found.figures)
    yield f"  {first.name:<{_NAME}}{_shares(first.account)}"
    for each in others:
        gained = (each.goodput - first.goodput) * _DAY
        yield f"  {each.name:<{_NAME}}{_shares(each.account)} {gained:+.2f} h"
    for line in found.assumed:
        yield f"  assumed: {line}"


def _figures_text(figures: Figures) -> str:
    saves = "no saves"
    if figures.save_every is not None:
        saves = f"a save of {figures.save:.3g} s in {figures.save_every} steps"
    parts = [
        f"a failure in {duration(figures.mtbf)}",
        f"steps of {figures.step:.3g} s",
        saves,
        f"{figures.spares} spare{'s' * (figures.spares != 1)}",
    ]
    return ", ".join(parts)


def _shares(account: TimeAccount) -> str:
    parts, whole = account.parts(), account.whole or 1.0
    shares = (100 * sum(parts[name] for name in names) / whole for names in _COLUMNS.values())
    return "".join(f"{share:8.2f}%" for share in shares)


def estimate_data(found: Measured) -> dict[str, Any]:
    """The same as data."""
    first, *others = variants(found.figures)
    return {
        "figures": to_json(found.figures),
        "failures": found.failures,
        "seconds": found.lived,
        "assumed": list(found.assumed),
        "variants": [_variant_data(each, first) for each in (first, *others)],
    }


def _variant_data(variant: Variant, first: Variant) -> dict[str, Any]:
    whole = variant.account.whole
    return {
        "name": variant.name,
        "goodput": variant.goodput,
        "hours_gained_a_day": (variant.goodput - first.goodput) * _DAY,
        "shares": {name: seconds / whole for name, seconds in account_data(variant.account).items()},
        "figures": to_json(variant.figures),
    }
