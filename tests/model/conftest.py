from __future__ import annotations

import importlib.util
import os
import sys

import pytest

os.environ.setdefault("GLOG_v", "3")  # read by MindSpore when it is imported

# Where the control node alone is installed there is nothing to test here.
collect_ignore_glob = [] if importlib.util.find_spec("mindspore") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def device() -> None:
    """Whole graphs, on a CPU: set before anything is computed, as MindSpore wants it."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
