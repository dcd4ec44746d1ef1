"""MindIR: a checkpoint exported as two graphs, of a prompt and of single tokens, and answers from them.

The two share weights and cache. Two runners read them in the same way: MindSpore's own, which works wherever
MindSpore does, and MindSpore Lite, which is what a server without a training stack has (untested here: it is
on no package index).
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from model.config.load_config import config_from, config_text, load_config
from model.config.prompt_templates import wrap
from model.config.yaml_table import read_table
from model.data.tokenizer import Tokenizer, load_tokenizer
from model.devices.device_name import DeviceName
from model.errors import ModelError
from model.inference.cached_attention import IdsToLogits, IncrementalReader, cached_network
from model.inference.load_model import config_of, open_model
from model.parallel.distributed import open_alone
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import FamilyError, mindformers_class

__all__ = [
    "GraphAnswers",
    "Graphs",
    "LiteGraphs",
    "MindIrReader",
    "MindSporeGraphs",
    "Paths",
    "export",
    "export_graphs",
    "graph_file",
    "open_graphs",
    "read_infer_yaml",
]


def graph_file(path: Path) -> Path:
    """The file of a graph that is called `path` in a config: `prefill` is `prefill_graph.mindir`."""
    return path if path.suffix == ".mindir" else path.with_name(f"{path.name}_graph.mindir")


def export_graphs(
    network: nn.Cell, config: NetworkConfig, prefill: Path, increment: Path, batch: int = 1
) -> tuple[Path, Path]:
    """Write the graph for (batch, seq_length) ids and the one for (batch, 1); gives the two files.

    Inputs of both: ids (B, S) int32, starts (B,) int32, the position of the first of them, last (B,) int32,
    which of the S is the last real one. Output: logits (B, V) float32. Files that exist are replaced.
    """
    inner = cached_network(network, config, batch, config.seq_length)
    cached = IdsToLogits(network.transformer.embedding, inner).set_train(False)
    lines = Tensor(np.zeros(batch, np.int32))
    written = []
    for path, length in ((prefill, config.seq_length), (increment, 1)):
        ids = Tensor(np.zeros((batch, length), np.int32))
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.export(cached, ids, lines, lines, file_name=str(path), file_format="MINDIR")
        # MindSpore adds `_graph` by itself where weights of over a gigabyte go into files beside the graph.
        small = path.with_name(f"{path.name}.mindir")
        if small.exists():
            small.replace(graph_file(path))
        written.append(graph_file(path))
    return written[0], written[1]


class Graphs(Protocol):
    """Two loaded graphs; `shape` is (batch, seq_length) of the first, the second takes one id a row."""

    shape: tuple[int, int]

    def run(self, ids: NDArray[Any], starts: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]: ...


class MindSporeGraphs:
    """The graphs in MindSpore's own graph runner."""

    def __init__(self, prefill: Path, increment: Path, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._graphs = first, second = nn.GraphCell(_load(prefill)), nn.GraphCell(_load(increment))
        held = {item.name: item for item in first.get_parameters()}
        for item in second.get_parameters():
            if item.name not in held or item.shape != held[item.name].shape:
                raise ModelError(f"{item.name} is not that of {prefill.name}", where=str(increment))
            # Not a copy: what the one graph writes into the cache, the other reads.
            item.set_data(held[item.name])

    def run(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        graph = self._graphs[inputs[0].shape[1] == 1]
        return np.asarray(graph(*(Tensor(value) for value in inputs)).asnumpy())


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(
            "there is no such graph", where=str(path), remedy="write it with `python -m model export`"
        )
    try:
        return ms.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"is no MindIR graph: {str(error).splitlines()[0]}", where=str(path)) from error


class LiteGraphs:
    """The graphs in MindSpore Lite; `lite` is the module."""

    def __init__(
        self,
        lite: Any,
        prefill: Path,
        increment: Path,
        shape: tuple[int, int],
        *,
        device: DeviceName,
        config_path: Path | None = None,
    ) -> None:
        self.shape = shape
        self._lite = lite
        context = lite.Context()
        context.target = [device.target.lower()]
        if device.target == "Ascend":
            context.ascend.device_id = device.index
        self._models = lite.Model(), lite.Model()
        # One copy of weights and cache for both.
        group = lite.ModelGroup(lite.ModelGroupFlag.SHARE_WEIGHT)
        group.add_model(list(self._models))
        for model, path in zip(self._models, (prefill, increment), strict=True):
            if not path.is_file():
                raise ModelError("there is no such graph", where=str(path))
            options = [str(config_path)] if config_path else []
            model.build_from_file(str(path), lite.ModelType.MINDIR, context, *options)

    def run(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        model = self._models[inputs[0].shape[1] == 1]
        outputs = model.predict([self._lite.Tensor(value) for value in inputs])
        return np.asarray(outputs[0].get_data_to_numpy())


class MindIrReader(IncrementalReader):
    """A reader through two graphs, as `CachedReader` is one through a network; it cannot change rows."""

    def __init__(self, graphs: Graphs, pad_token_id: int) -> None:
        super().__init__(*graphs.shape, pad_token_id)
        self._graphs = graphs

    def _read(self, ids: NDArray[Any], starts: NDArray[Any], last: NDArray[Any]) -> NDArray[Any]:
        return self._graphs.run(ids, starts, last)


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


def read_infer_yaml(table: Mapping[str, Any], where: str) -> tuple[NetworkConfig, Paths]:
    """The network and the graphs of a YAML as MindFormers' page for Bloom has it.

    Keys of `model_config` that are no size or type of the network are ignored. Raises ModelError.
    """
    written = _section(_section(table, "model", where), "model_config", f"{where}: model")
    infer = _section(table, "infer", where)
    kind = infer.get("model_type", "mindir")
    if kind != "mindir":
        raise ModelError(f"is {kind!r}", where=f"{where}: infer.model_type", remedy="only mindir is written")
    try:
        cls = mindformers_class(written.get("type"))
    except FamilyError as error:
        raise ModelError(str(error), where=f"{where}: model.model_config.type") from None
    values = {key: value for key, value in written.items() if key in cls.defaults()}
    values["family"] = cls.family.name
    if infer.get("infer_seq_length") is not None:
        values["seq_length"] = infer["infer_seq_length"]
    config = config_from(values, where=f"{where}: model.model_config")
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


class GraphAnswers:
    """Two loaded graphs and what belongs to them."""

    def __init__(self, graphs: Graphs, config: NetworkConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._reader = MindIrReader(graphs, config.pad_token_id)

    def tokens(
        self, prompt: list[int], max_new_tokens: int, token_took: Callable[[float], None] = lambda _: None
    ) -> list[int]:
        """The likeliest tokens after the prompt, up to and without eos; `token_took` gets each one's seconds.

        Raises ModelError: a prompt that the graphs cannot hold.
        """
        room = self._reader.capacity
        if not 0 < len(prompt) < room:
            what = f"a prompt of {len(prompt)} tokens does not go into graphs of {room}"
            raise ModelError(what, where="prompt", remedy="shorten it, or export with a longer seq_length")
        rows = self._reader.rows
        started = time.monotonic()
        logits = self._reader.start([prompt] * rows)
        new: list[int] = []
        while True:
            token = int(logits[0].argmax())
            token_took(time.monotonic() - started)
            if token == self.config.eos_token_id:
                return new
            new.append(token)
            if len(new) >= max_new_tokens or len(prompt) + len(new) >= room:
                return new
            started = time.monotonic()
            logits = self._reader.read([token] * rows)

    def answer(
        self,
        prompt: str,
        max_new_tokens: int,
        *,
        in_template: bool = False,
        token_took: Callable[[float], None] = lambda _: None,
    ) -> str:
        """The prompt with its answer, as MindFormers prints it; in a template only the answer."""
        template = self.config.prompt_template
        text = wrap(prompt, template=template) if in_template else prompt
        new = self.tokens(self.tokenizer.encode(text), max_new_tokens, token_took)
        answer = str(self.tokenizer.decode(new))
        return answer if in_template else prompt + answer


def open_graphs(
    prefill: Path,
    increment: Path,
    *,
    seq_length: int | None = None,
    tokenizer_file: Path | None = None,
    device_id: int = 0,
    context_file: Path | None = None,
    sample_acceleration: bool = False,
    device: DeviceName | None = None,
) -> GraphAnswers:
    """Load the graphs and the two files that `export` puts beside them. Raises ModelError.

    MindSpore Lite, where it is installed, takes `device`, or else the NPU `device_id`; MindSpore takes
    `device`, or else the one that it is set to.
    """
    if sample_acceleration:
        what = "the graphs give logits; there is no graph for sampling"
        raise ModelError(what, where="--is_sample_acceleration", remedy="leave it False")
    home = prefill.parent
    if not (home / "config.yaml").is_file():
        raise ModelError(
            "there is no config.yaml beside the graphs", where=str(home), remedy="export them again"
        )
    config = load_config(home / "config.yaml")
    if seq_length not in (None, config.seq_length):
        what = f"is {seq_length}, but the graphs hold {config.seq_length}"
        raise ModelError(what, where="--seq_length", remedy="leave it out, or export again")
    tokenizer = load_tokenizer(tokenizer_file or home / "tokenizer.json", config)
    shape = (config.batch_size or 1, config.seq_length)
    if importlib.util.find_spec("mindspore_lite"):
        # Late: only where it is installed.
        import mindspore_lite

        graphs: Graphs = LiteGraphs(
            mindspore_lite,
            prefill,
            increment,
            shape,
            device=device or DeviceName("Ascend", device_id),
            config_path=context_file,
        )
    else:
        open_alone(device)
        graphs = MindSporeGraphs(prefill, increment, shape)
    return GraphAnswers(graphs, config, tokenizer)
