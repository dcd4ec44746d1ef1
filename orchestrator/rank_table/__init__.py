"""The HCCL rank table: read, checked, made, merged, compared."""

from orchestrator.rank_table.build import build_rank_table, chip_of_hosts
from orchestrator.rank_table.devices import device_range, visible
from orchestrator.rank_table.diff import Difference, differences
from orchestrator.rank_table.finding import Finding, Severity, errors_of, problems_of, warnings_of
from orchestrator.rank_table.merge import Merged, merge, merged_name
from orchestrator.rank_table.model import (
    RankTable,
    RankTableDevice,
    RankTableServer,
    SuperPod,
    SuperPodServer,
    is_ip,
    is_loopback,
)
from orchestrator.rank_table.read import STDIN, Reading, parse_rank_table, read_rank_table, read_rank_tables
from orchestrator.rank_table.rules_super_pods import pod_of_server
from orchestrator.rank_table.validate import check_file, validate

__all__ = [
    "STDIN",
    "Difference",
    "Finding",
    "Merged",
    "RankTable",
    "RankTableDevice",
    "RankTableServer",
    "Reading",
    "Severity",
    "SuperPod",
    "SuperPodServer",
    "build_rank_table",
    "check_file",
    "chip_of_hosts",
    "device_range",
    "differences",
    "errors_of",
    "is_ip",
    "is_loopback",
    "merge",
    "merged_name",
    "parse_rank_table",
    "pod_of_server",
    "problems_of",
    "read_rank_table",
    "read_rank_tables",
    "validate",
    "visible",
    "warnings_of",
]
