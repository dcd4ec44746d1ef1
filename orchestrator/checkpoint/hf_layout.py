"""The layout of a folder that Hugging Face's transformers loads: its names, its cuts, its files.

Weights are grouped into files of at most 5 GB, as `save_pretrained` does, with an index where there are
several. Source: https://huggingface.co/docs/transformers/big_models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.checkpoint.files.tensor_files import FileLayout, lay_out_safetensors
from orchestrator.checkpoint.files.tensor_types import Spec, target_type
from orchestrator.checkpoint.files.torch_writer import lay_out_torch
from orchestrator.checkpoint.output_layout import Destination, Interleaved, OutputLayout
from orchestrator.core.errors import CheckpointError
from orchestrator.families.family import Family, HfPart, hf_shape, qkv_axes
from orchestrator.families.registry import FamilyError, config_class

__all__ = ["HF_FORMS", "HfModel", "lay_out_huggingface", "weight_groups", "weight_index"]

T = TypeVar("T")

_LARGEST_FILE = 5_000_000_000
_TYPES = {"Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class HfModel:
    """What the shards do not tell: the run's model configuration, and files to put beside the weights."""

    config: Mapping[str, object]
    files: Mapping[str, bytes]

    @property
    def family(self) -> Family:
        """The network's family; CheckpointError where the configuration names one that there is not."""
        try:
            return config_class(self.config).family
        except FamilyError as error:
            raise CheckpointError(f"the run's model/config.yaml: {error}") from None

    def number(self, key: str) -> int:
        """A positive integer of the configuration; CheckpointError where there is none."""
        value = self.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"the run's model/config.yaml gives no {key}: {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class _Form:
    """What the weight files of a folder are called, and what they are."""

    stem: str
    suffix: str
    lay_out: Callable[[Sequence[Spec]], FileLayout]

    @property
    def index(self) -> str:
        return f"{self.stem}{self.suffix}.index.json"

    def file_names(self, count: int) -> list[str]:
        if count == 1:
            return [f"{self.stem}{self.suffix}"]
        return [f"{self.stem}-{number:05d}-of-{count:05d}{self.suffix}" for number in range(1, count + 1)]


HF_FORMS: Mapping[str, _Form] = {
    "safetensors": _Form("model", ".safetensors", lambda specs: lay_out_safetensors(specs, {"format": "pt"})),
    "bin": _Form("pytorch_model", ".bin", lay_out_torch),
}


def lay_out_huggingface(
    specs: Sequence[Spec],
    model: HfModel | None,
    dtype: str | None,
    *,
    form: str = "safetensors",
    largest_file: int = _LARGEST_FILE,
) -> OutputLayout:
    """The folder for these weights; CheckpointError where they are not those of one whole network.

    `form` is a key of HF_FORMS: safetensors, or `bin`, PyTorch's own files.
    """
    if model is None:
        raise CheckpointError(
            "the run has left no model/config.yaml, which tells the number of heads",
            remedy="--format ckpt or safetensors need none",
        )
    parts = _parts(specs, model.family)
    wholes = list(_hf_specs(specs, parts, model, dtype))
    groups = weight_groups(wholes, [spec.nbytes for spec in wholes], largest_file)
    files = HF_FORMS[form]
    names = files.file_names(len(groups))
    layouts = [files.lay_out(group) for group in groups]
    found = {
        spec.name: (number, spans)
        for number, (group, layout) in enumerate(zip(groups, layouts, strict=True))
        for spec, spans in zip(group, layout.spans, strict=True)
    }
    destinations = tuple(
        Destination(
            spec, target_type(spec.dtype, dtype), *found[part.hf], part.transposed, _fused(spec, part, model)
        )
        for spec, part in zip(specs, parts, strict=True)
    )
    texts = {"config.json": _config(model, wholes), **model.files}
    if len(groups) > 1:
        texts[files.index] = weight_index(groups, names) + b"\n"
    return OutputLayout(tuple(zip(names, layouts, strict=True)), destinations, tuple(texts.items()))


def _parts(specs: Sequence[Spec], family: Family) -> list[HfPart]:
    parts = [family.hf_part(spec.name) for spec in specs]
    for spec, part in zip(specs, parts, strict=True):
        if part is None:
            raise CheckpointError(
                f"{spec.name} has no counterpart in Hugging Face's {family.title}",
                remedy="--format ckpt or safetensors keep any names",
            )
    return [part for part in parts if part is not None]


def _hf_specs(
    specs: Sequence[Spec], parts: Sequence[HfPart], model: HfModel, dtype: str | None
) -> Iterator[Spec]:
    """The tensors of the folder in their order; each must have all its parts, alike in shape and type."""
    held = {spec.name: (spec, part) for spec, part in zip(specs, parts, strict=True)}
    family, layers = model.family, model.number("num_layers")
    for name in family.hf_names(layers):
        missing = [part.ms for part in family.ms_parts(name) if part.ms not in held]
        if missing:
            raise CheckpointError(f"{missing[0]} is missing: {name} cannot be made")
        alike = [held.pop(part.ms) for part in family.ms_parts(name)]
        kinds = {(spec.dims, spec.dtype) for spec, _ in alike}
        if len(kinds) > 1:
            raise CheckpointError(f"{' and '.join(spec.name for spec, _ in alike)} differ in shape or type")
        spec, part = alike[0]
        yield Spec(name, hf_shape(part, spec.dims), target_type(spec.dtype, dtype))
    if held:
        raise CheckpointError(f"{next(iter(held))} is beyond the {layers} layers of the model")


def weight_groups(items: Sequence[T], sizes: Sequence[int], largest: int) -> list[list[T]]:
    """Neighbours in files of at most `largest` bytes; what is larger alone has a file of its own."""
    groups: list[list[T]] = [[]]
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if groups[-1] and total + size > largest:
            groups.append([])
            total = 0
        groups[-1].append(item)
        total += size
    return groups


def _fused(spec: Spec, part: HfPart, model: HfModel) -> Interleaved | None:
    if part.qkv is None:
        return None
    heads = model.number("num_heads")
    qkv_axes(part, spec.dims, heads)
    return Interleaved(heads, part.qkv, part.parts)


def weight_index(groups: Sequence[Sequence[Spec]], names: Sequence[str]) -> bytes:
    """The index that tells in which file each tensor is."""
    weights = {spec.name: name for group, name in zip(groups, names, strict=True) for spec in group}
    total = sum(spec.nbytes for group in groups for spec in group)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weights}, indent=2).encode()


def _config(model: HfModel, specs: Sequence[Spec]) -> bytes:
    """The family's config.json for transformers; sizes of the table are those that are there."""
    table = specs[0]
    sizes = dict(zip(model.family.table.shape, table.dims, strict=True))
    config = model.family.hf.config({**model.config, **sizes}, _TYPES.get(table.dtype, "float32"))
    return json.dumps(config, indent=2).encode() + b"\n"
