"""MindSpore for the tests of the model: quiet, and on the CPU."""

from __future__ import annotations

import os
import sys

import pytest

os.environ.setdefault("GLOG_v", "3")  # read by MindSpore when it is imported


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    """Whole graphs, on a CPU: set before anything is computed, as MindSpore wants it."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
