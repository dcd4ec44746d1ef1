"""Conversion of weights between Hugging Face's files and MindSpore's, without either library.

All names and shapes are compared with the config first; then one plan of copies is made and carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from model.config.hf_config import load_hf_config
from model.config.load_config import config_from, config_text, load_config
from model.errors import ModelError
from model.weights.state_dict import check_names
from orchestrator.checkpoint.companion_files import BesideOutput, SmallFile
from orchestrator.checkpoint.compare import same_bits
from orchestrator.checkpoint.copy_engine import copy_files
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import Copy, CopyPlan, whole_region
from orchestrator.checkpoint.cut.coverage import is_weight
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_types import FLOATS, Spec
from orchestrator.checkpoint.hf_layout import HfModel, lay_out_huggingface
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import find_weights
from orchestrator.checkpoint.output_layout import Format, OutputLayout, lay_out
from orchestrator.checkpoint.shard_index import StoredTensor
from orchestrator.families.family import Family, HfPart, hf_shape, qkv_axes
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import families, family_of_weights, table_again

__all__ = [
    "DTYPES",
    "Converted",
    "Weights",
    "check_weights",
    "convert",
    "convert_weights",
    "infer_config",
    "sort_weights",
]

HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a file or folder; `huggingface` says whose names they have, which are then prefixed."""

    path: Path
    family: Family
    huggingface: bool
    tensors: Mapping[str, StoredTensor]
    head: StoredTensor | None = None  # a head of its own, which must be the embedding again


def sort_weights(path: Path, tensors: Mapping[str, StoredTensor]) -> Weights:
    """Find out whose names these are; ModelError where nobody's.

    Hugging Face's get their prefix, a head is told apart; what is no weight of MindSpore's is left out.
    """
    known = family_of_weights(tensors)
    if known is None:
        few, titles = ", ".join(list(tensors)[:3]), " or ".join(family.title for family in families())
        raise ModelError(
            f"holds no {titles}: no name is Hugging Face's or MindFormers', such as {few}", where=str(path)
        )
    family, huggingface = known
    if not huggingface:
        weights = {name: tensor for name, tensor in tensors.items() if is_weight(name)}
        pair = table_again(weights)
        return Weights(path, family, False, weights, weights.pop(pair[0]) if pair else None)
    prefix = family.hf.prefix
    named = {_prefixed(family, name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise ModelError(f"holds tensors both with {prefix} before their names and without", where=str(path))
    head = None if family.ms_parts(HEAD) else named.pop(prefix + HEAD, None)
    return Weights(path, family, True, named, head)


def _prefixed(family: Family, name: str) -> str:
    """A tensor's whole name; a file of a bare model has no prefixes."""
    parts = family.ms_parts(name)
    return parts[0].hf if parts else family.hf.prefix + name.removeprefix(family.hf.prefix)


def infer_config(weights: Weights, heads: int, hidden: int) -> NetworkConfig:
    """The config that the tensors themselves tell, where only two numbers of it were given."""
    family = weights.family
    parts = [part for name in weights.tensors for part in _parts_of(weights, name)]
    blocks = family.count_blocks(part.ms for part in parts)
    table_part = family.hf_part(family.table.name)
    name = table_part.hf if weights.huggingface and table_part else family.table.name
    table = weights.tensors.get(name)
    if table is None or len(table.spec.dims) != 2 or not blocks:
        raise ModelError("holds no word embeddings or no block", where=str(weights.path))
    values = {
        "family": family.name,
        "hidden_size": hidden,
        "num_heads": heads,
        "num_layers": blocks,
        "vocab_size": table.spec.dims[0],
        "param_init_type": _type_name(table.spec),
        "prompt_template": "none",
    }
    return config_from(values, where=str(weights.path))


def _type_name(spec: Spec) -> str:
    names = {"Float32": "float32", "Float16": "float16", "BFloat16": "bfloat16"}
    return names.get(spec.dtype, "float32")


def _parts_of(weights: Weights, name: str) -> Sequence[HfPart]:
    if weights.huggingface:
        return weights.family.ms_parts(name)
    part = weights.family.hf_part(name)
    return [part] if part else []


def check_weights(weights: Weights, config: NetworkConfig) -> None:
    """Raise ModelError listing every missing, extra and mis-shaped name, and every type that is no float."""
    if config.num_layers > len(weights.tensors):
        raise ModelError(
            f"holds {len(weights.tensors)} tensors and cannot have {config.num_layers} layers",
            where=str(weights.path),
        )
    if config.family is not weights.family:
        what = f"holds the weights of a {weights.family.title}, but the config is of a {config.family.title}"
        raise ModelError(what, where=str(weights.path))
    shapes = config.shapes()
    if weights.huggingface:
        parts = [part for name in shapes if (part := config.family.hf_part(name))]
        shapes = {part.hf: hf_shape(part, shapes[part.ms]) for part in parts}
    stored = {name: tensor.spec.dims for name, tensor in weights.tensors.items()}
    remedy = (
        f"the config says {config.num_layers} layers, hidden size {config.hidden_size}, "
        f"vocabulary {config.vocab_size}"
    )
    check_names(shapes, stored, weights.path, remedy)
    odd = [
        f"{name} {tensor.spec.dtype}"
        for name, tensor in weights.tensors.items()
        if tensor.spec.dtype not in FLOATS
    ]
    if odd:
        raise ModelError(f"{len(odd)} tensors are no floats: {', '.join(odd[:5])}", where=str(weights.path))


# What a person may ask for -> MindSpore's name.
DTYPES = {"float32": "Float32", "float16": "Float16", "bfloat16": "BFloat16"}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written; `notes` are for people."""

    path: Path
    huggingface: bool
    tensors: int
    notes: tuple[str, ...] = ()


def convert(
    source: Path,
    target: Path,
    *,
    dtype: str | None = None,
    form: str | None = None,
    config: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    flush: bool = True,
) -> Converted:
    """Convert a file or folder into the other library's names and form; whose it is, its names tell.

    Hugging Face's becomes one `.ckpt` or `.safetensors`, with config.yaml and tokenizer.json beside it (in
    the folder `target` if that name has no suffix); MindSpore's becomes a new folder, whose weights have the
    `form` safetensors (where it is None) or bin, PyTorch's own. `dtype` is a key of DTYPES, or None for the
    types that are there. `config` is a config.json, a yaml or a preset, where none
    lies beside the weights. Raises ModelError or CheckpointError; the target appears whole or not at all.
    """
    weights = sort_weights(source, find_weights(source))
    known = _config(weights, config)
    return convert_weights(weights, target, known, dtype=dtype, form=form, progress=progress, flush=flush)


def convert_weights(
    weights: Weights,
    target: Path,
    config: NetworkConfig,
    *,
    dtype: str | None = None,
    form: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    flush: bool = True,
) -> Converted:
    """`convert` where the weights are found already and their config is known."""
    check_weights(weights, config)
    _check_head(weights)
    if dtype is not None:
        config = replace(config, param_init_type=dtype, embedding_init_type=dtype, compute_dtype=dtype)
    wanted = DTYPES[dtype] if dtype is not None else None
    copy = _Copy(weights, config, CopyOptions(durable=flush), Report(progress) if progress else Report())
    if not weights.huggingface:
        return _to_huggingface(copy, target, wanted, form or "safetensors")
    if form is not None:
        raise ModelError(
            f"{form} is a form of Hugging Face's weights, and these become MindSpore's",
            where="--format",
            remedy="end the target's name with .ckpt or .safetensors",
        )
    return _to_mindspore(copy, target, wanted)


@dataclass(frozen=True, slots=True)
class _Copy:
    """What is converted, and how."""

    weights: Weights
    config: NetworkConfig
    options: CopyOptions
    report: Report

    @property
    def parts(self) -> list[HfPart]:
        """Every weight of MindSpore's, in the order of Hugging Face's files."""
        family = self.config.family
        return [part for name in family.hf_names(self.config.num_layers) for part in family.ms_parts(name)]

    def carry_out(self, target: Path, layout: OutputLayout, stored: Sequence[StoredTensor]) -> None:
        """Fill each destination from the stored tensor of its number: from all of it, or from its part."""
        copies = [
            Copy(number, whole_region(destination.source), 0, "", tensor.path, tensor, _region(tensor, part))
            for number, (destination, tensor, part) in enumerate(
                zip(layout.destinations, stored, self.parts, strict=True)
            )
        ]
        copy_files(CopyPlan((), tuple(copies), ()), target, layout, self.options, self.report)


def _region(tensor: StoredTensor, part: HfPart) -> Region:
    """What of a stored tensor a weight is; one that is fused has been given the axes (heads, parts, …)."""
    every = whole_region(tensor.spec)
    if part.qkv is None or tensor.spec.name != part.hf:
        return every
    return (every[0], (part.qkv, part.qkv + 1), *every[2:])


def _home(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _config(weights: Weights, given: Path | None) -> NetworkConfig:
    home = _home(weights.path)
    path = given or home / ("config.json" if weights.huggingface else "config.yaml")
    if given is None and not path.is_file():
        raise ModelError(
            f"there is no {path.name} beside the weights",
            where=str(weights.path),
            remedy="name it with --config",
        )
    return load_hf_config(path) if path.suffix == ".json" else load_config(path if path.suffix else str(path))


def _to_mindspore(copy: _Copy, target: Path, dtype: str | None) -> Converted:
    weights, config = copy.weights, copy.config
    path = target if target.suffix and not target.is_dir() else target / "model.ckpt"
    if path.suffix not in (".ckpt", ".safetensors"):
        raise ModelError(
            f"Hugging Face's weights become a .ckpt or .safetensors file, not {path.suffix}",
            where=str(target),
        )
    specs, stored = [], []
    for part in copy.parts:
        tensor = weights.tensors[part.hf]
        spec = replace(tensor.spec, name=part.ms)
        if part.qkv is not None:
            spec = replace(spec, dims=(spec.dims[0] // part.parts, *spec.dims[1:]))
            axes = qkv_axes(part, spec.dims, config.num_heads)
            tensor = replace(tensor, spec=replace(tensor.spec, name=part.hf, dims=axes))
        specs.append(spec)
        stored.append(tensor)
    transposed = {part.ms for part in copy.parts if part.transposed}
    form: Format = "ckpt" if path.suffix == ".ckpt" else "safetensors"
    files = {"config.yaml": config_text(config).encode(), **_tokenizer(weights.path)}
    beside = BesideOutput(path, {name: SmallFile.of(data) for name, data in files.items()})
    earlier = beside.require_free()  # another model's are named before a byte is moved
    copy.carry_out(path, lay_out([specs], form, dtype=dtype, transposed=transposed), stored)
    beside.put(earlier)
    return Converted(path, False, len(specs))


def _to_huggingface(copy: _Copy, target: Path, dtype: str | None, form: str) -> Converted:
    weights, config, family = copy.weights, copy.config, copy.config.family
    for field, only in family.hf.only.items():
        if getattr(config, field) != only:
            what = f"{field} is {getattr(config, field)}; Hugging Face's {family.title} knows only {only}"
            raise ModelError(what)
    stored = [weights.tensors[part.ms] for part in copy.parts]
    model = HfModel({"family": family.name, **asdict(config)}, _tokenizer(weights.path))
    copy.carry_out(
        target, lay_out_huggingface([tensor.spec for tensor in stored], model, dtype, form=form), stored
    )
    again = [f"{weights.head.spec.name} is the embedding again and is left out"] if weights.head else []
    notes = tuple(
        f"{field} is {getattr(config, field)}; Hugging Face's {family.title} computes {only}, a little"
        " differently"
        for field, only in family.hf.nearly.items()
        if getattr(config, field) != only
    )
    return Converted(target, True, len(family.hf_names(config.num_layers)), (*again, *notes))


def _check_head(weights: Weights) -> None:
    family = weights.family
    table_name = family.hf_names(1)[0] if weights.huggingface else family.table.name
    head, table = weights.head, weights.tensors.get(table_name)
    if head is None or table is None or (head.path, head.spans) == (table.path, table.spans):
        return
    is_alike = (head.spec.dims, head.spec.dtype) == (table.spec.dims, table.spec.dtype)
    with MappedFiles() as files:
        if is_alike and same_bits(files, head.path, head, table.path, table):
            return
    raise ModelError(
        f"{head.spec.name} is not the embedding again, but this network's head is its embedding",
        where=str(weights.path),
    )


def _tokenizer(source: Path) -> dict[str, bytes]:
    home = _home(source)
    return {name: (home / name).read_bytes() for name in _TOKENIZER if (home / name).is_file()}
