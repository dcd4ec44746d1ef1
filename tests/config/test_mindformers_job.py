"""The section `mindformers` of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.job import Job
from orchestrator.config.job_file import load_job
from orchestrator.config.mindformers_job import is_module
from orchestrator.core.errors import ConfigError

JOB = """\
name: demo
task: mindformers
devices_per_host: 8
mindformers:
  config: run.yaml
  set: {runner_config.epochs: 1, a: {b.c: 2}}
"""


def job(folder: Path, text: str, *overrides: str) -> Job:
    (folder / "job.yaml").write_text(text)
    (folder / "run.yaml").write_text("seed: 0\n")
    return load_job(folder / "job.yaml", overrides)


def test_it_is_for_ascends_however_the_ranks_meet(tmp_path: Path) -> None:
    read = job(tmp_path, JOB + "networking: {mode: dynamic}\n")
    assert (read.device_target, read.networking.mode) == ("Ascend", "dynamic")
    assert job(tmp_path, JOB).networking.mode == "rank_table"
    assert job(tmp_path, JOB, "device_target=CPU").networking.mode == "dynamic"


def test_keys_to_set_may_be_nested_and_are_overridden(tmp_path: Path) -> None:
    read = job(tmp_path, JOB, "mindformers.set.runner_config.epochs=3", "mindformers.set.a.d=null")
    assert read.mindformers is not None
    assert read.mindformers.set == {"runner_config.epochs": 3, "a.b.c": 2, "a.d": None}


SET = "  set: {runner_config.epochs: 1, a: {b.c: 2}}\n"
WRONG = {
    JOB.replace("config: run", "config: rum"): "job.yaml:5: mindformers.config: no such file",
    JOB.replace("mindformers:\n  config: run.yaml\n" + SET, ""): "job.yaml:1: mindformers: is missing; task"
    " mindformers needs it",
    JOB.replace("task: mindformers", "task: command\ncommand: [a]"): "job.yaml:5: mindformers: is not used",
    JOB + "  conf: 1\n": "job.yaml:7: mindformers.conf: unknown key (did you mean `config`?)",
    JOB + "  run_mode: export\n": "job.yaml:7: mindformers.run_mode: expected one of train, finetune, eval,",
    JOB + "  args: [a]\n": "job.yaml:7: mindformers.args: has no script that would take them",
    JOB + "  script: start.py\n": "job.yaml:7: mindformers.script: no such file",
    JOB + "parallel: {data_parallel: 2}\n": "job.yaml:7: parallel: is not used by task mindformers (say it"
    " in the run YAML, or in mindformers.set: parallel_config)",
    JOB + "checkpoint: {load: run.yaml, resume: true}\n": "job.yaml:7: checkpoint.load: is loaded by no task"
    " mindformers without distribute: true",
    JOB
    + "checkpoint: {save_steps: 5}\n": "job.yaml:7: checkpoint.save_steps: is not used by task mindformers"
    " (say it in the run YAML, or in mindformers.set: load_checkpoint",
    JOB + "checkpoint: {resume: true}\n": "job.yaml:7: checkpoint.resume: has nothing to go on from",
    JOB + "checkpoint: {distribute: true}\n": "job.yaml:7: checkpoint.distribute: has nothing to distribute",
    JOB + "checkpoint: {strategy: run.yaml}\n": "job.yaml:7: checkpoint.strategy: cuts nothing without",
    JOB + "checkpoint: {load: run.yaml, distribute: true, strategy: no}\n": "job.yaml:7: checkpoint.strategy:"
    " no such file",
    JOB + "jit_level: O1\n": "job.yaml:7: jit_level: is not used by task mindformers",
    JOB + "max_device_memory: 50GB\n": "job.yaml:7: max_device_memory: is not used by task mindformers",
    JOB + "restart: {max: 1, min_hosts: 1}\n": "job.yaml:7: restart.min_hosts: fits no run of MindFormers",
    JOB + "networking: {mode: legacy_rank_table}\n": "job.yaml:7: networking.mode: legacy_rank_table cannot"
    " start MindFormers",
    JOB + "env: {RANK: 1}\n": "job.yaml:7: env.RANK: is set by the orchestrator",
    JOB.replace("a: {b.c: 2}", "output_dir: x"): "job.yaml:6: mindformers.set.output_dir: is chosen",
    JOB.replace(
        "a: {b.c: 2}", "context.device_target: CPU"
    ): "job.yaml:6: mindformers.set.context.device_target: is a key of the job (write it as device_target)",
    JOB.replace("a: {b.c: 2}", "run_mode: x"): "job.yaml:6: mindformers.set.run_mode: is a key",
    JOB.replace("a: {b.c: 2}", "'a b': 2"): "job.yaml:6: mindformers.set.a b: 'a b' is not the path of a key",
    JOB.replace(
        "a: {b.c: 2}", "runner_config: {epochs: 2}"
    ): "job.yaml:6: mindformers.set.runner_config.epochs: sets what another key here sets, too",
    JOB.replace(SET, "  set: 3\n"): "job.yaml:6: mindformers.set: expected a mapping of keys",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: WRONG[text][10:50])
def test_what_is_wrong_has_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job(tmp_path, text)
    said = [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert said[0].startswith(WRONG[text]) and len(said) == 1, said


def test_a_run_yaml_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("seed: 0\n")
    with pytest.raises(ConfigError, match="MindFormers goes by the name"):
        job(tmp_path, JOB.replace("run.yaml", "run.txt"))


@pytest.mark.parametrize(
    ("script", "module"),
    [("run_mindformer.py", False), ("a/b", False), ("/opt/run.py", False), ("a.b.c", True), ("start", True)],
)
def test_a_script_is_a_file_or_a_module(script: str, module: bool) -> None:
    assert is_module(script) is module


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "--config=x.yaml",
            "--config is set by the orchestrator for every attempt (write it as mindformers.config)",
        ),
        ("--run_mode", "--run_mode is set by the orchestrator for every attempt"),
        ("--output_dir", "--output_dir is set by the orchestrator for every attempt (remove it"),
        ("--use_parallel=False", "--use_parallel is set by the orchestrator for every attempt (remove it)"),
        ("--device_target", "(write it as device_target)"),
        ("--context.device_id=1", "(remove it; the inventory has the devices)"),
        ("--load_checkpoint", "every attempt (write it as mindformers.set.load_checkpoint)"),
        ("--resume_training=True", "(write it as mindformers.set.resume_training)"),
        ("--auto_trans_ckpt", "(write it as mindformers.set.auto_trans_ckpt)"),
        ("--load_ckpt_format", "(write it as mindformers.set.load_ckpt_format)"),
        ("--remove_redundancy", "(write it as mindformers.set.remove_redundancy)"),
        ("--src_strategy_path_or_dir", "(write it as mindformers.set.src_strategy_path_or_dir)"),
        (
            "--parallel_config.model_parallel=4",
            "(write it as mindformers.set.parallel_config.model_parallel)",
        ),
    ],
)
def test_arguments_do_not_go_before_the_run_yaml(tmp_path: Path, word: str, said: str) -> None:
    (tmp_path / "start.py").write_text("")
    with pytest.raises(ConfigError) as caught:
        job(tmp_path, JOB + f"  script: start.py\n  args: [--mine, 'a=b', '{word}', '1']\n")
    [problem] = caught.value.problems
    assert "job.yaml:8: mindformers.args" in str(problem) and said in str(problem)


def test_arguments_of_a_script_of_ones_own_pass(tmp_path: Path) -> None:
    (tmp_path / "start.py").write_text("")
    words = ["--mine", "--config_of_mine=x", "--my.key", "load_checkpoint", "-x", "--"]
    read = job(tmp_path, JOB + f"  script: start.py\n  args: {words}\n")
    assert read.mindformers is not None and list(read.mindformers.args) == words


@pytest.mark.parametrize(
    ("script", "beside", "said"),
    [
        (
            "train",
            "train.py",
            "'train' is the name of a module, but train.py lies beside the job file (write train.py)",
        ),
        ("train", "train", "but train lies beside the job file (write ./train, or move the file)"),
        ("my.start", "my.start.py", "but my.start.py lies beside the job file (write my.start.py)"),
        ("run.sh", "run.sh", "'run.sh' is of the shell"),
        ("/opt/mindformers/run.sh", None, "is of the shell"),
        ("./run.sh", "run.sh", "(name the .py file that it starts"),
        ("train", None, ""),
        ("a" * 3000, None, ""),
        ("./train", "train", ""),
        ("mindformers.run", "run.py", ""),
    ],
)
def test_a_file_is_not_taken_for_a_module(tmp_path: Path, script: str, beside: str | None, said: str) -> None:
    if beside:
        (tmp_path / beside).write_text("")
    if not said:
        assert job(tmp_path, JOB + f"  script: {script}\n").mindformers
        return
    with pytest.raises(ConfigError) as caught:
        job(tmp_path, JOB + f"  script: {script}\n")
    [problem] = caught.value.problems
    assert "job.yaml:7: mindformers.script: " in str(problem) and said in str(problem)
