"""What a job will need, before it is launched: memory per rank, traffic per step, bubbles, better layouts."""

from orchestrator.sizing.device_memory import HBM, PoolRoom, communicators
from orchestrator.sizing.estimate import Estimate, StageEstimate, estimate, size_of
from orchestrator.sizing.network import Network, network_of
from orchestrator.sizing.suggest import Suggestion, suggest
from orchestrator.sizing.workload import Workload, workload_of

__all__ = [
    "HBM",
    "Estimate",
    "Network",
    "PoolRoom",
    "StageEstimate",
    "Suggestion",
    "Workload",
    "communicators",
    "estimate",
    "network_of",
    "size_of",
    "suggest",
    "workload_of",
]
