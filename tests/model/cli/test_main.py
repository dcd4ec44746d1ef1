from __future__ import annotations

import pytest

from model.__main__ import main
from tests.model.support.cluster import run_alone, write_job


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where a worker runs it writes `metrics/`, also when it is refused."""
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments):
    """The single line of a command that ends with exit code 2."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"path": "none.json"}}, "none.json: cannot be read: No such file"),
        ({"data": {"path": None}}, "data.path: is missing"),
        ({"data": {"tokenizer": "none.json"}}, "none.json: the tokenizer cannot be read"),
        ({"data": {"seq_length": 8}}, "data.seq_length: no record leaves room"),
        (
            {"model": {"preset": "huge"}},
            "model.preset: expected one of tiny, 560m, 7.1b, 65b, 176b; got 'huge'",
        ),
        ({"model": {"overrides": {"hidden": 3}}}, "model.overrides: hidden: unknown key"),
        (
            {"parallel": {"micro_batch_num": 3}},
            "train.batch_size: must be a multiple of micro_batch_num 3, got 4",
        ),
        ({"parallel": {"pipeline_stage": 2}}, "1 * 1 * 2 = 2, but RANK_SIZE is 1"),
        ({"parallel": {"data_parallel": 2}}, "2 * 1 * 1 = 2, but RANK_SIZE is 1"),
        ({"train": {"lr_schedule": "wave"}}, "train.lr_schedule"),
        ({"checkpoint": {"load": "none.ckpt"}}, "none.ckpt: there is no such checkpoint file"),
    ],
)
def test_bad_jobs_are_one_line(tmp_path, capsys, sections, message):
    path = write_job(tmp_path, **sections)
    assert message in refused(capsys, "train", "--config", str(path))


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("prepere-data", "no such verb `prepere-data` (did you mean `prepare-data`?)"),
        ("data", "did you mean `prepare-data`"),
        ("x" * 5000, f"no such verb `{'x' * 100}`; all of them: python -m model --help"),
        ("\x1b[2J", "no such verb `\\x1b[2J`"),
    ],
    ids=["near", "part", "long", "escape"],
)
def test_an_unknown_verb_is_one_line(capsys, verb, said):
    assert said in refused(capsys, verb, "--config", "x")


@pytest.mark.parametrize(("verb", "task"), [("train", "finetune"), ("predict", "predict")])
def test_a_network_that_contradicts_what_lies_beside_its_weights_is_refused(tmp_path, capsys, verb, task):
    for name in ("w.ckpt", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "config.yaml").write_text("{hidden_size: 64, num_heads: 8, hidden_act: gelu}")
    load = str(tmp_path / "w.ckpt")
    job = write_job(tmp_path, task=task, checkpoint={"load": load}, predict={"prompts": ["Hello"]})
    assert "num_heads is 4, but 8 in" in refused(capsys, verb, "--config", str(job))


@pytest.mark.parametrize(
    ("parallel", "message"),
    [
        ({"pipeline_stage": 3}, "parallel.pipeline_stage: 3 stages are more than the network's 2 layers"),
        ({"model_parallel": 3}, "parallel.model_parallel: num_heads 4 cannot be cut into 3 equal parts"),
        ({"data_parallel": 3, "link_timeout": 0}, "parallel.link_timeout: must be greater than 0, got 0"),
    ],
)
def test_strategies_that_do_not_fit_the_network(tmp_path, capsys, monkeypatch, parallel, message):
    monkeypatch.setenv("RANK_SIZE", "3")
    path = write_job(tmp_path, parallel=parallel)
    assert message in refused(capsys, "train", "--config", str(path))


def test_bad_questions_are_one_line(tmp_path, capsys):
    checkpoint = tmp_path / "demo.ckpt"
    ask = ("generate", "--checkpoint", str(checkpoint), "--prompt", "Hello")
    assert "there is no such checkpoint file" in refused(capsys, *ask)
    checkpoint.write_bytes(b"")
    assert "there is no config.yaml beside the checkpoint (name it with --config)" in refused(capsys, *ask)
    assert "temperature: must be at least 0, got -1" in refused(capsys, *ask, "--temperature", "-1")
    job = write_job(tmp_path, task="predict", predict={"prompts": []})
    assert "checkpoint.load: is missing" in refused(capsys, "predict", "--config", str(job))


@pytest.mark.mindspore
def test_train_then_generate_as_processes(tmp_path):
    small = {"preset": "tiny", "overrides": {"num_layers": 1}}  # which compiles soon
    write_job(tmp_path, model=small, train={"steps": 2}, checkpoint={"prefix": "demo"})
    done = run_alone(tmp_path, "train", "--config", "worker.yaml")
    assert done.returncode == 0, done.stderr
    assert "step 2/2 loss" in done.stdout
    shard = tmp_path / "checkpoint/rank_0/demo_rank_0-1_2.ckpt"
    model = tmp_path / "model"
    files = ("--config", str(model / "config.yaml"), "--tokenizer", str(model / "tokenizer.json"))
    question = ("--prompt", "What colour is milk?", "--max-new-tokens", "4")
    asked = run_alone(tmp_path, "generate", "--checkpoint", str(shard), *question, *files)
    assert asked.returncode == 0, asked.stderr
