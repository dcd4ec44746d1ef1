"""Files for the tests of what people write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.core.errors import ConfigError

__all__ = ["HOSTS", "JOB", "inventory", "job", "lines_of"]

JOB = """\
name: demo
task: finetune
devices_per_host: 2
parallel: {data_parallel: 2, model_parallel: 2}
model: {preset: tiny}
data: {path: /data/x.json}
train:
  steps: 400
  learning_rate: 1e-3
"""

HOSTS = """\
defaults: {devices: 0-1}
hosts:
  - name: npu[1-2]
    address: 10.0.0.[1-2]
"""


def job(folder: Path, text: str = JOB, *overrides: str) -> Job:
    """The text as a job file."""
    path = folder / "job.yaml"
    path.write_text(text)
    return load_job(path, overrides)


def inventory(folder: Path, text: str = HOSTS) -> Inventory:
    """The text as an inventory file."""
    path = folder / "hosts.yaml"
    path.write_text(text)
    return load_inventory(path)


def lines_of(folder: Path, action: Callable[[], object]) -> list[str]:
    """What the CLI would print for the ConfigError that `action` raises, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert caught.value.exit_code == 2
    lines = [line.replace(f"{folder}/", "") for line in caught.value.lines()]
    assert not [line for line in lines if "\n" in line or "Traceback" in line]
    return lines
