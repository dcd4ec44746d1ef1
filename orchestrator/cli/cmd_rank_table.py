"""`orchestrate rank-table VERB`"""

from __future__ import annotations

import click

from orchestrator.cli.lazy_commands import LazyGroup

__all__ = ["command"]

_VERBS = {
    "generate": ("cmd_rank_table_generate", "Make the table of this server, or of all of an inventory."),
    "merge": ("cmd_rank_table_merge", "Make one table of the servers' tables."),
    "validate": ("cmd_rank_table_validate", "Tell everything that HCCL would refuse in a table."),
    "show": ("cmd_rank_table_show", "Show which ranks are where."),
    "diff": ("cmd_rank_table_diff", "Compare two tables; exit code 6 if they differ."),
    "push": ("cmd_rank_table_push", "Put a table on all its servers, and prove that it arrived."),
}


@click.group("rank-table", cls=LazyGroup, verbs=_VERBS)
def command() -> None:
    """HCCL rank tables: which rank is which device of which server.

    `launch` makes, checks and places the table of a run by itself. These verbs are for tables of your own.
    """
