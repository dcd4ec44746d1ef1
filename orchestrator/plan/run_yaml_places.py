"""Where a person wrote the keys of a run YAML: in the job's `mindformers.set`, else in the file as it was.

A run YAML that is completed has other lines than the file, and values that are not of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.job import Job
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import Problem

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a run YAML's keys; `file` is as it was read."""

    job: Job
    file: RunYaml

    def where(self, path: tuple[str, ...]) -> str:
        """`file:line: key`, of the job where it sets the key, or what is around it."""
        for depth in range(len(path), 0, -1):
            if self.is_set(path[:depth]):
                return self.job.where("mindformers", "set", *path[:depth])
        return self.file.where(path)

    def is_set(self, path: tuple[str, ...]) -> bool:
        """Whether the job sets just this key."""
        return self.job.mindformers is not None and ".".join(path) in self.job.mindformers.set

    def problem(self, path: tuple[str, ...], what: str, remedy: str = "") -> Problem:
        """What is wrong with the value of a key, at its place."""
        return Problem(self.where(path), plain(what), plain(remedy))
