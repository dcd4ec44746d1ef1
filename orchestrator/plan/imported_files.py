"""Files that a run YAML of MindFormers names relative to where it was, for which an imported job has none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import dotted
from orchestrator.plan.run_yaml_files import beside, files_named

__all__ = ["missing_beside"]


def missing_beside(run: RunYaml, mode: str, folder: Path) -> Iterator[str]:
    """What has to be put beside a job file in `folder`, by the keys of the run YAML; a launch refuses it."""
    for named in files_named(run, mode):
        if not named.is_absolute and not beside(folder, named):
            yield f"{dotted(named.key)}: {show(named.text)} is not beside the job"
