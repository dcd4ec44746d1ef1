"""A whole checkpoint as two MindIR graphs, with what is needed to ask them beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from model.answering import config_of, open_model
from model.config import BloomConfig, config_text
from model.device_name import DeviceName
from model.errors import ModelError
from model.mindir import export_graphs
from model.tables import read_table

__all__ = ["Paths", "export", "read_infer_yaml"]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the two graphs go, without the `_graph.mindir` that is added."""

    prefill: Path
    increment: Path


def export(
    checkpoint: Path,
    config_file: Path | None = None,
    tokenizer_file: Path | None = None,
    folder: Path = Path("mindirs"),
    batch: int = 1,
    device: DeviceName | None = None,
) -> tuple[Path, Path]:
    """Write both graphs, and config.yaml and tokenizer.json beside the first; gives the graphs' files.

    They are built on, and for, `device`, or the one that MindSpore is set to.

    `config_file` is a model's config.yaml, or a YAML of MindFormers with `model.model_config` and an `infer`
    block that names the graphs. Raises ModelError.
    """
    if batch < 1:
        raise ModelError(f"must be at least 1, not {batch}", where="--batch-size")
    table = read_table(config_file) if config_file else {}
    if config_file and "model" in table:
        config, paths = read_infer_yaml(table, str(config_file))
    else:
        config = config_of(checkpoint, config_file)
        size = f"seq{config.seq_length}_bs{batch}"
        paths = Paths(folder / f"prefill_{size}", folder / f"decode_{size}")
    config = replace(config, batch_size=batch)
    model = open_model(checkpoint, tokenizer_file=tokenizer_file, config=config, device=device)
    network = model.generator.network
    written = export_graphs(network, config, paths.prefill, paths.increment, batch)
    home = written[0].parent
    (home / "config.yaml").write_text(config_text(config), encoding="utf-8")
    shutil.copyfile(tokenizer_file or checkpoint.parent / "tokenizer.json", home / "tokenizer.json")
    return written


def read_infer_yaml(table: Mapping[str, Any], where: str) -> tuple[BloomConfig, Paths]:
    """The network and the graphs of a YAML as MindFormers' page for Bloom has it.

    Keys of `model_config` that are no size or type of the network are left out. Raises ModelError.
    """
    written = _section(_section(table, "model", where), "model_config", f"{where}: model")
    infer = _section(table, "infer", where)
    kind = infer.get("model_type", "mindir")
    if kind != "mindir":
        raise ModelError(f"is {kind!r}", where=f"{where}: infer.model_type", remedy="only mindir is written")
    known = {item.name for item in fields(BloomConfig)}
    values = {key: value for key, value in written.items() if key in known}
    if infer.get("infer_seq_length") is not None:
        values["seq_length"] = infer["infer_seq_length"]
    config = BloomConfig.from_table(values, where=f"{where}: model.model_config")
    names = ("prefill_model_path", "increment_model_path")
    for name in names:
        if not isinstance(infer.get(name), str) or not infer[name]:
            raise ModelError("is missing", where=f"{where}: infer.{name}", remedy="name the graph's file")
    return config, Paths(*(Path(infer[name]) for name in names))


def _section(table: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = table.get(name)
    if not isinstance(found, Mapping):
        raise ModelError("is missing", where=f"{where}: {name}", remedy="it is a section of keys and values")
    return found
