"""Runs of MindFormers' own trainer: the step they go on from, what hosts get for it, what is collected."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_safetensors
from orchestrator.core.errors import CheckpointError, UsageError
from orchestrator.hosts.fleet import fleet_of
from orchestrator.transfer.collect import Collection
from orchestrator.transfer.collect_run import collect_run
from orchestrator.transfer.mindformers_resume import choose_mindformers
from orchestrator.transfer.saved_attempts import gather_saved
from tests.transfer.mindformers_run import CUT, REPLICAS, MindFormersRun, weights


@pytest.fixture
def ended(tmp_path: Path) -> MindFormersRun:
    return MindFormersRun(tmp_path)


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.array() for name, tensor in read_ckpt(path).items()}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_newest_step_is_that_of_all_epochs_and_no_byte_moves(ended: MindFormersRun) -> None:
    ended.save(9, 10, 15)
    found = ended.next()
    assert found.at == (1, 15)
    assert (found.moves.in_place, dict(found.moves.sent)) == ((0, 1), {})
    plan = ended.started(found)
    words = yaml.safe_load(plan.run_yaml)
    assert words["load_checkpoint"] == "./attempts/2/load"
    assert words["resume_training"] == "llama_rank_0-2_5.ckpt"
    assert words["parallel"] == {"parallel_mode": 0}
    for rank, host in enumerate(("host1", "host2")):
        # One file, and no other that could be taken for it.
        ((name, path),) = ended.loaded(host).items()
        assert name == f"rank_{rank}/llama_rank_{rank}-2_5.ckpt"
        assert path.stat().st_ino == ended.path(rank, 15).stat().st_ino


def test_after_its_last_step_a_run_has_nothing_left_to_train(ended: MindFormersRun) -> None:
    ended.save(9, 15)
    ended.told(15)
    with pytest.raises(
        UsageError, match=r"step 15 is saved, the last of 15: nothing is left to train"
    ) as caught:
        ended.next()
    assert "collect-ckpt" in caught.value.remedy and "runner_config.epochs=N" in caught.value.remedy
    assert ended.next(step=9).at == (1, 9)
    # With more epochs there is; how many steps they have nobody knows yet.
    assert ended.next(run_yaml=f"{REPLICAS}runner_config: {{epochs: 3}}\n").at == (1, 15)
    ended.told(16)
    assert ended.next().at == (1, 15)


def test_a_step_that_one_rank_lacks_is_taken_from_its_replica(ended: MindFormersRun) -> None:
    ended.save(9, 15, but=[(1, 15)])
    found = ended.next()
    assert found.at == (1, 15) and dict(found.moves.sent) == {"host2": ended.path(0, 15).stat().st_size}
    ended.started(found)
    ((name, path),) = ended.loaded("host2").items()
    assert name == "rank_1/llama_rank_1-2_5.ckpt"
    same(arrays(path), dict(ended.tensors(0, 15)))


def test_a_host_that_is_lost_gives_its_place_to_one_without_anything(ended: MindFormersRun) -> None:
    ended.save(15)
    shutil.rmtree(ended.run("host1").root)
    found = ended.next(hosts=("host3", "host2"))
    assert found.at == (1, 15) and list(found.moves.sent) == ["host3"]
    ended.started(found)
    assert list(ended.loaded("host3")) == ["rank_0/llama_rank_0-2_5.ckpt"]


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_ranks_that_are_cut_need_all_of_them(tmp_path: Path, suffix: str) -> None:
    ended = MindFormersRun(tmp_path, CUT, suffix=suffix)
    ended.save(9, 15, but=[(1, 15)])
    ended.save_strategies()
    found = ended.next()
    assert found.at == (1, 9)
    assert "epoch 2 step 15 is newer but not complete, it lacks rank 1 on host2" in "\n".join(found.notes)
    assert yaml.safe_load(found.plan.run_yaml)["load_ckpt_format"] == suffix


@pytest.mark.parametrize("strategies", [True, False])
def test_a_file_that_is_cut_or_damaged_is_passed_over(tmp_path: Path, strategies: bool) -> None:
    ended = MindFormersRun(tmp_path, CUT)
    ended.save(9, 15)
    if strategies:
        ended.save_strategies()
    path = ended.path(1, 15)
    os.truncate(path, path.stat().st_size - 7)
    found = ended.next()
    assert found.at == (1, 9)
    assert any(str(path) in note and "left aside" in note for note in found.notes)


def test_where_nothing_is_whole_that_is_an_error_of_the_checkpoint(ended: MindFormersRun) -> None:
    with pytest.raises(CheckpointError, match=r"no attempt has saved a checkpoint .*CheckpointMonitor"):
        ended.next()
    ended.save(9)
    for rank in (0, 1):
        path = ended.path(rank, 9)
        os.truncate(path, path.stat().st_size - 7)
    with pytest.raises(CheckpointError, match="damaged"):
        ended.next()


def test_a_name_that_says_another_step_than_the_file_is_no_part_of_either(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, CUT)
    ended.save(9)
    ended.save(15, but=[(1, 15)])
    ended.save(15, but=[(0, 15)], inside=14)
    assert ended.next().at == (1, 9)
    with pytest.raises(CheckpointError, match="lacks rank 1"):
        ended.next(step=15)


def test_a_meta_json_that_lies_moves_nothing(ended: MindFormersRun) -> None:
    ended.save(9, 15)
    for rank, name in ((0, "llama_rank_0-1_9.ckpt"), (1, "llama_rank_1-9_9.ckpt")):
        said = {"last_epoch": 9, "last_step": 9, "last_ckpt_file": name}
        (ended.path(rank, 15).parent / "meta.json").write_text(json.dumps(said))
    found = ended.next()
    assert found.at == (1, 15)
    told = "\n".join(found.notes)
    assert "host1: meta.json of rank 0 names llama_rank_0-1_9.ckpt: not believed" in told
    assert "host2: meta.json of rank 1 names llama_rank_1-9_9.ckpt, which is not there" in told


def test_where_ranks_leave_out_what_others_have_all_are_needed(tmp_path: Path) -> None:
    saves = "callbacks: [{type: CheckpointMonitor, remove_redundancy: True}]\n"
    ended = MindFormersRun(tmp_path, REPLICAS + saves)
    ended.save(9, 15, but=[(1, 15)])
    found = ended.next()
    assert found.at == (1, 9)
    assert yaml.safe_load(found.plan.run_yaml)["remove_redundancy"] is True
    with pytest.raises(CheckpointError, match="lacks rank 1"):
        collect_run(ended.control, Collection(step=15), tmp_path / "out.ckpt")


def test_another_layout_is_not_begun_anew_but_refused(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, CUT)
    ended.save(15)
    ended.save_strategies()
    plan = ended.plan
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        attempts, _ = gather_saved(fleet, plan.run_id, {1: plan})
        with pytest.raises(UsageError, match="in another layout"):
            choose_mindformers(fleet, plan, attempts, same_layout=())


def test_a_rank_alone_is_given_what_its_loader_looks_for(tmp_path: Path) -> None:
    for suffix, name, said in (
        ("ckpt", "rank_0/llama_rank_0-2_5.ckpt", "llama_rank_0-2_5.ckpt"),
        ("safetensors", "hyper_param.safetensors", True),
    ):
        (tmp_path / suffix).mkdir()
        ended = MindFormersRun(tmp_path / suffix, "seed: 0\n", hosts=1, suffix=suffix)
        ended.save(9, 15)
        plan = ended.started(ended.next(hosts=("host1",)))
        assert list(ended.loaded("host1")) == [name]
        assert yaml.safe_load(plan.run_yaml)["resume_training"] == said


def save_iteration(ended: MindFormersRun, host: str, iteration: int, files: list[str]) -> Path:
    folder = ended.run(host).root / f"attempts/1/checkpoint/iteration_{iteration:08d}"
    folder.mkdir(parents=True)
    for name in files:
        write_safetensors(folder / name, [("w", np.zeros(4, np.float32))])
    (folder / "common.json").write_text(json.dumps({"step_num": iteration, "global_step": iteration}))
    named = {"storage_data": {"('w', (0,))": [{"file_name": name} for name in files]}}
    (folder / "metadata.json").write_text(json.dumps(named))
    (folder.parent / "latest_checkpointed_iteration.txt").write_text("")
    return folder


FILES = [f"{kind}-{number:07d}-0000002.safetensors" for kind in ("model", "opt") for number in (0, 1)]


def test_an_iteration_of_checkpoint_2_is_loaded_from_links(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, hosts=1, devices=2)
    ended.save(9)
    save_iteration(ended, "host1", 10, FILES)
    folder = save_iteration(ended, "host1", 20, FILES)
    found = ended.next(hosts=("host1",))
    assert found.at == (1, 20)
    plan = ended.started(found)
    words = yaml.safe_load(plan.run_yaml)
    assert (words["load_checkpoint"], words["resume_training"]) == ("./attempts/2/load", True)
    loaded = ended.loaded("host1")
    assert sorted(loaded) == sorted([*FILES, "common.json", "metadata.json"])
    assert all(path.stat().st_ino == (folder / name).stat().st_ino for name, path in loaded.items())
    # One that lacks a file its metadata names is passed over, and said.
    (folder / FILES[1]).unlink()
    found = ended.next(hosts=("host1",))
    assert found.at == (1, 10) and "iteration 20 is newer but not whole" in "\n".join(found.notes)


def test_an_iteration_that_no_host_has_all_of_is_not_loaded(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path)
    for host, files in (("host1", FILES[::2]), ("host2", FILES[1::2])):
        save_iteration(ended, host, 20, files)
    with pytest.raises(CheckpointError, match=r"host1 lacks model-0000001-0000002\.safetensors"):
        ended.next()
    ended.save(9)
    assert ended.next().at == (1, 9)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_what_replicas_have_is_collected_under_mindformers_own_names(tmp_path: Path, suffix: str) -> None:
    ended = MindFormersRun(tmp_path, suffix=suffix)
    ended.save(9, 15, but=[(0, 15)])
    done = collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    assert (done.choice.epoch, done.choice.step) == (2, 15)
    same(arrays(tmp_path / "out.ckpt"), weights(15))
    collect_run(ended.control, Collection(step=9, with_optimizer=True), tmp_path / "all.ckpt")
    same(arrays(tmp_path / "all.ckpt"), dict(ended.tensors(0, 9)))


def test_what_is_cut_is_put_together_by_its_strategies(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, CUT)
    ended.save(15)
    with pytest.raises(CheckpointError, match="no strategy file says how they were cut"):
        collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    ended.save_strategies()
    collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    same(arrays(tmp_path / "out.ckpt"), weights(15))


def test_replicas_that_hold_different_tensors_are_none(ended: MindFormersRun) -> None:
    ended.save(15, but=[(1, 15)], without=("model.norm_out.weight",))
    ended.save(15, but=[(0, 15)])
    with pytest.raises(CheckpointError, match=r"lacks model.norm_out.weight, which rank 1 has"):
        collect_run(ended.control, Collection(), ended.folder / "out.ckpt")


def test_a_folder_of_safetensors_with_its_map_and_what_the_loop_keeps(ended: MindFormersRun) -> None:
    from safetensors.numpy import load_file

    ended.save(15)
    folder = ended.folder / "unified"
    collect_run(ended.control, Collection(format="unified", with_optimizer=True), folder)
    held = json.loads((folder / "param_name_map.json").read_text())
    wanted = dict(ended.tensors(0, 15))
    counters = load_file(folder / "hyper_param.safetensors")
    assert set(counters) == {"epoch_num", "step_num", "loss_scale", "global_batch_size", "global_step"}
    found = {name: load_file(folder / file)[name] for name, file in held["weight_map"].items()}
    same({**found, **counters}, wanted)
    weights_alone = ended.folder / "weights"
    collect_run(ended.control, Collection(format="unified"), weights_alone)
    assert sorted(path.name for path in weights_alone.iterdir()) == [
        "param_name_map.json",
        "part0.safetensors",
    ]
    same(dict(load_file(weights_alone / "part0.safetensors")), weights(15))


def saved_in_halves(ended: MindFormersRun, iteration: int, **hurt) -> Path:
    """Weights in two halves by rows, the norm on both, moments alike, as two ranks save them."""
    folder = ended.run("host1").root / f"attempts/1/checkpoint/iteration_{iteration:08d}"
    folder.mkdir(parents=True)
    held: dict[str, dict[str, np.ndarray]] = {}
    known: dict[str, dict] = {}
    stored: dict[str, list] = {}
    for kind, prefix, off in (("model", "", 0), ("opt", "adam_m.", 1000)):
        for name, value in weights(iteration + off).items():
            halves = np.split(value, 2) if value.ndim == 2 else [value, value]
            chunks = []
            for rank, half in enumerate(halves):
                file = f"llama-{kind}-{rank:07d}-0000002.safetensors"
                held.setdefault(file, {})[prefix + name] = half
                offset = [rank * len(half), 0] if value.ndim == 2 else [0]
                chunks.append({"global_offset": offset, "local_shape": list(half.shape)})
                key = str((prefix + name, tuple(offset)))
                stored.setdefault(key, []).append(
                    {"file_name": file, "storage_rank": rank, "rank_group": [rank]}
                )
            unique = [chunk for at, chunk in enumerate(chunks) if chunk not in chunks[:at]]
            known[prefix + name] = {"global_shape": list(value.shape), "chunk": unique}
    for rank in range(2):
        held[f"llama-opt-{rank:07d}-0000002.safetensors"]["global_step"] = np.array([iteration], np.int32)
    for file, tensors in held.items():
        write_safetensors(folder / file, tensors.items())
    said = {"state_dict_metadata": known, "storage_data": stored, **hurt}
    (folder / "metadata.json").write_text(json.dumps(said))
    (folder / "common.json").write_text(json.dumps({"global_step": iteration}))
    return folder


def test_an_iteration_is_collected_by_its_metadata(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, CUT, hosts=1, devices=2)
    saved_in_halves(ended, 10)
    saved_in_halves(ended, 20)
    (saved_in_halves(ended, 30) / "llama-model-0000001-0000002.safetensors").unlink()
    done = collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    assert done.choice.step == 20
    (note,) = done.choice.notes()
    assert note.startswith("iteration 30 is newer but not complete, it lacks model file 1 of 2")
    same(arrays(tmp_path / "out.ckpt"), weights(20))
    collect_run(ended.control, Collection(step=10, with_optimizer=True), tmp_path / "all.ckpt")
    moments = {f"adam_m.{name}": value for name, value in weights(1010).items()}
    step = {"global_step": np.array([10], np.int32)}
    same(arrays(tmp_path / "all.ckpt"), {**weights(10), **moments, **step})
    # Files of ranks that are newer come before it, and of the same step, too.
    ended.save(20)
    ended.save_strategies()
    done = collect_run(ended.control, Collection(), tmp_path / "newest.ckpt")
    assert (done.choice.epoch, done.choice.step) == (2, 20)


@pytest.mark.parametrize(
    ("hurt", "what"),
    [
        ({"storage_data": {}}, "no file has the part of model.* at"),
        ({"state_dict_metadata": {}}, "it does not say how model.* is cut"),
        ({"storage_data": []}, "storage_data is missing, or of another form"),
        (
            {"state_dict_metadata": {name: {} for name in weights(0)}},
            "the sizes of model.* are none",
        ),
        (
            {
                "state_dict_metadata": {
                    name: {
                        "global_shape": list(value.shape),
                        "chunk": [{"global_offset": [0] * value.ndim, "local_shape": [4] * value.ndim}],
                    }
                    for name, value in weights(0).items()
                }
            },
            "the parts of model.* are not the whole of it on axis 0",
        ),
    ],
)
def test_a_metadata_json_that_lies_is_refused(tmp_path: Path, hurt, what: str) -> None:
    ended = MindFormersRun(tmp_path, CUT, hosts=1, devices=2)
    saved_in_halves(ended, 20, **hurt)
    with pytest.raises(CheckpointError, match=what):
        collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()


def test_a_rank_alone_saves_no_metadata(tmp_path: Path) -> None:
    ended = MindFormersRun(tmp_path, "seed: 0\n", hosts=1)
    folder = ended.run("host1").root / "attempts/1/checkpoint/iteration_00000020"
    folder.mkdir()
    write_safetensors(folder / "model-0000000-0000001.safetensors", weights(20).items())
    moments = [(f"adam_m.{name}", value) for name, value in weights(20).items()]
    write_safetensors(folder / "opt-0000000-0000001.safetensors", moments)
    (folder / "common.json").write_text("{}")
    collect_run(ended.control, Collection(), tmp_path / "out.ckpt")
    same(arrays(tmp_path / "out.ckpt"), weights(20))
    assert ended.next(hosts=("host1",)).at == (1, 20)
