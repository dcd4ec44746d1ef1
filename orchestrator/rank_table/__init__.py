"""The HCCL rank table: read, checked, made, merged, compared."""

from orchestrator.rank_table.build import build_rank_table, chip_of_hosts
from orchestrator.rank_table.finding import Finding, Severity, errors_of, problems_of, warnings_of
from orchestrator.rank_table.merge import Merged, merge, merged_name
from orchestrator.rank_table.model import RankTable, RankTableDevice, RankTableServer, is_loopback
from orchestrator.rank_table.read import STDIN, Reading, parse_rank_table, read_rank_table, read_rank_tables
from orchestrator.rank_table.validate import check_file, validate

__all__ = [
    "STDIN",
    "Finding",
    "Merged",
    "RankTable",
    "RankTableDevice",
    "RankTableServer",
    "Reading",
    "Severity",
    "build_rank_table",
    "check_file",
    "chip_of_hosts",
    "errors_of",
    "is_loopback",
    "merge",
    "merged_name",
    "parse_rank_table",
    "problems_of",
    "read_rank_table",
    "read_rank_tables",
    "validate",
    "warnings_of",
]
