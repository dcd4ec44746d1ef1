"""Answers from exported graphs: greedily, token by token, on MindSpore Lite or on MindSpore itself."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from model.config import BloomConfig, load_config
from model.device_name import DeviceName
from model.errors import ModelError
from model.mindir import Graphs, LiteGraphs, MindIrReader, MindSporeGraphs
from model.session import open_alone
from model.templates import wrap
from model.tokenizer import Tokenizer, load_tokenizer

__all__ = ["GraphAnswers", "open_graphs"]


class GraphAnswers:
    """Two loaded graphs and what belongs to them."""

    def __init__(self, graphs: Graphs, config: BloomConfig, tokenizer: Tokenizer) -> None:
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
        rows = self._reader.batch
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
        answer = self.tokenizer.decode(self.tokens(self.tokenizer.encode(text), max_new_tokens, token_took))
        return answer.strip() if in_template else prompt + answer


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
