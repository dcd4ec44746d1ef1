"""Bloom in MindSpore: training, prediction and generation in the workers.

`from model import AutoConfig, AutoModel, AutoTokenizer, TextGenerationPipeline, pipeline`, as of MindFormers.
"""

from __future__ import annotations

import importlib
from typing import Any

# Imported when they are asked for: MindSpore takes seconds, and most of this package does without it.
_PUBLIC = {
    "AutoConfig": "model.compatibility.auto_model",
    "AutoModel": "model.compatibility.auto_model",
    "AutoTokenizer": "model.compatibility.auto_model",
    "BloomConfig": "orchestrator.families.bloom",
    "TextGenerationPipeline": "model.compatibility.auto_model",
    "pipeline": "model.compatibility.auto_model",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
