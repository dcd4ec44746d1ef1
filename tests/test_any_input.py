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
import shutil
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
from model.config.yaml_table import read_table
from model.data.records import load_records
from model.data.tokenizer import read_tokenizer
from model.errors import ModelError
from model.inference.mindir import read_infer_yaml
from model.inference.predict import read_prompts
from orchestrator.agent import host_runs
from orchestrator.agent.metrics_lines import MetricsReader, said_in
from orchestrator.ascend import hccn, npu_smi, npu_table
from orchestrator.ascend.visible_devices import read_visible
from orchestrator.checkpoint.collection_manifest import read_earlier
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, read_strategy_set, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.checkpoint.journal import Journal
from orchestrator.checkpoint.open_checkpoint import find_weights
from orchestrator.cli.cmd_logs import parse_ranks
from orchestrator.config.host_ranges import RangeError, expand
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_import import import_any
from orchestrator.config.mindformers_yaml import import_run_yaml
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.control.log_reader import LogReader
from orchestrator.control.run_record import read_record
from orchestrator.core import errors
from orchestrator.core.errors import ConfigError, OrchestrateError, Problem
from orchestrator.core.host_answers import LogPart
from orchestrator.core.log_signatures import meaning_of, telling_lines, waited_for_by
from orchestrator.core.paths import ControlDir, RunDir, Workdir
from orchestrator.formats.tokenizer_files import made_with_template
from orchestrator.hosts.ssh.client_config import Asked, Place, read_settings
from orchestrator.hosts.ssh.config_lines import Doubt
from orchestrator.hosts.ssh.hops import parse_hops
from orchestrator.hosts.ssh.known_hosts import KnownHosts
from orchestrator.plan.launch_plan import read_plan
from orchestrator.rank_table.read_table import read_rank_table
from orchestrator.rank_table.rules import validate
from orchestrator.sizing.mindformers_workload import sized_run
from orchestrator.transfer.verify_collected import CollectedCheck
from tests.ascend import samples

CASES = int(os.environ.get("ANY_INPUT", "3000"))
FIRST = int(os.environ.get("ANY_INPUT_FROM", "0"))
ROOT = Path(__file__).parents[1]
DOCUMENTED = {getattr(errors, name) for name in errors.__all__} | {ModelError}
SECONDS = 2.0
GROWTH_KB = 300 * 1024

Read = Callable[[Path], Any]

LLAMA = b"""
run_mode: train
trainer: {type: CausalLanguageModelingTrainer}
use_parallel: True
context: {device_target: Ascend, max_device_memory: 58GB}
runner_config: {batch_size: 1, gradient_accumulation_steps: 8}
parallel_config: {data_parallel: 2, model_parallel: 2, pipeline_stage: 2, micro_batch_num: 4}
parallel: {parallel_mode: 1, enable_parallel_optimizer: True}
recompute_config: {recompute: [1, 2], select_recompute: [0, 1]}
train_dataset: {data_loader: {dataset_dir: ''}}
model:
  model_config:
    {type: LlamaConfig, hidden_size: 64, num_layers: 5, num_heads: 4, n_kv_heads: 2, multiple_of: 16,
     ffn_dim_multiplier: 1.3, vocab_size: 512, seq_length: 32, offset: [1, 0], compute_dtype: bfloat16}
"""


class Reader(NamedTuple):
    """What reads a file, the name that it has, and samples of its content."""

    name: str
    read: Read
    samples: list[bytes]


def text_of(read: Callable[[str], Any]) -> Read:
    return lambda path: read(path.read_bytes().decode("utf-8", "replace"))


def _expanded(text: str) -> Any:
    try:
        return expand(text)
    except RangeError as error:
        raise ConfigError([Problem("hosts", str(error))]) from None


def _hops(text: str) -> Any:
    try:
        return parse_hops(text)
    except ValueError as error:
        raise ConfigError([Problem("hops", str(error))]) from None


def _metrics(path: Path) -> Any:
    return [said_in(line) for line in MetricsReader().news(path)]


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


def _index(path: Path) -> Any:
    """An index, beside the files that it may name."""
    (path.parent / "a.safetensors").write_bytes((path.parents[1] / "samples/a.safetensors").read_bytes())
    return find_weights(path)


def _earlier(path: Path) -> Any:
    path.rename(path.with_name("out.ckpt.manifest.json"))
    return read_earlier(path.with_name("out.ckpt"))


def _collected(path: Path) -> Any:
    path.rename(path.with_name("out.ckpt.manifest.json"))
    out = path.with_name("out.ckpt")
    out.write_bytes((path.parents[1] / "samples/a.ckpt").read_bytes())
    return list(CollectedCheck(out).wrong())


def _summary(path: Path) -> Any:
    path.rename(path.with_name("data.mindrecord.summary.json"))
    return made_with_template(path.with_name("data.mindrecord"), "alpaca")


def _encoded(path: Path) -> Any:
    return read_tokenizer(path).encode("one two \U0001f600 \ud800")


def _infer(path: Path) -> Any:
    return read_infer_yaml(read_table(path), str(path))


def _host_file(name: str) -> Read:
    """A file of a run as its host reads it: what is wrong is told beside the run."""

    def read(path: Path) -> Any:
        run = RunDir(path.parent / "runs/run")
        run.root.mkdir(parents=True)
        path.rename(run.root / name)
        try:
            return host_runs.status(run), host_runs.list_runs(Workdir(path.parent))
        finally:
            shutil.rmtree(path.parent / "runs")

    return read


def _known_hosts(path: Path) -> Any:
    known = KnownHosts([str(path)])
    return [known.seen().verdict(name, "ssh-ed25519", "AAAA") for name in ("n1", "[n2]:22022")]


def _ssh_config(path: Path) -> Any:
    place = Place(files=(path,), is_usual=False, home="/h", user="u", environment={}, run=lambda *_: False)
    try:
        return read_settings(Asked("n1"), place)
    except Doubt as doubt:
        raise ConfigError([Problem(doubt.where, doubt.what)]) from None


def _log(path: Path) -> Any:
    """All lines of a log, and the last two, a block at a time; what its telling lines mean."""
    data = path.read_bytes()

    def read(offset: int, limit: int) -> tuple[LogPart, bytes]:
        at = max(0, len(data) + offset) if offset < 0 else offset
        return LogPart(at, len(data), 1.0), data[at : at + limit]

    texts = []
    for tail in (None, 2):
        reader, text = LogReader("rank_0", block=64, tail=tail), ""
        reader.close()
        while not reader.is_done:
            text += reader.step(read).text
        texts.append(text)
    whole, last = texts
    assert "\r" not in whole and (not whole or whole.endswith("\n"))
    assert whole.endswith(last) and last.count("\n") <= 2
    return meaning_of(telling_lines(whole)), waited_for_by(whole.splitlines())


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
INDEX = b'{"metadata": {"total_size": 24}, "weight_map": {"w": "a.safetensors", "n": "a.safetensors"}}'
MANIFEST = json.dumps(
    {
        "format": 1,
        "source": "run",
        "epoch": 1,
        "step": 9,
        "files": {"": 120},
        "segment_bytes": 16,
        "beside": {"config.yaml": "0" * 64},
        "tensors": {
            "w": {
                "shape": [2, 3],
                "dtype": "Float32",
                "parts": [{"region": [[0, 2], [0, 3]], "rank": 0, "crc32": ["00000000", "00000000"]}],
            }
        },
    }
).encode()
SUMMARY = b'{"format": 1, "tokenizer_sha256": "ab", "template": "belle"}'
INFER = b"""model:
  model_config: {type: BloomConfig, seq_length: 64, hidden_size: 64, num_layers: 2, num_heads: 4}
infer:
  prefill_model_path: "a_prefill.mindir"
  increment_model_path: "a_inc.mindir"
  infer_seq_length: 64
"""
SSH = b"""Host n* !n9
  HostName %h.lab
  Port 2222
  ProxyJump a@b:22,ssh://c
Match originalhost n1 exec "true"
  User "a b"
  IdentityFile ~/.ssh/%r_key
"""
STRATEGY = b"""{"stage_0": {"rank_list": [0, 1], "parallel_strategy_item": {}, "parallel_layout_item": {"w": {
"dev_matrix": [2], "tensor_map": [0, -1], "param_split_shape": [], "indices_offset": [], "field": 0,
"opt_weight_shard_step": 0, "opt_weight_shard_size": 0, "type": ["Float32"], "shape": [[2, 3]]}}}}"""
KNOWN_HOSTS = (
    b"n1,10.0.0.1 ssh-ed25519 AAAA\n@cert-authority *.lab ssh-rsa AAAB c\n|1|c2FsdA==|aGFzaA== ssh-rsa A\n"
)
LOG = b"""step 1 loss 2.5\r\n 50%|\r100%|\n[ERROR] EI0002 Waiting peer rank: 8\nRuntimeError: peer lost\n"""
HOSTFILES = [b"n1 slots=8\nn2 slots=8 max_slots=8\n", b"n1:8\nn2:8\n", b"# all\nnpu[1-4]\n10.0.0.7\n"]
JOURNAL = b'{"pid":7}\n{"format":1,"signature":"ab","step":9,"segment_bytes":64,"files":{}}\n[0,0,64,1234]\n'
ANSIBLE = b"""all:
  children:
    npu:
      hosts: {"n[1:4]": {ansible_host: 10.0.0.1}, n9: null}
      vars: {ansible_user: x, ansible_port: 22}
"""
TOOLS: dict[str, Callable[[str], Any]] = {
    "ipv6": hccn.parse_ipv6,
    "link": hccn.parse_link,
    "net_health": hccn.parse_net_health,
    "netdetect": hccn.parse_netdetect,
    "gateway": hccn.parse_gateway,
    "tls": hccn.parse_tls,
    "vnic": hccn.parse_vnic,
    "health": npu_smi.parse_health,
    "ecc": npu_smi.parse_ecc,
    "spod": npu_smi.parse_spod,
}
METRICS = (
    b'{"phase": "compile", "time": 1.5, "can": ["stacks"]}\n'
    b'{"step": 1, "loss": 2.5, "total_steps": 9, "time": 1.5, "compute_s": 0.5}\n'
) * 3


def readers(folder: Path) -> list[Reader]:
    made = _made(folder)
    plans, record = (
        _texts(f"tests/fixtures/*/state/orchestrate/runs/**/{name}.json") for name in ("plan", "record")
    )
    statuses, manifests = (
        _texts(f"tests/fixtures/*/hosts/*/runs/**/{name}.json") for name in ("status", "manifest")
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
        Reader("run_llama.yaml", import_any, [LLAMA]),
        Reader("run_llama_too.yaml", lambda path: sized_run(read_yaml(path)), [LLAMA]),
        Reader("worker.yaml", load_settings, _texts("tests/fixtures/*/hosts/*/runs/train*/**/worker.yaml")),
        Reader("config.yaml", load_config, [b"num_layers: 2\nnum_heads: 4\nhidden_size: 64\n"]),
        Reader("config.json", load_hf_config, [CONFIG]),
        Reader("records.json", load_records, RECORDS),
        Reader("records.jsonl", load_records, RECORDS[1:]),
        Reader("prompts.txt", lambda path: read_prompts(None, str(path)), [b"What?\nWhy?\n"]),
        Reader("prompts.jsonl", lambda path: read_prompts(None, str(path)), RECORDS[1:]),
        Reader("tokenizer.json", read_tokenizer, [_tokenizer()]),
        Reader("metrics.jsonl", _metrics, [METRICS]),
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
        *(Reader(f"{name}.txt", text_of(parse), smi) for name, parse in TOOLS.items()),
        Reader("devices.txt", text_of(lambda text: read_visible(text, 8)), [b"0,1,2,3", b"0,7,", b"3"]),
        Reader("ranks.txt", text_of(parse_ranks), [b"0,3-5", b"0-511"]),
        Reader("hosts.txt", text_of(_expanded), [b"npu[1-3,7],a[01-10]b[1-2]"]),
        Reader("hops.txt", text_of(_hops), [b"a@b:22,ssh://c@[::1]:2"]),
        Reader("ssh_config", _ssh_config, [SSH]),
        Reader("known_hosts", _known_hosts, [KNOWN_HOSTS]),
        Reader("rank_0.log", _log, [LOG]),
        Reader("model.safetensors.index.json", _index, [INDEX]),
        Reader("strategy.json", read_strategy_set, [STRATEGY]),
        Reader("out.manifest.json", _earlier, [MANIFEST]),
        Reader("out.collected.json", _collected, [MANIFEST]),
        Reader("data.summary.json", _summary, [SUMMARY]),
        Reader("encoding_tokenizer.json", _encoded, [_tokenizer()]),
        Reader("infer.yaml", _infer, [INFER]),
        Reader("ansible.yaml", load_inventory, [ANSIBLE]),
        Reader("status.json", _host_file("status.json"), statuses),
        Reader("manifest.json", _host_file("manifest.json"), manifests),
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
        # What they cannot read, they pass over.
        tolerant = {"metrics.jsonl", "journal", "devices.txt", "rank_0.log", "known_hosts"}
        tolerant |= {"out.manifest.json", "data.summary.json"}
        for name, counts in outcomes.items():
            assert counts["error"] or name in tolerant, (name, counts)
