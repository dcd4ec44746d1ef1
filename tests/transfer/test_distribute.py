import hashlib
import json
import os
import re

import numpy as np
import pytest
from click.testing import CliRunner

from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.cut.slices import region
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.cli.cmd_distribute_ckpt import command
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.control.launch import plan_launch
from orchestrator.core.errors import CheckpointError, ConfigError, HostsFailed, PreflightError, UsageError
from orchestrator.families.bloom import BLOOM
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.placement import place
from orchestrator.transfer.distribute import cut_for, distribute, hash_shards
from orchestrator.transfer.distribute_launch import with_shards
from tests.checkpoint.support import random

DENSE = "blocks.0.attention.dense1.weight"
TABLE = "embedding.word_embedding.embedding_table"
INVENTORY = """
transport: local
defaults: {{devices: 0-3, workdir: '{root}/{{name}}'}}
hosts: [{{name: left}}, {{name: right}}]
"""
JOB = """
name: tune
task: predict
devices_per_host: 4
parallel: {{data_parallel: 2, model_parallel: 2, pipeline_stage: 2}}
model: {{preset: tiny}}
checkpoint: {{load: {load}, distribute: {distribute}}}
predict: {{prompts: [hello]}}
"""


def weights(hidden=8, blocks=3):
    shapes = {TABLE: (16, hidden), "embedding.norm.gamma": (hidden,)}
    for block in range(blocks):
        prefix = f"blocks.{block}."
        shapes[prefix + "attention.dense1.weight"] = (hidden, hidden)
        shapes[prefix + "output.mapping.weight"] = (hidden, 4 * hidden)
        shapes[prefix + "layernorm1.gamma"] = (hidden,)
    shapes["ln_f.gamma"] = (hidden,)
    return {name: random(shape, "float32", seed) for seed, (name, shape) in enumerate(shapes.items())}


def save(path, values):
    """With something that no rank loads."""
    write_ckpt(path, [*values.items(), ("adam_m.x", np.ones(3)), ("global_step", np.array(3, np.int32))])


def made(tmp_path, load="whole.ckpt", distribute="true", values=None):
    values = values or weights()
    save(tmp_path / "whole.ckpt", values)
    (tmp_path / "config.yaml").write_text("hidden_size: 8\n")
    (tmp_path / "inventory.yaml").write_text(INVENTORY.format(root=tmp_path))
    (tmp_path / "job.yaml").write_text(JOB.format(load=load, distribute=distribute))
    inventory, job = load_inventory(tmp_path / "inventory.yaml"), load_job(tmp_path / "job.yaml")
    return values, inventory, job, place(job, inventory)


def expected(values, rank, blocks=3):
    cut = NetworkCut(BLOOM, 2, 2, 2)
    stage, index = divmod(rank, 4)
    mine = {name: value for name, value in values.items() if stage in cut.stages(name, blocks)}
    boxes = {name: region(cut.layout(name, value.shape), value.shape, index) for name, value in mine.items()}
    return {name: value[tuple(slice(*span) for span in boxes[name])] for name, value in mine.items()}


def check_shard(path, wanted):
    tensors = read_ckpt(path)
    assert set(tensors) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(tensors[name].array(), value)


def test_each_host_gets_what_its_ranks_load_and_replicas_once(tmp_path):
    values, inventory, job, placements = made(tmp_path)
    shards = cut_for(job, placements, tmp_path / "whole.ckpt")
    hashes = hash_shards(shards)
    assert len(set(hashes.values())) == 4  # two slices in each of two stages, their replicas alike
    seen = []
    with fleet_of(inventory.hosts, inventory.ssh) as fleet:
        shares = distribute(fleet, shards, hashes, lambda phase, done, total: seen.append((done, total)))
        again = distribute(fleet, shards, hashes)
    for host, first in (("left", 0), ("right", 4)):
        store = tmp_path / host / "store"
        assert set(os.listdir(store)) == {hashes[rank] for rank in range(first, first + 4)}
        for rank in range(first, first + 4):
            check_shard(store / hashes[rank], expected(values, rank))
            content = (store / hashes[rank]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == hashes[rank]
        size = sum(os.stat(store / name).st_size for name in os.listdir(store))
        assert (shares[host].sent, shares[host].had) == (size, 0) == (shards.nbytes(host), 0)
        assert (again[host].sent, again[host].had) == (0, size)
    assert seen[-1][0] == seen[-1][1] == sum(share.sent for share in shares.values())


@pytest.mark.mindspore
@pytest.mark.parametrize("absolute", [False, True])
def test_a_launch_puts_the_shards_where_the_workers_look(tmp_path, absolute):
    made(tmp_path, load=str(tmp_path / "whole.ckpt") if absolute else "whole.ckpt")
    job, plan = plan_launch(tmp_path / "job.yaml", tmp_path / "inventory.yaml")
    assert "load: inputs/load\n" in plan.worker_config
    assert "distribute" not in plan.worker_config
    assert "resume: false\n" in plan.worker_config
    assert not any(source.name == "whole.ckpt" for source in plan.sources.values())
    assert plan.host_paths == ()
    complete = with_shards(job, plan)
    for host, first in (("left", 0), ("right", 4)):
        inputs = {item.path: item.sha256 for item in complete.manifests[host].inputs}
        assert "inputs/load/config.yaml" in inputs
        for rank in range(8):
            path = f"inputs/load/rank_{rank}/checkpoint_rank_{rank}-0_0.ckpt"
            assert (path in inputs) == (first <= rank < first + 4)
            assert path not in inputs or (tmp_path / host / "store" / inputs[path]).exists()


@pytest.mark.mindspore
def test_nothing_is_sent_where_a_host_is_not_fit_for_the_job(tmp_path):
    made(tmp_path)
    job, plan = plan_launch(tmp_path / "job.yaml", tmp_path / "inventory.yaml")
    (tmp_path / "right").touch()
    with pytest.raises(PreflightError, match="right: cannot use the workdir"):
        with_shards(job, plan)
    assert not (tmp_path / "left" / "store").exists()


TUNE = """
name: tune
task: finetune
devices_per_host: 4
parallel: {data_parallel: 2, model_parallel: 2, pipeline_stage: 2, optimizer_shard: true}
model: {preset: tiny}
data: {path: data.json, tokenizer: tokenizer.json}
train: {steps: 9}
checkpoint: {load: whole.ckpt, distribute: true, resume: true}
"""


def test_a_job_that_resumes_gets_its_parts_of_the_optimizer_and_the_step(tmp_path):
    values, inventory, *_ = made(tmp_path)
    (tmp_path / "job.yaml").write_text(TUNE)
    (tmp_path / "data.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    vocabulary = {"model": {"type": "BPE", "vocab": {f"t{number}": number for number in range(64)}}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    job = load_job(tmp_path / "job.yaml")
    placements = place(job, inventory)
    moments = {f"adam_m.{name}": value + 1 for name, value in values.items()}
    counters = {"global_step": np.array([3], np.int32), "epoch_num": np.array([1], np.int32)}
    write_ckpt(tmp_path / "whole.ckpt", [*values.items(), *moments.items(), *counters.items()])
    shards = cut_for(job, placements, tmp_path / "whole.ckpt")
    for rank in (1, 6):
        mine = expected(values, rank)
        dp = rank % 4 // 2
        # A moment's slice is cut once more over the two replicas.
        own = {f"adam_m.{name}": np.split(value + 1, 2)[dp] for name, value in mine.items()}
        (tmp_path / "shard.ckpt").write_bytes(b"".join(map(bytes, shards.files[rank])))
        check_shard(tmp_path / "shard.ckpt", {**mine, **own, **counters})
    _, plan = plan_launch(tmp_path / "job.yaml", tmp_path / "inventory.yaml")
    assert "resume: true\n" in plan.worker_config
    write_ckpt(tmp_path / "whole.ckpt", values.items())
    with pytest.raises(CheckpointError, match="holds no optimizer's state") as caught:
        cut_for(job, placements, tmp_path / "whole.ckpt")
    assert "--with-optimizer" in caught.value.remedy


def test_a_plan_without_distribution_is_left_alone(tmp_path):
    made(tmp_path, distribute="false")
    job, plan = plan_launch(tmp_path / "job.yaml", tmp_path / "inventory.yaml")
    assert with_shards(job, plan) is plan
    assert any(source.name == "whole.ckpt" for source in plan.sources.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: {**v, "other.weight": np.zeros(2)}, "other.weight is no parameter of a Bloom of 3 blocks"),
        (
            lambda v: {n: t for n, t in v.items() if "blocks" not in n},
            "0 blocks cannot be spread",
        ),
        (
            lambda v: {**v, "blocks.0.attention.dense1.weight": np.zeros((5, 8))},
            "dense1.weight does",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_job_is_refused(tmp_path, change, message):
    _, _, job, placements = made(tmp_path, values=change(weights()))
    with pytest.raises(CheckpointError, match=message) as caught:
        cut_for(job, placements, tmp_path / "whole.ckpt")
    assert caught.value.where == str(tmp_path / "whole.ckpt")
    assert "parallel" in caught.value.remedy


def test_names_with_a_prefix_and_the_table_again_are_cut_as_any(tmp_path):
    """As MindFormers converts weights whose keys had a prefix, and a head."""
    values = weights()
    foreign = {f"transformer.{name}": value for name, value in values.items()}
    _, _, job, placements = made(tmp_path, values={**foreign, "head.weight": values[TABLE]})
    shards = cut_for(job, placements, tmp_path / "whole.ckpt")
    assert ("head.weight", "the embedding again") in shards.skipped
    for rank in (0, 7):
        (tmp_path / "shard.ckpt").write_bytes(b"".join(map(bytes, shards.files[rank])))
        check_shard(tmp_path / "shard.ckpt", expected(values, rank))
    made(tmp_path, values={**foreign, "head.weight": values[TABLE] + 1})
    with pytest.raises(
        CheckpointError, match=r"head\.weight is not embedding\.word_embedding\.embedding_table a"
    ):
        cut_for(job, placements, tmp_path / "whole.ckpt")


def test_a_source_that_changes_under_way_is_refused_and_leaves_nothing(tmp_path):
    values, inventory, job, placements = made(tmp_path)
    shards = cut_for(job, placements, tmp_path / "whole.ckpt")
    hashes = hash_shards(shards)
    values[TABLE] += 1
    save(tmp_path / "whole.ckpt", values)
    with fleet_of(inventory.hosts, inventory.ssh) as fleet, pytest.raises(HostsFailed) as caught:
        distribute(fleet, shards, hashes)
    assert all("arrived damaged" in error.what for error in caught.value.errors.values())
    for host in ("left", "right"):
        assert not [name for name in os.listdir(tmp_path / host / "store") if name.startswith(".")]


def test_the_job_s_keys_are_checked(tmp_path):
    made(tmp_path)
    path = tmp_path / "job.yaml"
    text = path.read_text()
    for change, message in (
        (text.replace("whole.ckpt", "none.ckpt"), "no such file .*none.ckpt"),
        (text.replace("whole.ckpt", "/none.ckpt"), "no such file /none.ckpt"),
        (
            text.replace("load: whole.ckpt, ", "").replace("predict", "finetune", 1),
            "has nothing to distribute",
        ),
    ):
        path.write_text(change)
        with pytest.raises(ConfigError) as caught:
            load_job(path)
        assert any(re.search(message, line) for line in caught.value.lines()), caught.value.lines()


def run(*words):
    result = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command(tmp_path):
    made(tmp_path)
    words = (tmp_path / "whole.ckpt", "--job", tmp_path / "job.yaml", "-i", tmp_path / "inventory.yaml")
    lines = [line.split() for line in run(*words, "--dry-run").splitlines()]
    assert [line[:2] for line in lines[1:3]] == [["left", "0-3"], ["right", "4-7"]]
    assert not (tmp_path / "left").exists()
    assert re.fullmatch(r"left,right: .* kB sent\n", run(*words))
    assert re.fullmatch(r"left,right: 0 B sent, .* kB were there already\n", run(*words))
    (tmp_path / "job.yaml").write_text("name: x\ntask: command\ndevices_per_host: 1\ncommand: [true]\n")
    with pytest.raises(UsageError, match="is not known here"):
        run(*words)
