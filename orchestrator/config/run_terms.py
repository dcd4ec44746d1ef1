"""What of a job holds for its run to the end: timeouts, health, restarts, and what the job was read from.

A run's plan keeps them, and whoever looks at a run has them: this module knows nothing else of jobs, so that
`status` and `logs` need not import how one is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from orchestrator.config.job_fields import Count, Duration, Flag, Positive, Span, Text, WholeNotNegative
from orchestrator.config.schema import Limits, Section, key

__all__ = ["Health", "JobSource", "Restart", "RestartOn", "Timeouts"]


@dataclass(frozen=True, slots=True)
class JobSource:
    """What a job was read from: its file as it was then, and what the command line changed of it.

    It is kept with a run's plan, so that the run can go on when the file has changed or is gone. Like the
    plan it may hold secrets.
    """

    path: Path
    text: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts(Section):
    """How long is waited, in seconds."""

    connect: Positive = key(10.0, "for a connection to a host")
    prepare: Positive = key(120.0, "for all hosts to be ready to start")
    start: Positive = key(1800.0, "until every rank of a training job has made its first step")
    grace: Positive = key(10.0, "between SIGTERM and SIGKILL of a worker")
    failure_grace: Positive = key(
        2.0,
        "the same for the others of one that has failed; if they save what they have, `grace`",
    )
    unreachable: Positive = key(
        120.0,
        "until a host that does not answer is lost, which ends the run, where another sign says "
        "so, too: no rank makes steps any more, a rank failed, or the host refuses connections",
    )
    lost: Positive = key(
        1800.0,
        "until a host that does not answer is lost without another sign; one that refuses our login never is",
    )


@dataclass(frozen=True, slots=True)
class Health(Section):
    """When it is said that the ranks of a run hang, or that one is slow; nothing is ended for it. Times are
    in seconds, or texts such as 90s or 30m. `health: off` is short for `enabled: false`."""

    enabled: Flag = key(True, "whether steps and phases are judged at all")
    floor: Span = key(
        60.0,
        "a run hangs that makes no new step for so long, for five times as long as steps usually "
        "are apart, and for twice as long as its last save took",
    )
    first: Span = key(
        1800.0,
        "the same before a first step, and in a first save, evaluation or compilation",
    )
    straggler: Annotated[float, Limits(gt=1)] = key(
        1.3,
        "a rank is named whose own computing takes so many times as long as the median of its peers does",
    )
    steps: Count = key(10, "for so many steps")


RestartOn = Literal["crash", "host", "hang", "device"]


@dataclass(frozen=True, slots=True)
class Restart(Section):
    """Whether a run whose workers fail goes on by itself, as its next attempt. Times are in seconds, or texts
    such as 90s or 30m."""

    max: WholeNotNegative = key(0, "attempts after the first within `window`; 0: a run that fails has ended")
    window: Span = key(3600.0, "in which `max` counts")
    on: tuple[RestartOn, ...] = key(
        ("crash", "host", "hang", "device"),
        "after what: a process that fails, a host that is gone, no steps of any rank, a faulty device",
    )
    wait: Duration = key(0.0, "how long missing hosts are waited for before the run goes on with fewer")
    spares: Text | None = key(
        None,
        "group of the inventory whose hosts stand ready to replace others; they are checked and "
        "prepared at launch, and no other launch takes them",
    )
    min_hosts: Count | None = key(None, "the run goes on with so many hosts at least; null: only with all")
    lease: Span = key(
        1800.0,
        "workers whose host has heard no monitor, and has seen no step, for so long end",
    )

    @property
    def ends_hangs(self) -> bool:
        """Whether a run that hangs is ended, so that it goes on anew."""
        return self.max > 0 and "hang" in self.on
