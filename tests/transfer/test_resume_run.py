"""Going on with a run, up to the start of its next attempt: hosts here, shards as a training leaves them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.agent.content_store import Store
from orchestrator.agent.saved_steps import place
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.control.attempts import next_record
from orchestrator.control.resume import Changes
from orchestrator.control.run_record import HostView, new_record, read_record, write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.codec import dumps
from orchestrator.core.errors import CheckpointError, PreflightError, UsageError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RunState
from orchestrator.families.bloom import BLOOM
from orchestrator.plan.launch_plan import write_plan
from orchestrator.plan.make_plan import make_plan
from orchestrator.transfer.plan_resume import plan_resume
from orchestrator.transfer.resume_run import resume
from tests.checkpoint.support import cut as cut_slice
from tests.golden.saved import weights

LAYERS = 3
NETWORK = {"hidden_size": 16, "num_layers": LAYERS, "num_heads": 4, "vocab_size": 96}


class Ended:
    """A run of four ranks on two of four hosts that has failed; `state` is the control node's."""

    def __init__(self, folder: Path, **parallel) -> None:
        self.folder = folder
        self.parallel = {"data_parallel": 2, "model_parallel": 2, **parallel}
        (folder / "inventory.yaml").write_text(
            yaml.safe_dump(
                {
                    "transport": "local",
                    "defaults": {"workdir": str(folder / "hosts/{name}"), "devices": "0-3"},
                    "hosts": [{"name": "host[1-4]"}],
                }
            )
        )
        job = {
            "name": "demo",
            "task": "finetune",
            "host_count": 2,
            "devices_per_host": 2,
            "parallel": self.parallel,
            "model": {"preset": "tiny", "overrides": NETWORK},
            "data": {"path": "data.json", "seq_length": 32},
            "train": {"steps": 100, "batch_size": 8},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        (folder / "data.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
        inventory = load_inventory(folder / "inventory.yaml")
        self.plan = make_plan(load_job(folder / "job.yaml"), inventory, now=1.0)
        self.control = make_control_dir(self.plan, folder / "state")
        over = {
            host.name: HostView(HostStatus(self.plan.run_id, "demo", host.name, 2.0, (), phase="over"))
            for host in self.plan.hosts
        }
        record = dataclasses.replace(
            new_record(self.plan), state=RunState.FAILED, ended=3.0, hosts=over, exit_code=1
        )
        write_record(self.control, record)
        for name, manifest in self.plan.manifests.items():
            token = self.plan.attempt.token
            self.run(name).make(1, token, files={"manifest.json": dumps(manifest)})

    def run(self, host: str) -> RunDir:
        return Workdir(self.folder / "hosts" / host).run(self.plan.run_id)

    def cut(self, plan=None) -> NetworkCut:
        parallel = yaml.safe_load((plan or self.plan).worker_config)["parallel"]
        degrees = ("data_parallel", "model_parallel", "pipeline_stage", "optimizer_shard")
        return NetworkCut(BLOOM, *(parallel[key] for key in degrees))

    def shard(self, rank: int, step: int, plan=None):
        """What rank `rank` has of the network after `step`, by slicing alone."""
        cut, whole = self.cut(plan), weights()
        stage, index = divmod(rank, cut.ranks_per_stage)
        for prefix, off in (("", 0), ("adam_m.", 1), ("adam_v.", 2)):
            for name, value in whole.items():
                if stage in cut.stages(name, LAYERS):
                    layout = cut.layout(prefix + name, value.shape)
                    part = cut_slice(value + np.float32(step + off), layout, index)
                    yield prefix + name, np.ascontiguousarray(part)
        for name in ("epoch_num", "step_num", "global_step"):
            yield name, np.array(1 if name == "epoch_num" else step, np.int32)

    def save(self, *steps: int, but=()) -> None:
        """The shards of these steps with their checksums; strategies, and what belongs to the model."""
        for item in self.plan.placements:
            run, cut = self.run(item.host), self.cut()
            stage = item.rank // cut.ranks_per_stage
            layouts = {
                prefix + name: cut.layout(prefix + name, value.shape)
                for prefix in ("", "adam_m.", "adam_v.")
                for name, value in weights().items()
                if stage in cut.stages(name, LAYERS)
            }
            strategy = run.root / f"strategy/ckpt_strategy_rank_{item.rank}.ckpt"
            write_strategy(strategy, Strategy(stage, layouts))
            (run.root / "checkpoint/tokenizer.json").write_text('{"model": {"vocab": {}}}')
            for step in steps:
                if (item.rank, step) not in but:
                    path = self.path(item.rank, step)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_ckpt(path, self.shard(item.rank, step), with_sum=True)

    def path(self, rank: int, step: int) -> Path:
        host = next(item.host for item in self.plan.placements if item.rank == rank)
        folder = self.run(host).root / f"attempts/1/checkpoint/rank_{rank}"
        return folder / f"mindformers_rank_{rank}-1_{step}.ckpt"

    def next(self, **changes):
        if "hosts" in changes:
            changes["inventory"] = self.folder / "inventory.yaml"
        return plan_resume(self.control, Changes(**changes))

    def started(self, found):
        """The plan that is handed over, after each host has done with it what its agent does."""
        plans = []
        resume(found, start=lambda control, plan: plans.append(plan))
        (plan,) = plans
        for name, manifest in plan.manifests.items():
            workdir = Workdir(self.folder / "hosts" / name)
            run = self.run(name)
            run.make(plan.attempt.number, plan.attempt.token, files={"manifest.json": dumps(manifest)})
            for item in manifest.inputs:
                if item.path.startswith("attempts/"):
                    Store(workdir.store).place(item, run.root)
            place(run, plan.attempt.number, plan.loads.get(name, ()))
        return plan

    def check_loads(self, plan, step: int) -> None:
        """Each rank of the next attempt finds its own slices, of this step and no other."""
        for item in plan.placements:
            home = self.run(item.host).root / f"attempts/{plan.attempt.number}/load"
            (path,) = (home / f"rank_{item.rank}").iterdir()
            assert path.name.endswith(f"-1_{step}.ckpt")
            assert (home / "tokenizer.json").is_file()
            found = {name: tensor.array() for name, tensor in read_ckpt(path).items()}
            wanted = dict(self.shard(item.rank, step, plan))
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    ended = Ended(tmp_path)
    ended.save(10, 20)
    return ended


def test_on_the_same_hosts_no_byte_moves(ended: Ended) -> None:
    found = ended.next()
    assert found.at == (1, 20)
    assert (found.moves.in_place, dict(found.moves.sent)) == ((0, 1, 2, 3), {})
    plan = ended.started(found)
    assert plan.attempt.number == 2 and plan.origin == (1, 20)
    ended.check_loads(plan, 20)
    load = ended.run("host1").root / "attempts/2/load/rank_0/checkpoint_rank_0-1_20.ckpt"
    assert load.stat().st_ino == ended.path(0, 20).stat().st_ino


def test_a_spare_gets_what_it_lacks_from_replicas(ended: Ended) -> None:
    shutil.rmtree(ended.run("host1").root)
    found = ended.next(hosts="host[2-3]")
    assert found.at == (1, 20)
    # Ranks 0 and 1 run on host2 now, which has their replicas; 2 and 3 on host3, which has nothing.
    assert found.moves.in_place == (0, 1) and list(found.moves.sent) == ["host3"]
    assert found.moves.sent["host3"] == sum(ended.path(rank, 20).stat().st_size for rank in (2, 3))
    ended.check_loads(ended.started(found), 20)


def test_on_one_host_the_shards_are_cut_anew(ended: Ended) -> None:
    found = ended.next(hosts="host4")
    assert found.moves.anew and found.moves.in_place == ()
    assert sum(found.moves.collected.values()) <= found.moves.sent["host4"]
    plan = ended.started(found)
    assert plan.world_size == 2 and yaml.safe_load(plan.worker_config)["train"]["batch_size"] == 16
    ended.check_loads(plan, 20)
    assert not list(ended.control.root.glob(".resume-*"))


def test_another_cut_of_the_model_and_of_the_optimizer(tmp_path: Path) -> None:
    ended = Ended(tmp_path, optimizer_shard=True)
    ended.save(20)
    words = ("parallel.data_parallel=1", "parallel.pipeline_stage=2", "parallel.micro_batch_num=2")
    plan = ended.started(ended.next(overrides=(*words, "parallel.optimizer_shard=false")))
    ended.check_loads(plan, 20)


def test_a_damaged_shard_is_replaced_by_its_replica_and_then_by_the_step_before(ended: Ended) -> None:
    broken = ended.path(1, 20)
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 1
    broken.write_bytes(data)
    found = ended.next()
    assert found.at == (1, 20) and found.moves.in_place == (0, 2, 3)
    assert any("checksum beside it does not fit" in note for note in found.notes)
    ended.check_loads(ended.started(found), 20)
    ended.path(3, 20).write_bytes(ended.path(3, 20).read_bytes()[:-9])
    found = ended.next()
    assert found.at == (1, 10)
    assert any("step 20 is newer but not complete" in note for note in found.notes)


def test_a_shard_of_before_is_taken_and_it_is_said_that_it_has_no_checksum(ended: Ended) -> None:
    for rank in range(4):
        Path(f"{ended.path(rank, 20)}.sum").unlink()
    found = ended.next()
    assert found.at == (1, 20) and found.step is not None and found.step.unsummed == 4
    assert any("4 of 4 shards have no checksum" in note for note in found.notes)


def test_where_nothing_is_complete_it_says_what_lacks_and_how_to_begin_anew(tmp_path: Path) -> None:
    ended = Ended(tmp_path)
    ended.save(10, but=[(0, 10), (2, 10)])
    with pytest.raises(CheckpointError, match=r"lacks rank 0 or 2 on host1 or host2.*--step 0` begins anew"):
        ended.next()
    found = ended.next(step=0)
    assert found.step is None and found.plan.origin == (0, 0)
    assert yaml.safe_load(found.plan.worker_config)["checkpoint"]["load"] is None


def test_an_earlier_step_and_one_that_nobody_has(ended: Ended) -> None:
    assert ended.next(step=10).at == (1, 10)
    with pytest.raises(CheckpointError, match="no rank has saved step 15"):
        ended.next(step=15)
    with pytest.raises(
        UsageError, match=r"step 20 is saved, and the job has 20: nothing is left.*train\.steps"
    ):
        ended.next(overrides=("train.steps=20",))


def test_shards_of_another_network_are_refused(ended: Ended) -> None:
    for item in ended.plan.placements:
        tensors = dict(ended.shard(item.rank, 30))
        del tensors["ln_f.gamma"]
        write_ckpt(ended.path(item.rank, 30), tensors.items(), with_sum=True)
    with pytest.raises(CheckpointError, match=r"ln_f\.gamma is None in the shards, and \(16,\) in the job's"):
        ended.next()


def test_a_launch_of_the_same_number_that_came_to_nothing_is_not_taken_with_the_attempt(ended: Ended) -> None:
    # Two launches as attempt 2: one nobody could take back on host1, one that has run on hosts 2 and 3.
    plan = ended.started(ended.next(hosts="host[2-3]"))
    ended.control.folder_of(2).mkdir()
    write_plan(ended.control.plan_of(2), plan)
    record = dataclasses.replace(next_record(read_record(ended.control), plan, 4.0), state=RunState.FAILED)
    write_record(ended.control, record)
    ended.control.put_in_force(2)
    ended.run("host1").make(2, "another", files={"manifest.json": dumps(plan.manifests["host2"])})
    for item in ended.plan.placements:
        home = ended.run("host1").root / f"attempts/2/checkpoint/rank_{item.rank}"
        home.mkdir(parents=True)
        write_ckpt(home / f"m_rank_{item.rank}-1_30.ckpt", ended.shard(item.rank, 30), with_sum=True)
    assert ended.next(hosts="host[2-3]").at == (1, 20)
    assert ended.run("host1").in_force == 2


def test_a_plan_of_an_attempt_that_was_never_in_force_does_not_count(ended: Ended) -> None:
    # Who planned to go back to step 10 died before it was written down that it is so.
    plan = ended.next(step=10).plan
    ended.control.folder_of(2).mkdir()
    write_plan(ended.control.plan_of(2), plan)
    assert ended.next().at == (1, 20)


def test_without_room_for_another_layout_nothing_is_moved(
    ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(ended.folder)._replace(free=0)
    found = ended.next(hosts="host4")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PreflightError, match="another layout is put together here"):
        resume(found, start=lambda control, plan: pytest.fail("it was started"))
    assert not (ended.folder / "hosts/host4/store").exists() or not any(
        (ended.folder / "hosts/host4/store").iterdir()
    )
