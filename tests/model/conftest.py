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
    """Chosen before anything is computed, as MindSpore wants it, whichever test comes first."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")
