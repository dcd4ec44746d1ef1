"""The command lines of MindFormers' page for Bloom: the name of the file exchanged, the flags unchanged."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from model.__main__ import _parser, main
from model.cli.shared_options import ModelFiles, located
from model.config.load_config import load_config
from model.config.settings import load_settings
from model.data.tokenizer import train_tokenizer
from model.errors import ModelError
from model.weights.hub import weights_at
from orchestrator.cli.cmd_rank_table_generate import command as generate
from orchestrator.config.job_file import load_job
from orchestrator.plan.input_files import ship

RECORDS = [{"instruction": f"count to {n}", "input": "", "output": "one two three"} for n in range(4)]
INFER = "model: {{model_config: {{type: BloomConfig, checkpoint_name_or_path: '{}'}}}}\ninfer: {{}}\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What a person has put where the hub's files would come from, and has converted."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ORCHESTRATE_CACHE", str(cache))
    for repository in ("downloads/bigscience--bloomz-560m", "bigscience--bloomz-560m"):
        (cache / repository).mkdir(parents=True)
        text = train_tokenizer(["count to three"], load_config("tiny")).to_json()
        (cache / repository / "tokenizer.json").write_text(text)
    (cache / "bigscience--bloomz-560m/model.ckpt").write_bytes(b"")
    return cache


def parsed(*words: str) -> argparse.Namespace:
    return _parser().parse_args(words)


def test_export_takes_the_weights_from_the_yaml(tmp_path, cache):
    (tmp_path / "own.ckpt").write_bytes(b"")
    config = tmp_path / "infer_bloom.yaml"
    for name, path in (
        (tmp_path / "own.ckpt", tmp_path / "own.ckpt"),
        ("bloom_560m", cache / "bigscience--bloomz-560m/model.ckpt"),
    ):
        config.write_text(INFER.format(name))
        files = ModelFiles.of(parsed("export", "--config_path", str(config)))
        assert (files.checkpoint, files.config) == (path, config)
    config.write_text("model: {}\n")
    with pytest.raises(
        ModelError, match=r"infer_bloom\.yaml: model\.model_config\.checkpoint_name_or_path: is "
    ):
        ModelFiles.of(parsed("export", "--config_path", str(config)))
    with pytest.raises(ModelError, match="--checkpoint: is missing"):
        ModelFiles.of(parsed("export"))


def test_make_mindrecord_needs_no_tokenizer_to_be_named(tmp_path, cache, capsys):
    records = tmp_path / "alpaca_data.json"
    records.write_text(json.dumps(RECORDS))
    words = ["prepare-data", f"--input_dataset_file={records}", f"--output_path={tmp_path / 'out'}"]
    assert main([*words, "--N=3", "--seq_length=513", "--workers=0"]) == 0
    out, err = capsys.readouterr()
    assert "3 records" in out and err.startswith(
        "note: the tokenizer is that of bloom_560m; --tokenizer names"
    )
    assert list((tmp_path / "out").glob("*.mindrecord"))


def test_hccl_tools_flags_are_known():
    words = ["--device_num", "[0,8)", "--server_ip", "10.1.2.3"]
    params = generate.make_context("generate", words).params
    assert (params["devices"], params["server_ip"]) == ("[0,8)", "10.1.2.3")


JOB = """
name: ask
task: predict
devices_per_host: 1
model: {preset: 560m}
predict: {prompts: [hello]}
checkpoint: {load: bloom_560m}
"""


def test_a_job_may_name_a_model_as_its_checkpoint(tmp_path, cache):
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    shipment, config = ship(load_job(job))
    block = config["checkpoint"]
    assert isinstance(block, dict) and block["load"] == "bloom_560m" and shipment.host_paths == []
    assert weights_at("bloom_560m") == cache / "bigscience--bloomz-560m/model.ckpt"
    assert weights_at("some/where") == Path("some/where")
    (tmp_path / "worker.yaml").write_text(yaml.safe_dump(config))
    told = located(load_settings(tmp_path / "worker.yaml"))
    assert told.checkpoint.load == str(cache / "bigscience--bloomz-560m/model.ckpt")
    assert located(told) is told
