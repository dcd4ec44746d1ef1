"""Bloom in MindSpore against Hugging Face's transformers on PyTorch: decoding, prefill, training step.

    python bench/bloom.py [--sizes small 560m] [--what decode prefill train] [--runs 5] [--json]

Needs the extra `[bench]`. Both libraries have a process of their own with the same random float32 weights and
as many threads; they take turns, so that what else the machine does meets both. Compilation and the first
calls are not counted: in those MindSpore's kernels try out how many threads serve them best. Both are checked
to give the same tokens and the same loss.

decode   tokens/s of a greedy answer of 32 tokens to a prompt of 16, prefill included
prefill  a prompt of 128 tokens up to the logits of the next one, keys and values kept
train    a step on 2 x 128 tokens: loss, gradients, clipping by norm, AdamW
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Goal, Table, print_json  # noqa: E402

SIZES = {"small": (8, 512, 8), "560m": (24, 1024, 16)}  # layers, hidden size, heads
VOCABULARY = 32000
MEASURES = ("decode", "prefill", "train")
GOALS = {"decode": 1.2, "prefill": 1.0, "train": 1.0}
LIBRARIES = ("mindspore", "transformers")
NEW = 32
RATE, CLIP = 1e-5, 1.0
WARM = 5  # calls before those that are counted


def weights(layers: int, hidden: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names without a prefix, in the shapes that transformers keeps; the same on both sides."""
    random = np.random.default_rng(0)
    shapes = {"word_embeddings.weight": (VOCABULARY, hidden), "ln_f": (hidden,)}
    shapes["word_embeddings_layernorm"] = (hidden,)
    for layer in range(layers):
        shapes |= {f"h.{layer}.input_layernorm": (hidden,), f"h.{layer}.post_attention_layernorm": (hidden,)}
        for part in ("q", "k", "v", "dense"):
            shapes[f"h.{layer}.self_attention.{part}"] = (hidden, hidden)
        shapes[f"h.{layer}.mlp.dense_h_to_4h"] = (4 * hidden, hidden)
        shapes[f"h.{layer}.mlp.dense_4h_to_h"] = (hidden, 4 * hidden)
    for name, shape in shapes.items():
        if len(shape) == 2:
            yield name, random.standard_normal(shape, dtype=np.float32) * np.float32(0.05)


def tokens(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(4, VOCABULARY, shape).astype(np.int64)


def serve_mindspore(layers: int, hidden: int, heads: int, what: str) -> dict[str, Callable[[], Any]]:
    import mindspore as ms

    from model.config.load_config import load_config
    from model.data.dataset import Batch
    from model.inference.generate import Generator
    from model.inference.sampling import Sampling
    from model.network.build import build
    from model.parallel.mesh import Groups, Place, Strategy
    from model.training.gradients import ReduceGradients
    from model.training.optimizer import AdamW
    from model.training.step import TrainStep, WholeBatch

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_recursion_limit(100_000)
    shape = {"num_layers": layers, "hidden_size": hidden, "num_heads": heads, "vocab_size": VOCABULARY}
    config = load_config("tiny", {**shape, "seq_length": 256, "hidden_act": "gelu"})
    network = build(config)
    own = {item.name: item for item in network.get_parameters()}
    names = {"q": "dense1", "k": "dense2", "v": "dense3", "dense": "projection"}
    for name, array in weights(layers, hidden):
        if name == "word_embeddings.weight":
            target = "embedding.word_embedding.embedding_table"
        else:
            _, layer, group, part = name.split(".")
            inner = f"attention.{names[part]}" if group == "self_attention" else "output.mapping"
            inner = "output.projection" if part == "dense_4h_to_h" else inner
            target = f"blocks.{layer}.{inner}.weight"
            array = array.T.copy() if inner.endswith(("mapping", "projection")) else array
        own[target].set_data(ms.Tensor(array))
    if what == "train":
        ids = tokens(3, 2, 129).astype(np.int32)
        batch = Batch(ids[:, :-1], ids[:, 1:], np.full((2, 128), 1 / 256, np.float32))
        optimizer = AdamW(list(network.trainable_params()), weight_decay=0.01, beta2=0.999)
        alone = (Strategy(), Place(0, 0, 0, 0), Groups())
        source = WholeBatch(network, optimizer.parameters, ReduceGradients(optimizer.parameters, *alone))
        step = TrainStep(source, optimizer, clip=CLIP)
        return {"train": lambda: [round(step(batch, RATE).loss, 2)]}
    generator = Generator(network, config)
    prompt, long = tokens(1, 16).tolist(), tokens(2, 128).tolist()
    reader = generator._reader_for(1, 16 + NEW if what == "decode" else 160)
    return {
        "decode": lambda: generator.generate([prompt], Sampling(NEW))[0],
        "prefill": lambda: [int(reader.start([long])[0].argmax())],
    }


def serve_transformers(layers: int, hidden: int, heads: int, what: str) -> dict[str, Callable[[], Any]]:
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shape = {"n_layer": layers, "hidden_size": hidden, "n_head": heads, "vocab_size": VOCABULARY}
    model = BloomForCausalLM(BloomConfig(**shape, hidden_dropout=0.0, attention_dropout=0.0)).eval()
    own = dict(model.named_parameters())
    fused: dict[str, dict[str, np.ndarray]] = {}
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        for name, array in weights(layers, hidden):
            stem, _, part = name.rpartition(".")
            if part in ("q", "k", "v"):
                fused.setdefault(stem, {})[part] = array.reshape(heads, 1, -1, hidden)
            else:
                full = name if name.endswith(".weight") else f"{name}.weight"
                own[f"transformer.{full}"].copy_(torch.from_numpy(array))
        for stem, parts in fused.items():
            joined = np.concatenate([parts["q"], parts["k"], parts["v"]], 1).reshape(-1, hidden)
            own[f"transformer.{stem}.query_key_value.weight"].copy_(torch.from_numpy(joined))
    if what == "train":
        ids = torch.from_numpy(tokens(3, 2, 129))
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
        model.train()

        def step() -> list[float]:
            optimizer.zero_grad()
            logits = model(ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            return [round(loss.item(), 2)]

        return {"train": step}
    prompt, long = torch.from_numpy(tokens(1, 1, 16)), torch.from_numpy(tokens(2, 1, 128))
    options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": 2, "pad_token_id": 3}

    def decode() -> list[int]:
        return model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 16:].tolist()

    def prefill() -> list[int]:
        return [int(model(long, use_cache=True, logits_to_keep=1).logits[0, -1].argmax())]

    return {"decode": torch.inference_mode()(decode), "prefill": torch.inference_mode()(prefill)}


def worker_threads() -> int:
    """How many threads of this process MindSpore computes with."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith(("ActorThread", "KernelThread")) for name in names)


def serve(library: str, size: str, what: str) -> None:
    """A measured process: for each line on stdin one call, and one line of what it took."""
    function = (serve_mindspore if library == "mindspore" else serve_transformers)(*SIZES[size], what)[what]
    for _ in sys.stdin:
        begin = time.perf_counter()
        answer = function()
        seconds = time.perf_counter() - begin
        if library == "mindspore":
            threads = worker_threads()
        else:
            import torch

            threads = torch.get_num_threads()
        print("measured:", json.dumps({"s": seconds, "answer": answer, "threads": threads}), flush=True)


class Contestant:
    """One library's process."""

    def __init__(self, library: str, size: str, what: str) -> None:
        argv = [sys.executable, __file__, "--serve", library, size, what]
        env = {**os.environ, "GLOG_v": "3", "TOKENIZERS_PARALLELISM": "false"}
        self.library = library
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    def call(self) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; what it said is read below
        for line in self.process.stdout:
            if line.startswith("measured:"):
                return dict(json.loads(line.partition(":")[2]))
        raise RuntimeError(f"{self.library}: {self.process.stderr.read()[-2000:]}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def contest(size: str, what: str, runs: int) -> dict[str, Any]:
    """Both libraries in turns; seconds of each call, and what both were checked for."""
    contestants = [Contestant(library, size, what) for library in LIBRARIES]
    try:
        warm = [contestant.call() for contestant in contestants]
        if warm[0]["answer"] != warm[1]["answer"]:
            raise RuntimeError(f"{size} {what}: {warm[0]['answer']} is not {warm[1]['answer']}")
        seconds: dict[str, list[float]] = {library: [] for library in LIBRARIES}
        for contestant in contestants * (WARM - 1):
            contestant.call()
        for _ in range(runs):
            for contestant in contestants:
                seconds[contestant.library].append(contestant.call()["s"])
    finally:
        for contestant in contestants:
            contestant.close()
    threads = {library: said["threads"] for library, said in zip(LIBRARIES, warm, strict=True)}
    return {"size": size, "what": what, "seconds": seconds, "threads": threads}


def ratio(result: dict[str, Any]) -> float:
    ours, theirs = (statistics.median(result["seconds"][library]) for library in LIBRARIES)
    return theirs / ours


def show(results: list[dict[str, Any]], runs: int) -> None:
    print(f"medians of {runs} runs in turns, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    table = Table("", "MindSpore tokens/s", "transformers tokens/s", "threads", "ratio")
    for result in results:
        count = {"decode": NEW, "prefill": 128, "train": 256}[result["what"]]
        rates = [count / statistics.median(result["seconds"][library]) for library in LIBRARIES]
        threads = " / ".join(str(result["threads"][library]) for library in LIBRARIES)
        name = f"{result['what']}, {result['size']}"
        table.add(name, *(f"{rate:.1f}" for rate in rates), threads, f"{ratio(result):.2f}")
    table.print()
    print()
    for goal in goals(results):
        print(goal.line())


def goals(results: list[dict[str, Any]]) -> list[Goal]:
    return [
        Goal(f"{one['what']}, {one['size']}: ratio", ratio(one), GOALS[one["what"]], at_least=True)
        for one in results
    ]


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--what", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(*given.serve)
        return 0
    try:
        results = [contest(size, what, given.runs) for size in given.sizes for what in given.what]
    except RuntimeError as error:
        print(f"the bench broke off: {error}", file=sys.stderr)
        return 1
    if given.json:
        print_json(
            {"runs": given.runs, "results": results, "goals": {g.name: g.to_json() for g in goals(results)}}
        )
    else:
        show(results, given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
