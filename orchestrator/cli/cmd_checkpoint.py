"""`orchestrate checkpoint …`: work on checkpoints of this machine, without a run."""

from __future__ import annotations

import click

from orchestrator.cli.cmd_checkpoint_convert import combine_command, split_command, transform_command
from orchestrator.cli.cmd_checkpoint_inspect import diff_command, inspect_command, verify_command

__all__ = ["command"]


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("checkpoint", cls=_InOrder)
def command() -> None:
    """Look at, combine, split and compare checkpoints of this machine.

    Reads .ckpt and .safetensors (also sharded with an index), and MindSpore's strategy files in protobuf
    and JSON, of single ranks, of stages and merged. Output appears whole or not at all.
    """


for _subcommand in (
    inspect_command,
    combine_command,
    split_command,
    transform_command,
    verify_command,
    diff_command,
):
    command.add_command(_subcommand)
