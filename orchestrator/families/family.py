"""The table of a family: its parameters, what they are called and how they are cut, and its presets.

Everything that differs between families and is no computation is a row or a field here; sizing, checkpoints,
conversions, jobs and the workers read it. How to add one: docs/how-to-add-a-family.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

from orchestrator.core.errors import CheckpointError

__all__ = ["Family", "HfFormat", "HfPart", "Stage", "Weight", "hf_shape", "qkv_axes"]


Stage: TypeAlias = Literal["block", "first", "last", "both"]


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter. That of a block stands once, under its name within the block; others under whole names.

    `hf` is its name in Hugging Face's files, `shape` names the fields (or properties) of the configuration
    that give its axes, `type` the field that gives its number type. `axis`: what model_parallel cuts, None
    where every rank has all of it. `qkv`: which part of the tensor `hf` it is, where several parameters are
    one tensor there, whose rows alternate head by head. `transposed`: the axes are swapped there. `stage`:
    the pipeline stages that hold it, `block` those of its block.
    """

    name: str
    hf: str
    shape: tuple[str, ...]
    axis: int | None = None
    qkv: int | None = None
    transposed: bool = False
    type: str = "param_init_type"
    stage: Stage = "block"

    @property
    def has_padding(self) -> bool:
        """Whether it is cut by the vocabulary, which model_parallel need not divide."""
        return self.axis is not None and self.shape[self.axis] == "vocab_size"


@dataclass(frozen=True, slots=True)
class HfPart:
    """What a parameter `ms` is of the Hugging Face tensor `hf` (both with their prefix).

    Of the `parts` that alternate there head by head it is number `qkv`; None where it is the whole tensor.
    """

    ms: str
    hf: str
    qkv: int | None = None
    transposed: bool = False
    parts: int = 1


@dataclass(frozen=True, slots=True)
class HfFormat:
    """How Hugging Face's transformers writes the family: config.json, and the prefix of its tensors.

    `fields`: our field -> the keys of config.json that it may have, the first of them is written.
    `fixed`: keys of which the network can only be this value. `only`: our fields of which the format can
    only be this value. `nearly`: the same, where the computation differs a little. `problems` says what else
    in a config.json the network cannot be.
    """

    model_type: str
    architecture: str
    fields: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    nearly: Mapping[str, Any] = field(default_factory=dict)
    problems: Callable[[Mapping[str, Any]], Iterable[str]] = lambda table: ()
    prefix: str = "transformer."
    blocks: str = "h"

    def fields_in(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Our fields that a config.json has, by the first of their keys with a value."""
        found = {
            ours: next((table[key] for key in keys if table.get(key) is not None), None)
            for ours, keys in self.fields.items()
        }
        return {ours: value for ours, value in found.items() if value is not None}

    def config(self, values: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        """The config.json of a network with these fields, weights of `dtype`."""
        known = {keys[0]: values[ours] for ours, keys in self.fields.items() if ours in values}
        names = {"architectures": [self.architecture], "model_type": self.model_type}
        return {**names, **known, **self.fixed, "use_cache": True, "torch_dtype": dtype}


@dataclass(frozen=True, eq=False)
class Family:
    """One family of networks.

    `title` is for messages. A block's parameters are `<prefix><blocks>.<number>.<name>`; `other_prefixes` are
    those that files may have in its place. `table_again` is a second name of the word embedding: what a file
    has under it must be equal. `presets` give the fields of published sizes, `hub` the repository that one of
    MindFormers' names stands for. `mindformers` is the type of the configuration in MindFormers' run YAML.
    """

    name: str
    title: str
    mindformers: str
    weights: tuple[Weight, ...] = field(repr=False)
    hf: HfFormat = field(repr=False)
    presets: Mapping[str, Mapping[str, Any]] = field(repr=False)
    hub: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str = ""
    blocks: str = "blocks"
    other_prefixes: tuple[str, ...] = ()
    table_again: str = ""

    @cached_property
    def _rows(self) -> dict[tuple[bool, str], Weight]:
        """By whether they are in a block, and by name."""
        return {(row.stage == "block", row.name.removeprefix(self.prefix)): row for row in self.weights}

    @cached_property
    def _hf_rows(self) -> dict[tuple[bool, str], list[Weight]]:
        found: dict[tuple[bool, str], list[Weight]] = {}
        for row in self.weights:
            found.setdefault((row.stage == "block", row.hf.removeprefix(self.hf.prefix)), []).append(row)
        return found

    @cached_property
    def is_tied(self) -> bool:
        """Whether the first and the last stage of a pipeline hold one parameter together."""
        return any(row.stage == "both" for row in self.weights)

    @cached_property
    def table(self) -> Weight:
        """The word embedding, (vocabulary, hidden size)."""
        return next(row for row in self.weights if row.shape == ("vocab_size", "hidden_size"))

    def find(self, name: str) -> tuple[Weight, int | None] | None:
        """The row of a parameter, with any prefix or none, and its block's number; None: no such one."""
        inner, block = _split(name, (self.prefix, *self.other_prefixes), self.blocks)
        row = self._rows.get((block is not None, inner))
        return None if row is None else (row, block)

    def name_of(self, row: Weight, block: int | None = None) -> str:
        """The whole name of a row's parameter, in the block of this number where it is in one."""
        return row.name if row.stage != "block" else f"{self.prefix}{self.blocks}.{block}.{row.name}"

    def own_name(self, name: str) -> str | None:
        """What a parameter, or the table again, is called here, whatever its prefix; None: no such one."""
        found = self.find(name)
        if found is not None:
            return self.name_of(*found)
        bare = _without(name, (self.prefix, *self.other_prefixes))
        return self.table_again if bare == self.table_again and bare else None

    def name_of_cell(self, path: str, first_block: int) -> str:
        """The whole name of a parameter that a network of `model/` has at `path`.

        There, all is `transformer.` and blocks are `transformer.blocks`; a stage counts its own from 0.
        """
        inner, block = _split(path, ("transformer.",), "blocks")
        if block is not None:
            return f"{self.prefix}{self.blocks}.{block + first_block}.{inner}"
        return self.prefix + inner if path.startswith("transformer.") else path

    def count_blocks(self, names: Iterable[str]) -> int:
        """The number of blocks of a network with these parameters."""
        found = (self.find(name) for name in names)
        return max((row[1] + 1 for row in found if row and row[1] is not None), default=0)

    def hf_part(self, ms_name: str) -> HfPart | None:
        """The Hugging Face side of a parameter; None where it has none."""
        found = self.find(ms_name)
        return None if found is None else self._part(self.name_of(*found), *found)

    def ms_parts(self, hf_name: str) -> tuple[HfPart, ...]:
        """The parameters that a Hugging Face tensor holds; its prefix may be missing. () where none."""
        inner, block = _split(hf_name, (self.hf.prefix,), self.hf.blocks)
        rows = self._hf_rows.get((block is not None, inner), ())
        return tuple(self._part(self.name_of(row, block), row, block) for row in rows)

    def _part(self, ms_name: str, row: Weight, block: int | None) -> HfPart:
        inside = row.stage == "block"
        hf = f"{self.hf.prefix}{self.hf.blocks}.{block}.{row.hf}" if inside else row.hf
        parts = len(self._hf_rows[inside, row.hf.removeprefix(self.hf.prefix)])
        return HfPart(ms_name, hf, row.qkv, row.transposed, parts)

    def names(self, num_layers: int) -> list[str]:
        """Every parameter of a network with so many blocks: what is before the blocks, blocks, the rest."""
        before = [row.name for row in self.weights if row.stage in ("first", "both")]
        block = [row for row in self.weights if row.stage == "block"]
        inside = (self.name_of(row, number) for number in range(num_layers) for row in block)
        return [*before, *inside, *(row.name for row in self.weights if row.stage == "last")]

    def hf_names(self, num_layers: int) -> list[str]:
        """Every tensor of such a network in the order in which transformers saves them."""
        parts = (self.hf_part(name) for name in self.names(num_layers))
        return list(dict.fromkeys(part.hf for part in parts if part is not None))


@cache
def _block_pattern(blocks: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(blocks)}\.(\d{{1,9}})\.(.+)", re.ASCII)


def _without(name: str, prefixes: Sequence[str]) -> str:
    """The name without the first of these prefixes that it has."""
    return next((name[len(prefix) :] for prefix in prefixes if prefix and name.startswith(prefix)), name)


def _split(name: str, prefixes: Sequence[str], blocks: str) -> tuple[str, int | None]:
    """A name without its prefix, or within its block with the block's number."""
    inner = _without(name, prefixes)
    match = _block_pattern(blocks).fullmatch(inner)
    return (match[2], int(match[1])) if match else (inner, None)


def hf_shape(part: HfPart, dims: Sequence[int]) -> tuple[int, ...]:
    """The shape of `part.hf`, of which a parameter of shape `dims` is the part."""
    if part.parts > 1:
        return (dims[0] * part.parts, *dims[1:])
    return tuple(reversed(dims)) if part.transposed else tuple(dims)


def qkv_axes(part: HfPart, dims: Sequence[int], heads: int) -> tuple[int, ...]:
    """The axes (heads, parts, head size, …) of a tensor whose parts alternate; each has shape `dims`.

    At index `part.qkv` of the second axis lies what the parameter holds as (heads, head size, …).
    CheckpointError where the rows cannot be dealt out over so many heads.
    """
    if heads < 1 or dims[0] % heads:
        raise CheckpointError(f"{dims[0]} rows cannot be dealt out over {heads} heads")
    return (heads, part.parts, dims[0] // heads, *dims[1:])
