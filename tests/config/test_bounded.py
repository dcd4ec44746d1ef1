"""A megabyte of anything is answered within 2 s and 300 MB, by every reader of what people write."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_yaml import import_run_yaml, job_text
from orchestrator.config.worker_config import WorkerConfig, read_worker_config
from orchestrator.core.errors import ConfigError

MB = 1 << 20
JOB = "name: a\ntask: finetune\ndevices_per_host: 1\ntrain: {steps: 1}\ndata: {path: /x}\n"
COMMAND = "name: a\ntask: command\ndevices_per_host: 1\n"
RUN = "model: {model_config: {type: BloomConfig, hidden_size: 1024, num_layers: 24, num_heads: 16}}\n"

# What is repeated between a beginning and an end: `{n}` is a number that grows.
REPEATED = {
    "the same key": ("", "a: 1\n", ""),
    "the same key in a line": ("{", "a: 1,", "}"),
    "the same key as JSON": ("{", '"a": 1,', "}"),
    "unknown keys": (JOB, "k{n}: 1\n", ""),
    "unknown keys of a section": ("train:\n", "  step{n}: 1\n", ""),
    "unknown overrides": (JOB + "model: {preset: tiny, overrides: {", "k{n}: 1,", "}}"),
    "keys of env that are none": (COMMAND + "command: [x]\nenv: {", "{n}-: [1],", "}"),
    "files that are missing": (COMMAND + "command: [x]\nsync: [", "a{n},", "]"),
    "placeholders": (COMMAND + "command: [", "'{{rnak}}',", "]"),
    "placeholders in a word": (COMMAND + "command: ['", "{{rnk{n}}}", "']"),
    "options": (COMMAND + "command: [python, ", "-W,", "]"),
    "an alias of a word": ("a: &a " + "x" * MB + "\nb: [", "*a,", "]"),
    "an alias of a mapping": ("a: &a {x: 1, y: {z: 2}}\nb: [", "*a,", "]"),
    "aliases of aliases": ("a0: &a0 [1]\n", "a{n}: &a{n} [*a0, *a0]\n", ""),
    "merged mappings": ("a: &a {x: 1}\nb: {", "<<: *a,", "}"),
    "anchors": ("", "k{n}: &a {n}\n", ""),
    "tags": ("a: [", "!x y,", "]"),
    "open lists": ("a: ", "[", ""),
    "open mappings": ("", "{{a: ", ""),
    "dashes": ("", "- ", ""),
    "question marks": ("", "? ", ""),
    "documents": ("a: 1\n", "---\n", ""),
    "a line": ("name: ", "x", ""),
    "an escaped line": ('name: "', "\\x41", '"'),
    "quotes": ("name: '", "''", "'"),
    "a key": ("", "x", ": 1"),
    "a number": ("devices_per_host: ", "9", ""),
    "a fraction": ("name: a\ntrain: {learning_rate: 1.", "9", "x}"),
    "a block of text": ("name: |\n", "  x\n", ""),
    "a plain text of many lines": ("name: x\n", "  x\n", ""),
    "comments": ("", "#\n", ""),
    "blanks": ("a: 1", " ", "\n"),
    "tabs": ("a: 1\n", "\t", ""),
    "colons": ("a", ":", ""),
    "line separators": ("name: ", "\u2028", ""),
    "callbacks": (RUN + "callbacks: [", "{{type: CheckpointMointor, prefix: a}},", "]"),
    "keys of MindFormers": (RUN, "k{n}: {{a: 1}}\n", ""),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "job": load_job,
    "run YAML": lambda path: job_text(import_run_yaml(path), "x"),
    "worker": lambda path: read_worker_config(path, WorkerConfig),
}


def text_of(name: str, most: int) -> str:
    start, part, end = REPEATED[name]
    if "{" not in part:
        return start + part * min(most, MB // len(part.encode())) + end
    count = min(most, MB // len(part.format(n=99_999).encode()))
    return start + "".join(part.format(n=number) for number in range(count)) + end


# Of CPU. A reader takes 1.6 of them alone, and half as much again beside ranks that compute on the same core.
MOST_SECONDS = 6.0


def answered(read: Callable[[Path], Any], path: Path) -> tuple[float, int, list[str]]:
    """CPU seconds, by how many MB the process has grown beyond what it had, and the lines of a refusal."""
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    lines: list[str] = []
    try:
        read(path)
    except ConfigError as error:
        lines = error.lines()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return time.process_time() - started, grown >> 10, lines


@pytest.mark.parametrize("name", REPEATED)
def test_a_megabyte_of_one_thing(tmp_path: Path, name: str) -> None:
    # What differs is judged one by one, so that there must be fewer than a file may hold; the rest stops the
    # reader of YAML, which is the same for all.
    many = "{n}" in REPEATED[name][1]
    path = tmp_path / "f.yaml"
    path.write_text(text_of(name, 40_000 if many else MB), encoding="utf-8")
    for reader, read in READERS.items() if many else [("job", load_job)]:
        seconds, grown, lines = answered(read, path)
        assert seconds < MOST_SECONDS and grown < 220, (reader, seconds, grown)
        assert len(lines) <= 210 and sum(map(len, lines)) < 200_000, reader
