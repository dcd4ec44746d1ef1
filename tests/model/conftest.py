"""MindSpore for the tests of the model: quiet."""

from __future__ import annotations

import os

os.environ.setdefault("GLOG_v", "3")  # read by MindSpore when it is imported
