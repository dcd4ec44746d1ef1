"""The layout of a folder that MindSpore and MindFormers load in any cut: whole tensors under their own names.

    part0.safetensors …          weights, and moments, in files of at most 5 GB
    param_name_map.json          which tensor is in which file
    hyper_param.safetensors      what the training loop keeps; MindFormers takes the step from it

Source: mindspore 2.10's `unified_safetensors` and `load_distributed_checkpoint`
(parallel/transform_safetensors.py); mindformers 1.9.0, trainer/utils.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.checkpoint.cut.coverage import is_moment, is_weight
from orchestrator.checkpoint.files.tensor_types import Spec, target_type
from orchestrator.checkpoint.hf_layout import weight_groups, weight_index
from orchestrator.checkpoint.output_layout import OutputLayout, lay_out

__all__ = ["lay_out_unified"]

_LARGEST_FILE = 5_000_000_000
_COUNTERS, _INDEX = "hyper_param.safetensors", "param_name_map.json"


def lay_out_unified(
    specs: Sequence[Spec], dtype: str | None = None, *, largest_file: int = _LARGEST_FILE
) -> OutputLayout:
    """The folder for these tensors, floats as `dtype` if it is given. CheckpointError: as `lay_out`."""
    tensors = [spec for spec in specs if is_weight(spec.name) or is_moment(spec.name)]
    counters = [spec for spec in specs if not (is_weight(spec.name) or is_moment(spec.name))]
    sizes = [replace(spec, dtype=target_type(spec.dtype, dtype)).nbytes for spec in tensors]
    groups = [group for group in weight_groups(tensors, sizes, largest_file) if group]
    names = [f"part{number}.safetensors" for number in range(len(groups))]
    index = weight_index(groups, names).decode() + "\n"
    if counters:
        groups, names = [*groups, counters], [*names, _COUNTERS]
    layout = lay_out(groups, "safetensors", names=names, dtype=dtype, texts={_INDEX: index.encode()})
    found = {each.source.name: each for each in layout.destinations}
    return replace(layout, destinations=tuple(found[spec.name] for spec in specs))
