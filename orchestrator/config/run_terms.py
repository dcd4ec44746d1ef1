"""What of a job holds for its run to the end: timeouts, health, restarts, and what the job was read from.

A run's plan keeps them, and whoever looks at a run has them: this module knows nothing else of jobs, so that
`status` and `logs` need not import how one is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.config.job_fields import Count, Duration, Flag, Positive, Span, Text, WholeNotNegative
from orchestrator.config.schema import Limits

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


class Frozen(BaseModel):
    """Base of what follows: unknown keys refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Timeouts(Frozen):
    """How long is waited, in seconds."""

    connect: Positive = Field(default=10.0, description="for a connection to a host")
    prepare: Positive = Field(default=120.0, description="for all hosts to be ready to start")
    start: Positive = Field(
        default=1800.0, description="until every rank of a training job has made its first step"
    )
    grace: Positive = Field(default=10.0, description="between SIGTERM and SIGKILL of a worker")
    failure_grace: Positive = Field(
        default=2.0,
        description="the same for the others of one that has failed; if they save what they have, `grace`",
    )
    unreachable: Positive = Field(
        default=120.0,
        description="until a host that does not answer is lost, which ends the run, where another sign says "
        "so, too: no rank makes steps any more, a rank failed, or the host refuses connections",
    )
    lost: Positive = Field(
        default=1800.0,
        description="until a host that does not answer is lost without another sign; one that refuses our "
        "login never is",
    )


class Health(Frozen):
    """When it is said that the ranks of a run hang, or that one is slow; nothing is ended for it. Times are
    in seconds, or texts such as 90s or 30m. `health: off` is short for `enabled: false`."""

    enabled: Flag = Field(default=True, description="whether steps and phases are judged at all")
    floor: Span = Field(
        default=60.0,
        description="a run hangs that makes no new step for so long, for five times as long as steps usually "
        "are apart, and for twice as long as its last save took",
    )
    first: Span = Field(
        default=1800.0,
        description="the same before a first step, and in a first save, evaluation or compilation",
    )
    straggler: Annotated[float, Limits(gt=1)] = Field(
        default=1.3,
        description="a rank is named whose own computing takes so many times as long as the median of its "
        "peers does",
    )
    steps: Count = Field(default=10, description="for so many steps")


RestartOn = Literal["crash", "host", "hang", "device"]


class Restart(Frozen):
    """Whether a run whose workers fail goes on by itself, as its next attempt. Times are in seconds, or texts
    such as 90s or 30m."""

    max: WholeNotNegative = Field(
        default=0, description="attempts after the first within `window`; 0: a run that fails has ended"
    )
    window: Span = Field(default=3600.0, description="in which `max` counts")
    on: tuple[RestartOn, ...] = Field(
        default=("crash", "host", "hang", "device"),
        description="after what: a process that fails, a host that is gone, no steps of any rank, a faulty "
        "device",
    )
    wait: Duration = Field(
        default=0.0, description="how long missing hosts are waited for before the run goes on with fewer"
    )
    spares: Text | None = Field(
        default=None,
        description="group of the inventory whose hosts stand ready to replace others; they are checked and "
        "prepared at launch, and no other launch takes them",
    )
    min_hosts: Count | None = Field(
        default=None, description="the run goes on with so many hosts at least; null: only with all"
    )
    lease: Span = Field(
        default=1800.0,
        description="workers whose host has heard no monitor, and has seen no step, for so long end",
    )

    @property
    def ends_hangs(self) -> bool:
        """Whether a run that hangs is ended, so that it goes on anew."""
        return self.max > 0 and "hang" in self.on
