"""Any input: whatever a file or a tool says, there is a value or one documented error, soon and in one line.

Seeded, so that a case can be run again. ANY_INPUT is how many there are, `make test-long` takes 200,000;
ANY_INPUT_FROM is the first seed. Each reader gets its own samples, changed in one place or a few: bytes,
characters that terminals obey, numbers beyond all bounds, depth, a part of another sample. What hosts answer
is in `hosts/test_lying_hosts`.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from model.config.hf_config import load_hf_config
from model.config.load_config import load_config
from model.config.settings import load_settings
from model.data.records import load_records
from model.data.tokenizer import read_tokenizer
from model.errors import ModelError
from model.inference.predict import read_prompts
from orchestrator.agent.worker import last_json_line
from orchestrator.ascend import hccn, npu_smi, npu_table
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, read_strategy_set, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.checkpoint.journal import Journal
from orchestrator.checkpoint.open_checkpoint import find_weights
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_yaml import import_run_yaml
from orchestrator.control.run_record import read_record
from orchestrator.core import errors
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.plan.launch_plan import read_plan
from orchestrator.rank_table.read_table import read_rank_table
from orchestrator.rank_table.rules import validate
from tests.ascend import samples

CASES = int(os.environ.get("ANY_INPUT", "3000"))
FIRST = int(os.environ.get("ANY_INPUT_FROM", "0"))
ROOT = Path(__file__).parents[1]
DOCUMENTED = {getattr(errors, name) for name in errors.__all__} | {ModelError}
SECONDS = 2.0
GROWTH_KB = 300 * 1024

Read = Callable[[Path], Any]


class Reader(NamedTuple):
    """What reads a file, the name that it has, and samples of its content."""

    name: str
    read: Read
    samples: list[bytes]


def text_of(read: Callable[[str], Any]) -> Read:
    return lambda path: read(path.read_bytes().decode("utf-8", "replace"))


def _journal(path: Path) -> None:
    path.rename(path.with_name(".out.ckpt.journal"))
    Journal(path.with_name("out.ckpt")).close()


def _control(path: Path) -> ControlDir:
    control = ControlDir(path.parent)
    path.rename(control.plan if "placements" in path.name else control.record)
    return control


def _record(path: Path) -> Any:
    return read_record(_control(path))


def _plan(path: Path) -> Any:
    return read_plan(path)


def _rank_table(path: Path) -> Any:
    return validate(read_rank_table(path).table)


def _made(folder: Path) -> dict[str, bytes]:
    """Binary samples, by the name of their format."""
    tensors = [("w", np.arange(6, dtype=np.float32).reshape(2, 3)), ("n", np.array(3)), ("note", "text")]
    write_ckpt(folder / "a.ckpt", tensors, piece_limit=16)
    write_safetensors(folder / "a.safetensors", tensors[:2])
    write_strategy(folder / "s.ckpt", Strategy(1, {"w": Layout((2, 2), (0, -1), 2, 2)}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _tokenizer() -> bytes:
    tokenizer = Tokenizer(BPE())
    tokenizer.train_from_iterator(["one two three"], BpeTrainer(vocab_size=40))
    return str(tokenizer.to_str()).encode()


def _texts(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


RECORDS = [
    b'[{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "d", "input": "", "output": "e"}]',
    b'{"instruction": "a", "output": "c"}\n{"instruction": "d", "input": "x", "output": "e"}\n',
    b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n',
]
CONFIG = json.dumps(
    {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "n_layer": 2,
        "n_head": 4,
        "hidden_size": 64,
    }
).encode()
HOSTFILES = [b"n1 slots=8\nn2 slots=8 max_slots=8\n", b"n1:8\nn2:8\n", b"# all\nnpu[1-4]\n10.0.0.7\n"]
JOURNAL = b'{"pid":7}\n{"format":1,"signature":"ab","step":9,"segment_bytes":64,"files":{}}\n[0,0,64,1234]\n'
METRICS = b'{"step": 1, "loss": 2.5, "total_steps": 9, "time": 1.5}\n' * 3


def readers(folder: Path) -> list[Reader]:
    made = _made(folder)
    plans, record = (
        _texts(f"tests/fixtures/*/state/orchestrate/runs/**/{name}.json") for name in ("plan", "record")
    )
    smi = [value.encode() for value in vars(samples).values() if isinstance(value, str) and "\n" in value]
    table = json.dumps(
        {
            "version": "1.0",
            "status": "completed",
            "server_count": "1",
            "server_list": [
                {
                    "server_id": "10.0.0.1",
                    "device": [
                        {"device_id": str(n), "device_ip": f"10.1.0.{n + 1}", "rank_id": str(n)}
                        for n in range(4)
                    ],
                }
            ],
        }
    ).encode()
    return [
        Reader("job.yaml", load_job, _texts("jobs/*.yaml")),
        Reader("inventory.yaml", load_inventory, _texts("inventory/*.yaml")),
        Reader("hostfile", load_inventory, HOSTFILES),
        Reader(
            "hosts.ini",
            load_inventory,
            [b"[npu]\nn1 ansible_host=10.0.0.1\nn[2:4]\n[npu:vars]\nansible_user=x\n"],
        ),
        Reader("table.json", load_inventory, [table]),
        Reader("rank_table.json", _rank_table, [table]),
        Reader("run_bloom.yaml", import_run_yaml, _texts("tests/config/run_bloom_7.1b.yaml")),
        Reader("worker.yaml", load_settings, _texts("tests/fixtures/*/hosts/*/runs/train*/**/worker.yaml")),
        Reader("config.yaml", load_config, [b"num_layers: 2\nnum_heads: 4\nhidden_size: 64\n"]),
        Reader("config.json", load_hf_config, [CONFIG]),
        Reader("records.json", load_records, RECORDS),
        Reader("records.jsonl", load_records, RECORDS[1:]),
        Reader("prompts.txt", lambda path: read_prompts(None, str(path)), [b"What?\nWhy?\n"]),
        Reader("prompts.jsonl", lambda path: read_prompts(None, str(path)), RECORDS[1:]),
        Reader("tokenizer.json", read_tokenizer, [_tokenizer()]),
        Reader("metrics.jsonl", last_json_line, [METRICS]),
        Reader("plan.json", _plan, plans),
        Reader("record.json", _record, record),
        Reader("model.ckpt", find_weights, [made["a.ckpt"]]),
        Reader("model.safetensors", find_weights, [made["a.safetensors"]]),
        Reader("pytorch_model.bin", find_weights, _texts("tests/checkpoint/torch_files/*.bin")),
        Reader("ckpt_strategy.ckpt", read_strategy_set, [made["s.ckpt"]]),
        Reader("journal", _journal, [JOURNAL]),
        Reader("npu-smi.txt", text_of(npu_table.parse_info), smi),
        Reader("board.txt", text_of(npu_smi.parse_board), smi),
        Reader("hccn.conf", text_of(hccn.parse_hccn_conf), [b"address_0=10.0.0.1\nnetmask_0=255.0.0.0\n"]),
        Reader("ip.txt", text_of(hccn.parse_ip), [b"ipaddr:10.0.0.1\nnetmask:255.255.0.0\n"]),
        Reader("ping.txt", text_of(hccn.parse_ping), smi),
    ]


HOSTILE = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x1b[2J\x1b]0;x\x07",
        "\u2028\u202e\x85".encode(),
        b"\xed\xa0\x80",
    ),
    *(b"[" * 9000, b'{"a":' * 3000, b"- " * 3000, b"(" * 5000, b"&a [*a, *a]", b"<<: *x", b"!!python/none"),
    *(
        b"9" * 5000,
        b"1e999",
        b"-1",
        b"NaN",
        b"1" + b"0" * 40,
        b"0-20000000",
        b"[1-99999999]",
        b"0x7fffffffffffffff",
    ),
    *(
        b"../../../../tmp/x",
        b"/etc/passwd",
        b"{rank}{port}{x}",
        b"[/x][bold]",
        b"$(id)",
        b"%s%n",
        b"\r\n",
        b"\t",
    ),
    *(
        b"null",
        b"true",
        b"{}",
        b"[]",
        b'""',
        b"'",
        b'"',
        b"\\ud800",
        b"\\",
        b": ",
        b"\n---\n",
        b"\n...\n",
        b"#",
    ),
    b"a" * 20_000,
    b"\n" * 5000,
]


def changed(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """The sample with a few faults."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, upto = rng.randrange(len(sample) + 1), min(len(sample), 60)
        length = rng.randint(0, upto)
        kind = rng.randrange(7)
        if kind == 0 and sample:
            at = min(at, len(sample) - 1)
            sample = sample[:at] + bytes([sample[at] ^ 1 << rng.randrange(8)]) + sample[at + 1 :]
        elif kind == 1:
            sample = sample[:at]
        elif kind == 2:
            sample = sample[:at] + sample[at + length :]
        elif kind == 3:
            sample = sample[:at] + rng.choice(HOSTILE) + sample[at + length :]
        elif kind == 4:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            sample = sample[:at] + other[begin : begin + rng.randint(1, 400)] + sample[at:]
        elif kind == 5:
            sample = sample[:at] + sample[max(0, at - length) : at] * rng.choice((2, 50)) + sample[at:]
        else:
            # A value in the place of another, where the file is one of keys and values.
            lines = sample.split(b"\n")
            row = rng.randrange(len(lines))
            key, colon, _ = lines[row].partition(b":")
            lines[row] = key + colon + b" " + rng.choice(HOSTILE)
            sample = b"\n".join(lines)
    return sample


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Break off what hangs."""

    def broken(*_: object) -> None:
        raise AssertionError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, broken)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def require_told(error: BaseException) -> None:
    """One of our errors, every line of it one that a terminal shows."""
    assert type(error) in DOCUMENTED, repr(error)
    assert isinstance(error, (OrchestrateError, ModelError))
    for line in error.lines():
        shown = line.replace("\u3000", " ").replace("\u00a0", " ")
        assert line and shown.isprintable() and len(line) < 4000, ascii(line[:300])


def test_whatever_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").mkdir()
    known = readers(tmp_path / "samples")
    pool = [sample for reader in known for sample in reader.samples]
    monkeypatch.chdir(tmp_path / "samples")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {reader.name: {"value": 0, "error": 0} for reader in known}
    for case in range(FIRST, FIRST + CASES):
        rng = random.Random(case)
        reader = known[case % len(known)]
        folder = tmp_path / "case"
        folder.mkdir()
        path = folder / reader.name
        path.write_bytes(changed(rng, rng.choice(reader.samples), pool)[: 1 << 20])
        began = time.thread_time()
        try:
            with at_most(30):
                reader.read(path)
            outcomes[reader.name]["value"] += 1
        except (OrchestrateError, ModelError) as error:
            outcomes[reader.name]["error"] += 1
            require_told(error)
        except BaseException as error:
            raise AssertionError(f"case {case}, {reader.name}: {error!r}") from error
        assert time.thread_time() - began < SECONDS, (case, reader.name)
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH_KB, f"{grown} KiB"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples"]
    if 50 * len(known) <= CASES:
        tolerant = {"metrics.jsonl", "journal"}  # what they cannot read, they pass over
        for name, counts in outcomes.items():
            assert counts["error"] or name in tolerant, (name, counts)
