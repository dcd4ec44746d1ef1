"""orchestrate: run MindSpore on many Ascend servers from one control node."""

__version__ = "0.2.0"
