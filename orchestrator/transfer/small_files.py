"""The small files of a run that belong to its checkpoint: strategies, model configuration, tokenizer.

They come in pieces from all hosts at once. Equal ones are kept once, large ones in a file without a name.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from orchestrator.agent import host_runs as runs
from orchestrator.checkpoint.companion_files import SmallFile
from orchestrator.checkpoint.files.strategy_files import Strategy, parse_strategy
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Attempt
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet

__all__ = ["KNOWN", "Gathered", "Spool", "gather", "parsed_strategies"]

_STRATEGY = re.compile(r"[\w.+-]*_rank_(\d+)\.ckpt", re.ASCII)
# What a worker puts beside the weights, and what comes with a tokenizer.
_MODEL = re.compile(
    r"config\.(yaml|json)|generation_config\.json|tokenizer\.(json|model)|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)"
)
# Beside the shards of each host is what belongs to the model, too.
KNOWN: Mapping[str, re.Pattern[str]] = {"strategy": _STRATEGY, "model": _MODEL, "checkpoint": _MODEL}
_IN_MEMORY = 1 << 20
_MOST_OF_A_HOST = 4 << 30


class Spool:
    """Contents that come in pieces; what is larger than `_IN_MEMORY` waits on the disk of `folder`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._files: dict[str, SmallFile] = {}

    def take(self, pieces: Iterable[tuple[str | None, bytes]]) -> tuple[dict[str, SmallFile], int]:
        """The files by name, and how many there were whose name was None."""
        found: dict[str, SmallFile] = {}
        odd = 0
        name: str | None = None
        content: _Content | None = None
        for name, piece in pieces:
            if name is None:
                odd += 1
                continue
            if content is None or content.name != name:
                if content is not None:
                    found[content.name] = self._keep(content)
                content = _Content(name, self._folder)
            content.add(piece)
        if content is not None:
            found[content.name] = self._keep(content)
        return found, odd

    def _keep(self, content: _Content) -> SmallFile:
        file = content.file()
        return self._files.setdefault(file.sha256, file)


class _Content:
    def __init__(self, name: str, folder: Path | None) -> None:
        self.name = name
        self._digest = hashlib.sha256()
        self._size = 0
        # It is closed, and gone, when the last who may read it is.
        where = None if folder is None else str(folder)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=where)  # noqa: SIM115

    def add(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._size += len(piece)
        self._file.write(piece)

    def file(self) -> SmallFile:
        return SmallFile(self._digest.hexdigest(), self._size, self._read)

    def _read(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_IN_MEMORY):
            yield piece


@dataclass(slots=True)
class Gathered:
    """The files of all hosts that could be asked (of one name, the last's); lines on what was left out."""

    files: dict[str, SmallFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(
    fleet: Fleet,
    run_id: str,
    folder: str,
    here: Callable[[str], RunDir | None],
    spool: Spool,
    *,
    attempt: Attempt | None = None,
) -> Gathered:
    """The known files in this folder of the run; `here` gives its directory on a host that is this machine.

    Of the attempt in force, or of `attempt`. A host that is gone, or has the run no more, may not be needed:
    whether it is, `collect` finds out.
    """
    known = KNOWN[folder]
    found = Gathered()
    taken: dict[str, tuple[dict[str, SmallFile], int]] = {}
    errors: dict[str, OrchestrateError] = {}

    def fetch(agent: Agent) -> tuple[dict[str, SmallFile], int]:
        return spool.take(agent.small_files(run_id, folder, known, total=_MOST_OF_A_HOST, attempt=attempt))

    far = []
    for host in fleet.hosts:
        try:
            run = here(host)
            if run is None:
                far.append(host)
                continue
            pieces = runs.small_files(run, folder, known.pattern)
            taken[host] = spool.take(_named(pieces, known))
        except AgentError as error:
            errors[host] = error
    answers = fleet.each(fetch, far)
    taken.update(answers.values)
    for host, (files, odd) in taken.items():
        found.files.update(files)
        if odd:
            found.notes.append(f"{host}: {odd} files of {folder}/ are none of ours and were left out")
    for host, failed in {**errors, **answers.errors}.items():
        is_gone = isinstance(failed, TransportError) or getattr(failed, "kind", "") == "no_run"
        if not is_gone:
            found.notes.append(f"{host}: {folder}/ was not read: {failed.what}")
    return found


def _named(pieces: Iterable[tuple[str, bytes]], known: re.Pattern[str]) -> Iterator[tuple[str | None, bytes]]:
    return ((name if known.fullmatch(name) else None, data) for name, data in pieces)


def parsed_strategies(files: Mapping[str, SmallFile]) -> dict[int, Strategy]:
    """The strategy of each rank; the ranks of a stage have equal files, which are read once."""
    strategies: dict[int, Strategy] = {}
    same: dict[str, Strategy] = {}
    for name, file in files.items():
        match = _STRATEGY.fullmatch(name)
        if match is not None:
            if file.sha256 not in same:
                same[file.sha256] = parse_strategy(file.content(), name)
            strategies[int(match[1])] = same[file.sha256]
    return strategies
