"""What saving costs a job: memory, how long a save holds the steps up, and how often to save. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.checkpoint.save_interval import best_interval, default_mtbf, guessed_stall, lost_share
from orchestrator.sizing.estimate import Estimate

__all__ = ["PastSaves", "Saving", "saving_of", "snapshot_bytes"]


@dataclass(frozen=True, slots=True)
class PastSaves:
    """What earlier runs of a job have shown, None where none has.

    `run_id` is the newest with a save: its `stall` and `write` as of `core.records.RankStatus`, of the rank
    with the longest, and the seconds of its `step`. `failures` of all of them came in `device_seconds` of
    training.
    """

    run_id: str = ""
    stall: float | None = None
    write: float | None = None
    step: float | None = None
    failures: int = 0
    device_seconds: float = 0.0

    @property
    def was_asynchronous(self) -> bool:
        """Whether its saves were written behind the steps."""
        return self.stall is not None and self.write is not None and self.stall < self.write

    def mtbf(self, devices: int) -> float | None:
        """Seconds between two failures of so many devices; None where nothing has failed."""
        return self.device_seconds / self.failures / max(1, devices) if self.failures else None


@dataclass(frozen=True, slots=True)
class Saving:
    """Sizes in bytes, times in seconds.

    `shard` is of the rank with the largest, `snapshots` what the copies of a host's ranks take of its memory
    at most, 0 where the steps wait for a save. `stall` is measured where `measured_in` names a run, else
    assumed; `mtbf` is measured where there are `failures`. `step` is None where nobody has seen one.
    """

    shard: int
    snapshots: int
    stall: float
    mtbf: float
    measured_in: str = ""
    failures: int = 0
    write: float = 0.0
    step: float | None = None

    @property
    def interval(self) -> float:
        """From one save to the next, at the least cost."""
        return best_interval(self.stall, self.mtbf, self.write)

    @property
    def steps(self) -> int | None:
        """The same as `checkpoint.save_steps`."""
        return None if not self.step else max(1, round(self.interval / self.step))

    @property
    def cost(self) -> float:
        """The share of the time that saves, and the work that failures undo, take then."""
        return lost_share(self.interval, self.stall, self.mtbf)


def _largest_shard(made: Estimate) -> int:
    return max(stage.weights + stage.optimizer for stage in made.stages)


def snapshot_bytes(made: Estimate, ranks_per_host: int) -> int:
    """What copies of the shards of a host's ranks take of its memory at most."""
    return _largest_shard(made) * ranks_per_host


def saving_of(
    made: Estimate,
    *,
    world_size: int,
    ranks_per_host: int,
    asynchronous: bool,
    past: PastSaves,
    mtbf: float | None = None,
) -> Saving:
    """What saving costs a training of this estimate; `mtbf` is what the job says of it."""
    shard = _largest_shard(made)
    is_measured = past.stall is not None and past.was_asynchronous == asynchronous
    stall = past.stall if is_measured else None
    seen = past.mtbf(world_size) if mtbf is None else None
    return Saving(
        shard=shard,
        snapshots=snapshot_bytes(made, ranks_per_host) if asynchronous else 0,
        stall=guessed_stall(shard, asynchronous=asynchronous) if stall is None else stall,
        mtbf=mtbf or seen or default_mtbf(world_size),
        measured_in=past.run_id if is_measured else "",
        failures=past.failures if seen else 0,
        write=past.write if is_measured and past.write is not None else 0.0,
        step=past.step,
    )
