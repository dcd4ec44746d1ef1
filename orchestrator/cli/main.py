"""The `orchestrate` command: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import click

from orchestrator import __version__
from orchestrator.cli.lazy_commands import LazyGroup
from orchestrator.core.errors import AssumedWarning, Interrupted, OrchestrateError
from orchestrator.core.visible_text import OutputClosed, only_visible_text

__all__ = ["cli", "main", "run"]

# pydantic would search every installed package for plugins of its own, at each start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Verb -> module, first line of help.
_VERBS = {
    "check": ("cmd_check", "Check whether the servers are fit, before a launch."),
    "launch": ("cmd_launch", "Start a job on its hosts and follow it."),
    "status": ("cmd_status", "Show where a run is: state, ranks, loss, cause of failure."),
    "logs": ("cmd_logs", "Print what the workers of a run wrote."),
    "diagnose": ("cmd_diagnose", "Say why a run failed or hangs: cause, evidence, remedy."),
    "attach": ("cmd_attach", "Follow a run that was launched before."),
    "resume": ("cmd_resume", "Go on with a run that has ended, from its newest complete step."),
    "stop": ("cmd_stop", "End every worker of a run on every host."),
    "plan": ("cmd_plan", "Estimate memory, traffic and bubble of a job; propose layouts."),
    "import-mindformers": (
        "cmd_import_mindformers",
        "Turn a run YAML of MindFormers into a job.",
    ),
    "chaos": ("cmd_chaos", "Kill or freeze a worker of a run, or fill a disk, to see what comes of it."),
    "simulate": ("cmd_simulate", "Run a job's control on simulated servers and faults, faster than time."),
    "collect-ckpt": ("cmd_collect_ckpt", "Combine a run's sharded checkpoint into one file."),
    "distribute-ckpt": ("cmd_distribute_ckpt", "Cut a whole checkpoint and send each host its ranks' part."),
    "checkpoint": ("cmd_checkpoint", "Look at, combine, split and compare checkpoints of this machine."),
    "rank-table": ("cmd_rank_table", "Make, merge, check, compare and place HCCL rank tables."),
    "answers": ("cmd_answers", "Gather what a prediction job has answered."),
    "chat": ("cmd_chat", "Talk to a running chat job."),
    "model": ("cmd_model", "Train, convert, ask, export on this machine: the verbs of `python -m model`."),
    "service": ("cmd_service", "Have the monitors of runs started again when this machine was restarted."),
    "runs": ("cmd_runs", "List the runs that are known here, or found on hosts."),
}


@click.group(cls=LazyGroup, verbs=_VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrate")
@click.option("--debug", is_flag=True, help="Log what happens to stderr, and show tracebacks.")
def cli(debug: bool) -> None:
    """Run MindSpore jobs on many Ascend servers over SSH.

    RUN is a run's name, the beginning of it, or the name of its job. Without it the active run is meant;
    where none is active, verbs that look at a run or take from it mean the newest, and say so. A job's name
    means the same among the runs of that job.

    Exit codes: 0 done (also where the reader of the output has closed it), 1 the run failed, 2 usage,
    configuration or a file that cannot be used, 3 hosts unreachable, 4 a host is not fit or refused,
    5 interrupted or stopped, 6 what was compared differs, 70 an error of orchestrate itself.
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


_NAME = "orchestrate"
_COMPLETES = "_ORCHESTRATE_COMPLETE"
_OWN_ERROR = 70  # sysexits.h: an internal software error
_MOST_REPORTS = 20


def main() -> None:
    """Entry point: run the verb and leave with the documented exit code."""
    sys.exit(run(cli, sys.argv[1:]))


def run(command: click.Command, words: Sequence[str]) -> int:
    """Run a command line; its exit code. Whatever goes wrong is told in a line, here and nowhere else."""
    warnings.showwarning = _tell
    with only_visible_text():
        return _flushed(_exit_code(command, words))


def _exit_code(command: click.Command, words: Sequence[str]) -> int:
    try:
        if _COMPLETES in os.environ:  # a shell asks what could come next
            command.main(list(words), prog_name=_NAME, complete_var=_COMPLETES, standalone_mode=False)
        # Not `main`, which takes every broken pipe for that of the output, and leaves with 1.
        with command.make_context(_NAME, list(words)) as context:
            code = command.invoke(context)
        return code if isinstance(code, int) else 0
    except OutputClosed:
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, EOFError, click.Abort):
        click.echo("orchestrate: interrupted", err=True)
        return Interrupted.exit_code
    except Exception as error:
        if "--debug" in words:
            import traceback  # late: what nobody should ever need

            traceback.print_exc()
        return _told(error, words)


def _told(error: Exception, words: Sequence[str]) -> int:
    if isinstance(error, OrchestrateError):
        # Late: an error of a verb finds it imported, and `--help` does without it.
        from orchestrator.hosts.fleet import error_lines

        for line in error_lines(error):
            click.echo(f"orchestrate: {line}", err=True)
        return error.exit_code
    if isinstance(error, OSError):
        click.echo(f"orchestrate: {error.filename or 'I/O'}: {error.strerror or error}", err=True)
        return OrchestrateError.exit_code
    return _unexpected(error, words)


def _unexpected(error: Exception, words: Sequence[str]) -> int:
    """An error of ours: one line, and the traceback in a file that can be sent to us."""
    # Late: what nobody should ever need.
    import time
    import traceback

    from orchestrator.core.paths import atomic_write, state_root

    said = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:300]
    folder = state_root() / "errors"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = f"orchestrate {__version__}\n{' '.join(words[:1])}\n" + "".join(
        traceback.format_exception(type(error), error, error.__traceback__)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        atomic_write(path, text.encode("utf-8", "backslashreplace"))
        for old in sorted(folder.glob("*.txt"))[:-_MOST_REPORTS]:
            old.unlink()
        where = f"the traceback is in {path}"
    except OSError as problem:
        where = f"the traceback cannot be written to {path}: {problem.strerror}; `--debug` shows it"
    click.echo(f"orchestrate: an error of orchestrate itself: {said} ({where})", err=True)
    return _OWN_ERROR


def _flushed(code: int) -> int:
    """The exit code, once what was printed is on its way: Python would try at its end, and fail aloud."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OutputClosed:
            _drop(stream)
        except OSError as error:
            _drop(stream)
            code = code or OrchestrateError.exit_code
            if stream is sys.stdout:
                click.echo(f"orchestrate: standard output: {error.strerror}", err=True)
    return code


def _drop(stream: TextIO) -> None:
    """Let what is still to be written to a stream go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
