"""The HCCL rank table."""

from orchestrator.rank_table.model import (
    RankTable,
    RankTableDevice,
    RankTableServer,
    build_rank_table,
    is_loopback,
)

__all__ = ["RankTable", "RankTableDevice", "RankTableServer", "build_rank_table", "is_loopback"]
