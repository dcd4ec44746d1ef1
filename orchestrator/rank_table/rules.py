"""Every rule that a rank table breaks, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from orchestrator.config.inventory import Chip
from orchestrator.rank_table.findings import Finding, Rule, Severity
from orchestrator.rank_table.read_table import Reading
from orchestrator.rank_table.rules_backups import BACKUP_RULES
from orchestrator.rank_table.rules_chips import CHIP_RULES
from orchestrator.rank_table.rules_devices import DEVICE_RULES
from orchestrator.rank_table.rules_ranks import RANK_RULES
from orchestrator.rank_table.rules_servers import SERVER_RULES
from orchestrator.rank_table.rules_super_pods import SUPER_POD_RULES
from orchestrator.rank_table.table import RankTable, TableView, in_bulk

__all__ = ["FORM_CODES", "RULES", "check_file", "validate"]

# Each names its source; HCOMM is HCCL's C++ source, commit 27f73ac of hicann/hcomm. What concerns one host's
# devices against the table is in `live_table`.
RULES: tuple[Rule, ...] = (
    *SERVER_RULES,
    *DEVICE_RULES,
    *BACKUP_RULES,
    *RANK_RULES,
    *CHIP_RULES,
    *SUPER_POD_RULES,
)
# The codes of what is found when a file is read, before any rule.
FORM_CODES = ("missing-key", "wrong-kind", "not-a-string", "file-name", "old-template")


def validate(table: RankTable, *, chip: Chip | None = None, intra_roce: bool = False) -> list[Finding]:
    """Every finding of every rule; one pass over the table for each rule."""
    with in_bulk():
        view = TableView(table, chip=chip, intra_roce=intra_roce)
        return [finding for rule in RULES for finding in rule.findings(view)]


def check_file(reading: Reading, *, chip: Chip | None = None) -> list[Finding]:
    """Every finding about a file: its name, its form, and every rule that can still be looked at."""
    told = {finding.path for finding in reading.findings}
    # What is missing was said once; that it is also empty is no news.
    rules = [finding for finding in validate(reading.table, chip=chip) if finding.path not in told]
    return [*_file_name(reading), *reading.findings, *rules]


def _file_name(reading: Reading) -> Iterator[Finding]:
    if reading.name != "standard input" and PurePath(reading.name).suffix != ".json":
        what = "does not end in .json, and HCCL opens no other file"
        yield Finding("file-name", Severity.ERROR, "", what, "rename it", (reading.name,))
