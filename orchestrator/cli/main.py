"""The `orchestrate` command: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import click

from orchestrator import __version__
from orchestrator.cli.lazy import LazyGroup
from orchestrator.core.errors import AssumedWarning, Interrupted, OrchestrateError
from orchestrator.core.visible_text import escape_what_streams_lack

__all__ = ["main"]

# pydantic would search every installed package for plugins of its own, at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Verb -> module, first line of help.
_VERBS = {
    "check": ("cmd_check", "Check whether the servers are fit, before a launch."),
    "launch": ("cmd_launch", "Start a job on its hosts and follow it."),
    "status": ("cmd_status", "Show where a run is: state, ranks, loss, cause of failure."),
    "logs": ("cmd_logs", "Print what the workers of a run wrote."),
    "attach": ("cmd_attach", "Follow a run that was launched before."),
    "stop": ("cmd_stop", "End every worker of a run on every host."),
    "plan": ("cmd_plan", "Estimate memory, traffic and bubble of a job; propose layouts."),
    "import-mindformers": (
        "cmd_import_mindformers",
        "Turn a run YAML of MindFormers into a job.",
    ),
    "collect-ckpt": ("cmd_collect_ckpt", "Combine a run's sharded checkpoint into one file."),
    "distribute-ckpt": ("cmd_distribute_ckpt", "Cut a whole checkpoint and send each host its ranks' part."),
    "checkpoint": ("cmd_checkpoint", "Look at, combine, split and compare checkpoints of this machine."),
    "rank-table": ("cmd_rank_table", "Make, merge, check, compare and place HCCL rank tables."),
    "answers": ("cmd_answers", "Gather what a prediction job has answered."),
    "chat": ("cmd_chat", "Talk to a running chat job."),
    "model": ("cmd_model", "Train, convert, ask, export on this machine: the verbs of `python -m model`."),
    "runs": ("cmd_runs", "List the runs that are known here, or found on hosts."),
}


@click.group(cls=LazyGroup, verbs=_VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrate")
@click.option("--debug", is_flag=True, help="Log what happens to stderr, and show tracebacks.")
def cli(debug: bool) -> None:
    """Run MindSpore jobs on many Ascend servers over SSH.

    RUN is a run's name or the beginning of it; without it the newest run is meant. Exit codes: 0 done,
    1 the run failed, 2 usage or configuration, 3 hosts unreachable, 4 preflight failed, 5 interrupted.
    """
    level = logging.DEBUG if debug else logging.CRITICAL
    logging.basicConfig(level=level, format="%(asctime)s %(name)s %(levelname)s %(message)s")


_show = warnings.showwarning


def _tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """What was assumed of a person's file is told in a line; other warnings as Python has it."""
    if issubclass(category, AssumedWarning):
        click.echo(f"orchestrate: note: {message}", err=True)
    else:
        _show(message, category, *where, **more)


def main() -> None:
    """Entry point: run the verb and leave with the documented exit code."""
    escape_what_streams_lack()
    warnings.showwarning = _tell
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except OrchestrateError as error:
        if "--debug" in sys.argv:
            raise
        # Late: an error of a verb finds it imported, and `--help` does without it.
        from orchestrator.hosts.fleet import error_lines

        for line in error_lines(error):
            click.echo(f"orchestrate: {line}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has had enough.
        sys.stderr.close()
        code = 0
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"orchestrate: {error.filename or 'I/O'}: {error.strerror or error}", err=True)
        code = OrchestrateError.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("orchestrate: interrupted", err=True)
        code = Interrupted.exit_code
    sys.exit(code if isinstance(code, int) else 0)
