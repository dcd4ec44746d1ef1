"""What a run would gain from other choices, estimated: one more spare, another save interval, copies. Pure.

Failures come at random, one in `mtbf` seconds of an attempt's life on average, whatever it is doing then. An
attempt starts, makes steps and saves until one comes; it goes on from the last save that is whole, once the
failure is noticed and the next one has been launched. For that all is summed up exactly. Hosts that are lost
are away for `repair` seconds; while more are away than there are spares, the run waits, as callers do of whom
Erlang's loss formula tells: it holds for repairs of any kind. `tests/simulation/test_what_if.py` holds it
against simulated days.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.control.time_account import TimeAccount
from orchestrator.simulation.fault_rates import SHARES

__all__ = ["Figures", "Variant", "best_interval", "estimate", "host_losses", "variants"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the estimate rests on. All but the counts are seconds.

    A step takes `step`, and after each `save_every` of them (None: never) all ranks stand for `save`; it is
    whole `write` later. An attempt has made its first step `start` after its launch. A failure ends the
    attempt `notice` later, and the next one is launched `restart` after that. Of the failures `host_share`
    take a host away for `repair`, in whose place one of the `spares` comes; without `is_covered` its part of
    the checkpoint is nowhere else, so that the run waits for it.
    """

    mtbf: float
    step: float
    save_every: int | None
    save: float
    start: float
    restart: float
    notice: float
    write: float = 0.0
    spares: int = 0
    host_share: float = 0.0
    repair: float = 3600.0
    is_covered: bool = True


@dataclass(frozen=True, slots=True)
class Variant:
    """One choice, what it is called by, and the account of a long time with it."""

    name: str
    figures: Figures
    account: TimeAccount

    @property
    def goodput(self) -> float:
        """The part of the time in which steps were made that count, from 0 to 1."""
        return self.account.productive / self.account.whole


def estimate(figures: Figures) -> TimeAccount:
    """The account of the time from one launch to the next, on average."""
    rate = 1.0 / figures.mtbf
    starting = -math.expm1(-rate * figures.start) / rate
    saving = productive = 0.0
    if figures.save_every is not None:
        work = figures.save_every * figures.step
        cycle = work + figures.save
        # The chance that an attempt lives until the end of its start, of each later save one factor more.
        begun, again = math.exp(-rate * figures.start), -math.expm1(-rate * cycle)
        saving = begun * (math.exp(-rate * work) - math.exp(-rate * cycle)) / (rate * again)
        productive = work * begun * math.exp(-rate * (cycle + figures.write)) / again
    lost = max(0.0, figures.mtbf - starting - saving - productive)
    between = figures.mtbf + figures.notice + figures.restart
    share = waiting_share(figures, between)
    return TimeAccount(
        productive=productive,
        lost=lost,
        waiting=figures.notice,
        restarting=figures.restart + between * share / (1.0 - share),
        saving=saving,
        starting=starting,
    )


def waiting_share(figures: Figures, between: float) -> float:
    """The part of the time in which the run waits for hosts to return, where one fails each `between`."""
    spares = figures.spares if figures.is_covered else 0
    away = figures.host_share * figures.repair / between
    blocked = 1.0
    for servers in range(1, spares + 2):
        blocked = away * blocked / (servers + away * blocked)
    return blocked


def best_interval(figures: Figures) -> int | None:
    """The steps between saves for which least is lost, about √(2·stall·MTBF); None: saves cost nothing."""
    if figures.save <= 0 or figures.step <= 0:
        return None
    guess = max(1, round(math.sqrt(2 * figures.save * figures.mtbf) / figures.step))
    near = {max(1, round(guess * factor)) for factor in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)}
    return max(sorted(near), key=lambda steps: _goodput(replace(figures, save_every=steps)))


def _goodput(figures: Figures) -> float:
    account = estimate(figures)
    return account.productive / account.whole


def variants(figures: Figures) -> list[Variant]:
    """As it is, and with one choice changed at a time; what makes no difference by its nature is left out."""
    return [Variant(name, each, estimate(each)) for name, each in _choices(figures)]


def _choices(figures: Figures) -> Iterator[tuple[str, Figures]]:
    yield "as it is", figures
    if figures.host_share > 0:
        if not figures.is_covered:
            yield "checkpoint.copies: 1", replace(figures, is_covered=True)
            one = replace(figures, is_covered=True, spares=figures.spares + 1)
            yield "copies, and one more spare", one
        else:
            yield "one more spare", replace(figures, spares=figures.spares + 1)
        if figures.spares:
            yield "one spare less", replace(figures, spares=figures.spares - 1)
    best = best_interval(figures)
    if best is not None and best != figures.save_every:
        yield f"save_steps: {best}", replace(figures, save_every=best)
    if figures.save_every is not None:
        for steps in (max(1, figures.save_every // 2), figures.save_every * 2):
            if steps not in (figures.save_every, best):
                yield f"save_steps: {steps}", replace(figures, save_every=steps)
    if figures.save > 0 and figures.save_every is not None:
        yield "saves that stall nobody", replace(figures, save=0.0, write=figures.write + figures.save)


_AWAY = ("partition", "reboot", "power_off")
_ON = ("slow",)  # what ends no run
_RETURNS = 3600.0  # of a host without power, see `fault_rates`


def host_losses() -> tuple[float, float]:
    """By the published shares: the part of the failures that takes a host away; for how long on average."""
    failures = sum(share.count for share in SHARES if share.kind not in _ON)
    away = [share for share in SHARES if share.kind in _AWAY]
    count = sum(share.count for share in away)
    seconds = sum(share.count * float(share.keys.get("seconds", _RETURNS)) for share in away)
    return count / failures, seconds / count
