"""The network as two MindIR graphs: one reads a whole prompt, one a token; weights and cache are shared.

Two runners read them in the same way: MindSpore's own, which works wherever MindSpore does, and MindSpore
Lite, which is what a server without a training stack has (untested here: it is on no package index).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from mindspore import nn

from model.bloom import BloomLMHeadModel
from model.config import BloomConfig
from model.decoding import CachedNetwork, IdsToLogits
from model.device_name import DeviceName
from model.errors import ModelError

__all__ = ["Graphs", "LiteGraphs", "MindIrReader", "MindSporeGraphs", "export_graphs", "graph_file"]


def graph_file(path: Path) -> Path:
    """The file of a graph that is called `path` in a config: `prefill` is `prefill_graph.mindir`."""
    return path if path.suffix == ".mindir" else path.with_name(f"{path.name}_graph.mindir")


def export_graphs(
    network: BloomLMHeadModel, config: BloomConfig, prefill: Path, increment: Path, batch: int = 1
) -> tuple[Path, Path]:
    """Write the graph for (batch, seq_length) ids and the one for (batch, 1); gives the two files.

    Inputs of both: ids (B, S) int32, starts (B,) int32, the position of the first of them, last (B,) int32,
    which of the S is the last real one. Output: logits (B, V) float32. Files that exist are replaced.
    """
    inner = CachedNetwork(network, config, batch, config.seq_length)
    cached = IdsToLogits(network.transformer.embedding, inner).set_train(False)
    lines = ms.Tensor(np.zeros(batch, np.int32))
    written = []
    for path, length in ((prefill, config.seq_length), (increment, 1)):
        ids = ms.Tensor(np.zeros((batch, length), np.int32))
        path.parent.mkdir(parents=True, exist_ok=True)
        ms.export(cached, ids, lines, lines, file_name=str(path), file_format="MINDIR")
        # MindSpore adds `_graph` by itself where weights of over a gigabyte go into files beside the graph.
        small = path.with_name(f"{path.name}.mindir")
        if small.exists():
            small.replace(graph_file(path))
        written.append(graph_file(path))
    return written[0], written[1]


class Graphs(Protocol):
    """Two loaded graphs; `shape` is (batch, seq_length) of the first."""

    shape: tuple[int, int]

    def prefill(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray: ...

    def increment(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray: ...


class MindSporeGraphs:
    """The graphs in MindSpore's own graph runner."""

    def __init__(self, prefill: Path, increment: Path, shape: tuple[int, int]) -> None:
        self.shape = shape
        first, second = (nn.GraphCell(_load(path)) for path in (prefill, increment))
        held = {item.name: item for item in first.get_parameters()}
        for item in second.get_parameters():
            if item.name not in held or item.shape != held[item.name].shape:
                raise ModelError(f"{item.name} is not that of {prefill.name}", where=str(increment))
            # Not a copy: what the one graph writes into the cache, the other reads.
            item.set_data(held[item.name])
        self._first, self._second = first, second

    def prefill(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        return _run(self._first, ids, starts, last)

    def increment(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        return _run(self._second, ids, starts, last)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(
            "there is no such graph", where=str(path), remedy="write it with `python -m model export`"
        )
    try:
        return ms.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"is no MindIR graph: {str(error).splitlines()[0]}", where=str(path)) from error


def _run(graph: nn.Cell, *inputs: np.ndarray) -> np.ndarray:
    return np.asarray(graph(*(ms.Tensor(value) for value in inputs)).asnumpy())


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
        self._first, self._second = lite.Model(), lite.Model()
        # One copy of weights and cache for both.
        group = lite.ModelGroup(lite.ModelGroupFlag.SHARE_WEIGHT)
        group.add_model([self._first, self._second])
        for model, path in ((self._first, prefill), (self._second, increment)):
            if not path.is_file():
                raise ModelError("there is no such graph", where=str(path))
            options = [str(config_path)] if config_path else []
            model.build_from_file(str(path), lite.ModelType.MINDIR, context, *options)

    def prefill(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        return self._predict(self._first, ids, starts, last)

    def increment(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        return self._predict(self._second, ids, starts, last)

    def _predict(self, model: Any, *inputs: np.ndarray) -> np.ndarray:
        outputs = model.predict([self._lite.Tensor(value) for value in inputs])
        return np.asarray(outputs[0].get_data_to_numpy())


class MindIrReader:
    """Reads prompts and tokens through two graphs, as `CachedReader` does through a network."""

    def __init__(self, graphs: Graphs, pad_token_id: int) -> None:
        self._graphs, self._pad = graphs, pad_token_id
        self.batch, self.capacity = graphs.shape
        self._lengths = np.zeros(self.batch, np.int32)

    def start(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Forget everything and read the texts, one a row; (B, V) logits of the token after each."""
        ids = np.full((self.batch, self.capacity), self._pad, np.int32)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        self._lengths = np.array([len(text) for text in texts], np.int32)
        return self._graphs.prefill(ids, np.zeros_like(self._lengths), self._lengths - 1)

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """One more token of every row; (B, V) logits of the token after it."""
        starts = np.minimum(self._lengths, self.capacity - 1)
        self._lengths = self._lengths + 1
        return self._graphs.increment(np.array(tokens, np.int32)[:, None], starts, np.zeros_like(starts))

    def reorder(self, rows: Sequence[int]) -> None:
        """Beam search needs rows to change places, which a fixed graph cannot do."""
        raise ModelError(
            "beam search does not work on exported graphs", where="num_beams", remedy="set it to 1"
        )
