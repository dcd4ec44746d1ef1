"""Bloom in MindSpore: training, prediction and generation in the workers.

`from model import AutoConfig, AutoModel, AutoTokenizer, TextGenerationPipeline, pipeline`, and what else
MindFormers' page for Bloom imports: see `compatibility/module_names.py`.
"""

from __future__ import annotations

import importlib
from typing import Any

from model.compatibility.module_names import PUBLIC, answer_for

__all__ = sorted(PUBLIC)

answer_for("model")


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)
