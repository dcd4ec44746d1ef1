"""What is to be run: the job as a person writes it."""

from orchestrator.job.load import load_job
from orchestrator.job.model import (
    CheckpointOptions,
    Data,
    Job,
    ModelChoice,
    Networking,
    Parallel,
    Predict,
    Timeouts,
    Train,
)

__all__ = [
    "CheckpointOptions",
    "Data",
    "Job",
    "ModelChoice",
    "Networking",
    "Parallel",
    "Predict",
    "Timeouts",
    "Train",
    "load_job",
]
