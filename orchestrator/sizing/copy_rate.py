"""The rate that copies of checkpoints need: what a host saves, and how long its way to another takes."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.job import Job
from orchestrator.sizing.estimate import Estimate

__all__ = ["CopyNeed", "copy_need"]


@dataclass(frozen=True, slots=True)
class CopyNeed:
    """The copies of a job: bytes that a host saves at once, steps between two saves (None: one at the end).

    `rate` are the Gbit/s that a host can send, None where nobody has said.
    """

    nbytes: int
    every: int | None
    rate: float | None

    @property
    def seconds(self) -> float | None:
        """How long the copy of one save takes; None where the rate is not known."""
        return None if self.rate is None else self.nbytes * 8 / (self.rate * 1e9)

    @property
    def least_step(self) -> float | None:
        """The seconds that a step has to take for the copies to keep up; None where that is not known."""
        return None if self.seconds is None or self.every is None else self.seconds / self.every

    def rate_for(self, step: float) -> float | None:
        """The Gbit/s that it takes at so many seconds a step."""
        return None if self.every is None else self.nbytes * 8 / (self.every * step * 1e9)


def copy_need(job: Job, made: Estimate, rate: float | None) -> CopyNeed | None:
    """What the copies of a job need of the network between its hosts; None where it makes none."""
    if not job.checkpoint.copies:
        return None
    largest = max(stage.weights + stage.optimizer for stage in made.stages)
    return CopyNeed(largest * job.devices_per_host, job.checkpoint.save_steps, rate)
