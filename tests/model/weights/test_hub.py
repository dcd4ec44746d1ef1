from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.data.tokenizer import train_tokenizer
from model.errors import ModelError
from model.weights.hub import checkpoint_file, model_file, model_folder, tokenizer_file
from model.weights.hub_connection import first_hop, why_unreachable
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from tests.model.support.hf_model import CONFIG, as_mindformers, hf_weights, write_hf
from tests.model.support.hub_server import hub
from tests.model.support.torch_bin import write_torch

ROOT = Path(__file__).parents[3]
NAME = "bigscience/bloom-tiny"
FOLDER = "import sys; from model.weights.hub import model_folder; print(model_folder(sys.argv[1]))"
SMALL_FILE = (
    "import sys; from model.weights.hub import model_file; print(model_file(sys.argv[1], sys.argv[2]))"
)


def ask(tmp_path, script, *arguments, **env):
    """A process of its own: the hub's client reads its environment once, when it is imported."""
    run = f"def run(_):\n    {script}\n"
    code = f"import sys; from model.cli.shared_options import guarded\n{run}sys.exit(guarded(run, None))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "ORCH"))}
    home = {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    more = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**clean, **home, **more, **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )


def folder_of(done):
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def refusal(done):
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def published(tmp_path, name=NAME):
    folder = tmp_path / "hub" / name
    weights = write_hf(folder, shards=2)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("a model")
    (folder / "pytorch_model.bin").write_bytes(b"the same again, not to be loaded")
    return weights


def assert_holds(folder, weights):
    stored = read_ckpt(folder / "model.ckpt")
    for name, value in as_mindformers(weights).items():
        np.testing.assert_array_equal(stored[name].array(), value)


def test_a_name_is_loaded_and_converted_once_then_needs_no_hub(tmp_path):
    weights = published(tmp_path)
    with hub(tmp_path / "hub") as server:
        folder = folder_of(ask(tmp_path, FOLDER, NAME, HF_ENDPOINT=server.url))
        assert folder == tmp_path / "cache/orchestrate/models/bigscience--bloom-tiny"
        assert {path.name for path in folder.iterdir()} == {"model.ckpt", "config.yaml", "tokenizer.json"}
        assert_holds(folder, weights)
        got = [line for line in server.asked if line.startswith("GET") and "/resolve/" in line]
        assert len([line for line in got if line.endswith(".safetensors")]) == 2
        assert not [line for line in got if line.endswith((".bin", ".md"))]
    again = ask(tmp_path, FOLDER, NAME, HF_ENDPOINT="http://127.0.0.1:9")
    assert folder_of(again) == folder
    tokenizer = ask(tmp_path, SMALL_FILE, NAME, "tokenizer.json", HF_HUB_OFFLINE="1")
    assert folder_of(tokenizer) == folder / "tokenizer.json"


def test_callers_at_the_same_time_get_the_same(tmp_path):
    weights = published(tmp_path)
    with hub(tmp_path / "hub") as server, ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(ask, tmp_path, FOLDER, NAME, HF_ENDPOINT=server.url) for _ in range(3)]
        folders = {folder_of(job.result()) for job in jobs}
        loads = [
            line
            for line in server.asked
            if line.startswith("GET") and line.endswith("00001-of-00002.safetensors")
        ]
    assert len(folders) == 1 and len(loads) == 1
    assert_holds(folders.pop(), weights)


def test_a_small_file_comes_without_the_weights(tmp_path):
    published(tmp_path)
    with hub(tmp_path / "hub") as server:
        path = folder_of(ask(tmp_path, SMALL_FILE, NAME, "tokenizer.json", HF_ENDPOINT=server.url))
        assert path.read_text() == "{}"
        assert not [line for line in server.asked if "safetensors" in line]
        lacking = refusal(ask(tmp_path, SMALL_FILE, NAME, "vocab.txt", HF_ENDPOINT=server.url))
        assert f"{NAME}: lacks a file" in lacking


def test_a_token_opens_what_is_private(tmp_path):
    published(tmp_path)
    with hub(tmp_path / "hub", token="hf_secret") as server:
        closed = refusal(ask(tmp_path, FOLDER, NAME, HF_ENDPOINT=server.url))
        assert "the hub has no model of this name (check the name; a private one needs HF_TOKEN)" in closed
        folder_of(ask(tmp_path, FOLDER, NAME, HF_ENDPOINT=server.url, HF_TOKEN="hf_secret"))


def test_without_a_network_one_line_says_what_to_put_where(tmp_path):
    put = tmp_path / "cache/orchestrate/models/downloads/bigscience--bloom-tiny"
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        began = time.monotonic()
        line = refusal(ask(tmp_path, FOLDER, NAME, **env))
        took = time.monotonic() - began
        assert "OFFLINE" in line or "no connection to 127.0.0.1:9: Connection refused" in line
        assert took < 15, "its client tried again and again"
        assert f"{NAME}: cannot be downloaded: " in line
        assert "(put config.json, tokenizer.json and model.safetensors (or pytorch_model.bin, or" in line
        assert f"into {put})" in line
    weights = hf_weights()
    write_hf(put)
    (put / "model.safetensors").unlink()
    write_torch(put / "pytorch_model.bin", weights)
    assert_holds(folder_of(ask(tmp_path, FOLDER, NAME, HF_HUB_OFFLINE="1")), weights)


def test_a_name_that_nobody_looks_up_is_not_waited_for():
    never = threading.Event()
    try:
        began = time.monotonic()
        why = why_unreachable("https://hub.example", 0.2, connect=lambda hop, wait: never.wait(30))
        assert why == "no connection to hub.example:443: no answer within 0.2 s"
        assert time.monotonic() - began < 5
    finally:
        never.set()
    assert why_unreachable("https://hub.example", connect=lambda hop, wait: None) == ""


@pytest.mark.parametrize(
    ("url", "proxies", "hop"),
    [
        ("https://huggingface.co", {}, ("huggingface.co", 443)),
        ("http://mirror.example:8080/hub", {}, ("mirror.example", 8080)),
        ("http://mirror.example", {"https": "http://proxy:3128"}, ("mirror.example", 80)),
        ("https://huggingface.co", {"https": "http://user:pass@proxy:3128"}, ("proxy", 3128)),
        ("https://huggingface.co", {"all": "socks5://proxy"}, ("proxy", 1080)),
        ("https://huggingface.co", {"https": "proxy:3128"}, ("proxy", 3128)),
    ],
)
def test_the_proxy_of_the_environment_is_asked_in_place_of_the_hub(url, proxies, hop):
    assert first_hop(url, proxies) == hop


def test_folders_of_both_forms_need_no_hub(tmp_path):
    weights = write_hf(tmp_path / "hf")
    script = FOLDER.replace("; print", "; print(model_folder(sys.argv[2])); print")
    done = ask(tmp_path, script, tmp_path / "hf", tmp_path / "hf")
    first, second = done.stdout.split()
    assert first == second and "/models/local--hf--" in first
    assert_holds(Path(first), weights)
    assert folder_of(ask(tmp_path, FOLDER, first)) == Path(first)
    other = hf_weights(seed=1)
    write_hf(tmp_path / "hf", weights=other)
    changed = folder_of(ask(tmp_path, FOLDER, tmp_path / "hf"))
    assert str(changed) != first
    assert_holds(changed, other)


@pytest.mark.mindspore
def test_the_verbs_take_a_name(tmp_path):
    published(tmp_path)
    text = "the sky is blue"
    tokenizer = train_tokenizer([text], CONFIG).to_json()
    (tmp_path / "hub" / NAME / "tokenizer.json").write_text(tokenizer)
    (tmp_path / "data.txt").write_text(f"{text}\n\n{text}")
    run = "from model.__main__ import main; sys.exit(main(sys.argv[1:]))"
    data = ("prepare-data", "--input", "data.txt", "--output", "rows", "--seq-length", "9", "--workers", "0")
    with hub(tmp_path / "hub") as server:
        prepared = ask(tmp_path, run, *data, "--tokenizer", NAME, HF_ENDPOINT=server.url)
        assert prepared.returncode == 0, prepared.stderr
        assert (tmp_path / "rows/tokenizer.json").read_text() == tokenizer
        assert not [line for line in server.asked if "safetensors" in line]
        words = ("generate", "--prompt", text, "--max-new-tokens", "1", "--checkpoint", NAME)
        done = ask(tmp_path, run, *words, HF_ENDPOINT=server.url)
    assert done.returncode == 0, done.stderr
    # Now it is in the cache; a folder as it was downloaded is found there as well.
    words = ("evaluate", "--data", "rows", "--seq-length", "8", "--json", "--checkpoint")
    found = ask(tmp_path, run, *words, NAME, HF_HUB_OFFLINE="1")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["records"] == 2
    for verb in (words, ("chat", "--checkpoint")):
        assert "'none' is no folder and no model's name" in refusal(ask(tmp_path, run, *verb, "none"))


def test_checkpoints_and_tokenizers_are_found_in_folders(tmp_path):
    with pytest.raises(ModelError, match=r"no\.ckpt: there is no such checkpoint file"):
        checkpoint_file(tmp_path / "no.ckpt")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ModelError, match="holds 0 checkpoint files"):
        checkpoint_file(tmp_path)
    (tmp_path / "a.ckpt").touch()
    assert checkpoint_file(tmp_path) == checkpoint_file(str(tmp_path / "a.ckpt")) == tmp_path / "a.ckpt"
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(ModelError, match=r"holds 2 checkpoint files \(there must be one"):
        checkpoint_file(tmp_path)
    with pytest.raises(ModelError, match=r"there is no tokenizer\.json in the folder"):
        tokenizer_file(tmp_path)
    (tmp_path / "tokenizer.json").touch()
    assert tokenizer_file(tmp_path) == tokenizer_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("name", ["bloom_1b", "a/b/c", "../x", "", "bigscience/bloom;rm"])
def test_what_is_no_name(name):
    for find in (model_folder, lambda name: model_file(name, "tokenizer.json")):
        with pytest.raises(ModelError, match=r"is no folder and no model's name \(names are bloom_560m"):
            find(name)


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    published(tmp_path)
    shard = tmp_path / "hub" / NAME / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])
    with hub(tmp_path / "hub") as server:
        done = ask(tmp_path, FOLDER, NAME, HF_ENDPOINT=server.url)
    assert done.returncode == 2 and "it ends inside" in done.stderr and done.stderr.count("\n") == 1
    left = [path.name for path in (tmp_path / "cache/orchestrate/models").iterdir()]
    assert left == [".bigscience--bloom-tiny.lock"]
