"""Files that a command names: whether `sync` sends them, since nothing else lies in its working directory."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.config.command_words import script_of
from orchestrator.config.job import Job
from orchestrator.config.yaml_messages import plain, show
from orchestrator.core.errors import Problem
from orchestrator.core.records import Input

__all__ = ["unsent_files", "unsent_script"]


def unsent_script(job: Job, sent: Mapping[str, Input]) -> Iterator[Problem]:
    """Why the script of a command cannot be started on any host; `sent` are the files of `sync` by path."""
    command = job.command or ()
    index = script_of(command)
    if index is None:
        return
    word, where = command[index], job.where("command", index)
    path = posixpath.normpath(word)
    is_here = _is_file(job, word)
    if index == 0 and "/" not in word:
        # A program without a slash is looked for in PATH alone.
        if is_here or path in sent:
            yield Problem(where, f"{show(word)} is looked for in PATH", plain(f"write ./{word}"))
    elif path in sent:
        if index == 0 and not sent[path].executable:
            yield Problem(where, f"{show(word)} is not executable", plain(f"chmod +x {word}"))
    elif not any(other.startswith(f"{path}/") for other in sent):
        yield Problem(
            where, f"{show(word)} is not among the files of sync", plain(_remedy(path, sent, is_here))
        )


def _remedy(path: str, sent: Mapping[str, Input], is_here: bool) -> str:
    name = posixpath.basename(path)
    alike = next((other for other in sent if posixpath.basename(other) == name), None)
    if alike is not None:
        return f"it is sent as {alike}: write that"
    if not is_here:
        return "nor is it beside the job file; an absolute path is one of the hosts"
    folder = path.split("/")[0]
    return f"write sync: [{folder}]"


def unsent_files(job: Job, sent: Mapping[str, Input]) -> Iterator[str]:
    """A note on each other file that a command names, that lies beside the job file, and that is not sent."""
    command = job.command or ()
    script = script_of(command)
    for index, word in enumerate(command):
        name = word.rpartition("=")[2]
        path = posixpath.normpath(name) if name else "."
        if index != script and index and path not in sent and _is_file(job, name):
            yield plain(f"command names {name}, which is not among the files of sync: no host gets it")


def _is_file(job: Job, word: str) -> bool:
    """Whether a relative path is a file beside the job file."""
    path: Path | None = job.local_path(word) if word else None
    try:
        return path is not None and path.is_file()
    except (OSError, ValueError):  # longer than a name may be
        return False
