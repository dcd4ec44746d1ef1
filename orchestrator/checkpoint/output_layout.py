"""What an output of each format looks like: files, the place of every tensor in them, their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from orchestrator.checkpoint.ckpt_file import lay_out_ckpt
from orchestrator.checkpoint.file_layout import FileLayout
from orchestrator.checkpoint.floats import target_type
from orchestrator.checkpoint.safetensors_file import lay_out_safetensors
from orchestrator.checkpoint.target import OutputLayout, Target
from orchestrator.checkpoint.tensor import Spec

__all__ = ["Format", "lay_out_file"]

Format = Literal["ckpt", "safetensors", "huggingface"]

_FORMATS: Mapping[Format, Callable[[Sequence[Spec]], FileLayout]] = {
    "ckpt": lay_out_ckpt,
    "safetensors": lay_out_safetensors,
}


def lay_out_file(specs: Sequence[Spec], format: Format, dtype: str | None = None) -> OutputLayout:
    """One file of all tensors in their order, floats as `dtype` (MindSpore's name of a type) if it is given.

    `huggingface` is no single file: see `lay_out_huggingface`.
    """
    types = [target_type(spec.dtype, dtype) for spec in specs]
    layout = _FORMATS[format]([replace(spec, dtype=type) for spec, type in zip(specs, types, strict=True)])
    targets = zip(specs, types, layout.places, strict=True)
    return OutputLayout(
        (("", layout),), tuple(Target(spec, type, 0, places) for spec, type, places in targets)
    )
