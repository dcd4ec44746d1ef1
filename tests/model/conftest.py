from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("GLOG_v", "3")  # read by MindSpore when it is imported

# Where the control node alone is installed there is nothing to test here.
collect_ignore_glob = [] if importlib.util.find_spec("mindspore") else ["test_*.py"]
