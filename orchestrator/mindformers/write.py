"""An imported job as the text of a job file."""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.mindformers.run_yaml import Imported

__all__ = ["job_text"]


def job_text(imported: Imported, source: str) -> str:
    """YAML that `orchestrate launch` reads; `source` is named in its first line."""
    lines = [f"# From {source}, a run YAML of MindFormers."]
    lines += [f"# TO DO  {item}" for item in imported.to_do]
    sections = (_dump({key: _without_nothing(value)}) for key, value in imported.job.items())
    return "\n".join([*lines, ""]) + "".join(sections)


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _without_nothing(value: Any) -> Any:
    """Keys that say nothing are left to the job's defaults; `clip_grad: null` does say something."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None or key == "clip_grad"}
