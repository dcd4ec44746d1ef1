"""What to run: what the job file says."""

from orchestrator.job.load import load_job
from orchestrator.job.model import (
    CheckpointSpec,
    DataSpec,
    Job,
    ModelSpec,
    Networking,
    Parallel,
    PredictSpec,
    Timeouts,
    TrainSpec,
)

__all__ = [
    "CheckpointSpec",
    "DataSpec",
    "Job",
    "ModelSpec",
    "Networking",
    "Parallel",
    "PredictSpec",
    "Timeouts",
    "TrainSpec",
    "load_job",
]
