"""Estimates and suggested layouts as data, for `orchestrate plan --json`."""

from __future__ import annotations

from typing import Any

from orchestrator.sizing.estimate import Estimate
from orchestrator.sizing.suggest import Suggestion

__all__ = ["estimate_data", "suggestions_data"]


def suggestions_data(found: list[Suggestion]) -> list[dict[str, Any]]:
    """Layouts that fit, best first."""
    return [
        {
            "data_parallel": item.workload.replicas,
            "model_parallel": item.workload.cut.model_parallel,
            "pipeline_stage": item.workload.cut.pipeline_stage,
            "micro_batch_num": item.workload.micro_batch_num,
            "optimizer_shard": item.workload.cut.optimizer_shard,
            "recompute": item.workload.recompute,
            "reasons": list(item.reasons),
            **estimate_data(item.estimate),
        }
        for item in found
    ]


def estimate_data(made: Estimate) -> dict[str, Any]:
    """One estimate, sizes in bytes."""
    return {
        "bubble": round(made.bubble, 4),
        "bytes_per_step": {
            "model_parallel": made.model_traffic,
            "data_parallel": made.data_traffic,
            "pipeline": made.pipeline_traffic,
        },
        "stages": [
            {
                "stage": stage.stage,
                "blocks": stage.blocks,
                "parameters": stage.parameters,
                "weights": stage.weights,
                "gradients": stage.gradients,
                "optimizer": stage.optimizer,
                "activations": stage.activations,
                "cache": stage.cache,
                "total": stage.total,
                "communicators": list(stage.communicators),
                "hccl_buffers": stage.hccl_buffers,
            }
            for stage in made.stages
        ],
    }
