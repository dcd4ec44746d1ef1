"""Memory of a device outside MindSpore's pool: HCCL's buffers, and what a chip has in all.

`max_device_memory` bounds MindSpore's pool only. HCCL allocates its buffers beside it, for each communicator
two of HCCL_BUFFSIZE MB, one to send from and one to receive into, which nothing else may use (CANN,
"environment variables": HCCL_BUFFSIZE). MindSpore warns where a pool leaves it too little ("may lead to Out
Of Memory in HCCL or other components") and starts nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ascend.hccl_env import env_faults
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.config.inventory import Chip
from orchestrator.config.job import Job
from orchestrator.core.errors import ConfigError, Problem

__all__ = ["HBM", "PoolRoom", "communicators", "hccl_buffer_of"]

_MB = 2**20  # HCCL's MB
_VARIABLE = "HCCL_BUFFSIZE"
_DEFAULT_MB = 200

# Bytes of one device: Atlas 800 with 910A 32 GB, Atlas 800T A2 with 910B1 to B3 64 GB (a 910B4 may have 32),
# each die of an Atlas A3 64 GB.
HBM: dict[Chip, int] = {"910A": 32 * 2**30, "910B": 64 * 2**30, "910_93": 64 * 2**30}


def communicators(cut: NetworkCut, stage: int) -> tuple[str, ...]:
    """The communicators of a rank of this pipeline stage, as `model.parallel.mesh.start_groups` makes them.

    A group of one rank has none, and a group of all ranks is the world's own. What goes from stage to stage
    goes through the world's.
    """
    if cut.world_size == 1:
        return ()
    ends = stage in (0, cut.pipeline_stage - 1)
    groups = (
        ("data", cut.data_parallel),
        ("model", cut.model_parallel),
        ("tied", 2 if cut.family.is_tied and cut.pipeline_stage > 1 and ends else 1),
    )
    return ("world", *(name for name, ranks in groups if 1 < ranks < cut.world_size))


def hccl_buffer_of(job: Job) -> int:
    """Bytes of one of HCCL's buffers; 0 for a job that does not run on NPUs.

    Raises ConfigError where the job's `env` gives a size that HCCL refuses. One that a host's own
    `env_script` sets is not seen here.
    """
    if job.device_target != "Ascend":
        return 0
    given = {name: value for name, value in job.env.items() if name == _VARIABLE}
    faults = list(env_faults(given))
    if faults:
        raise ConfigError([Problem(job.where("env", item.name), item.what, item.remedy) for item in faults])
    return int(given.get(_VARIABLE, _DEFAULT_MB)) * _MB


@dataclass(frozen=True, slots=True)
class PoolRoom:
    """A pool of `limit` bytes, of which `needed` are needed, and HCCL's buffers in a device of `hbm` bytes.

    `count` communicators have two buffers of `buffer` bytes each.
    """

    limit: int
    needed: int
    count: int
    buffer: int
    hbm: int

    @property
    def left(self) -> int:
        """What the two leave to CANN; below 0 the pool may take what HCCL needs."""
        return self.hbm - self.limit - 2 * self.count * self.buffer

    @property
    def pool_gb(self) -> int:
        """The largest `max_device_memory`, in whole GB, that leaves something; 0 where none suffices."""
        most = (self.hbm - 2 * self.count * self.buffer - 1) // 2**30
        return most if most * 2**30 >= self.needed else 0

    @property
    def buffer_mb(self) -> int:
        """The largest HCCL_BUFFSIZE, a power of two, that leaves something; 0 where none does."""
        most = (self.hbm - self.limit - 1) // (2 * self.count * _MB)
        return 1 << most.bit_length() - 1 if most > 0 else 0
