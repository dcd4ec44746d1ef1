"""Arguments of a script of MindFormers: as argparse reads them, and the files that they name."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from orchestrator.plan.launch_plan import LaunchPlan
from tests.plan.test_mindformers_run import Path, files, planned, problems, section

__all__ = ["files"]

OWN = """\
import argparse
parser = argparse.ArgumentParser(ABBREV)
for name in ("--config", "--run_mode"):
    parser.add_argument(name)
parser.add_argument("--config", "--load", "--load_checkpoint_of_mine")
parser.add_argument("--use_parallel_tokenizer")
parser.add_argument("--use_parallel")
"""


def script(*words: str, name: str = "run_mindformer.py") -> dict[str, Any]:
    return section(script=name, args=list(words))


def sent(plan: LaunchPlan) -> set[str]:
    return {item.path for item in plan.manifests["host1"].inputs}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--epochs", "1", "--load_check", "/w"],
            "mindformers.args[2]: --load_check is short for an option: --load_checkpoint goes before the run "
            "YAML of every attempt (write it as mindformers.set.load_checkpoint)",
        ),
        (["--resu=True"], "--resu is short for an option: --resume_training goes before the run YAML"),
        (
            ["--out=./x"],
            "--out is short for an option: --output_dir is set by the orchestrator for every attempt",
        ),
        (["--use", "False"], "--use is short for an option: --use_parallel is set by the orchestrator"),
        (["--device", "1"], "--device may be --device_id, --device_target, and the script would not start"),
        (
            ["--opt", "seed=1", "load_checkpoint=/w"],
            "load_checkpoint behind --options: --load_checkpoint goes",
        ),
        (["--options", "runner_config.epochs=1"], "write it as mindformers.set.runner_config.epochs"),
    ],
)
def test_what_argparse_takes_for_an_option_that_is_ours_is_refused(
    files: Path, words: list[str], said: str
) -> None:
    (files / "run_mindformer.py").write_text("")
    [told] = problems(files, (), script(*words))
    assert told.startswith("job.yaml:") and said in told


@pytest.mark.parametrize(
    "words",
    [
        ["--mode", "0", "--seed", "1", "--do", "True"],
        ["--profile_of_mine", "x=y", "--epochs=1", "-l", "load_checkpoint=/w"],
        ["--", "--load_check"],
    ],
)
def test_what_it_takes_for_another_passes(files: Path, words: list[str]) -> None:
    (files / "run_mindformer.py").write_text("")
    assert planned(files, (), script(*words)).manifests["host1"].workers[0].argv[-len(words) :] == tuple(
        words
    )


def test_a_script_that_declares_its_options_is_believed(files: Path) -> None:
    (files / "mine.py").write_text(OWN.replace("ABBREV", ""))
    assert planned(files, (), script("--load", "x", "--load_check", "y", name="mine.py"))
    [told] = problems(files, (), script("--use_par", "x", name="mine.py"))
    assert "--use_par may be --use_parallel, --use_parallel_tokenizer" in told
    (files / "mine.py").write_text(OWN.replace("ABBREV", "allow_abbrev=False"))
    assert planned(files, (), script("--use_par", "x", name="mine.py"))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--use_parallel")
    assert parser.parse_known_args(["--use_par", "x"])[1] == ["--use_par", "x"]


def test_files_that_the_script_reads_are_sent_or_checked_on_the_hosts(files: Path) -> None:
    (files / "research/mine").mkdir(parents=True)
    (files / "research/mine/net.py").write_text("")
    (files / "set.mindrecord").write_text("")
    (files / "run_mindformer.py").write_text("")
    words = [
        "--register_path",
        "research/mine",
        "--train_dataset=set.mindrecord",
        "--eval_dataset_dir",
        "/data/e",
    ]
    plan = planned(files, (), script(*words))
    assert {"research/mine/net.py", "set.mindrecord"} <= sent(plan) and "/data/e" in plan.host_paths
    [told] = problems(files, (), script("--register_path", "gone"))
    assert told.startswith("job.yaml:") and "mindformers.args[1]: 'gone' is not beside the job file" in told


def test_a_path_of_the_scripts_folder_is_looked_for_there(files: Path) -> None:
    (files / "tree/research").mkdir(parents=True)
    (files / "tree/research/net.py").write_text("")
    (files / "tree/run.py").write_text("")
    plan = planned(files, (), script("--register_path", "research", name="tree/run.py"))
    assert "tree/research/net.py" in sent(plan)
    plan = planned(files, (), script("--register_path", "research", name="/opt/mf/run_mindformer.py"))
    assert "/opt/mf/research" in plan.host_paths


def test_what_no_host_gets_is_told_with_the_name_by_which_sync_sends_it(files: Path) -> None:
    (files / "tools/deep").mkdir(parents=True)
    (files / "tools/deep/a.json").write_text("{}")
    (files / "run_mindformer.py").write_text("")
    words = script("--mine", "tools/deep/a.json")
    said = "mindformers.args names tools/deep/a.json, which is not among the files of sync: no host gets it"
    assert said in planned(files, (), words).notes
    job = {**script("--mine", "tools/deep"), "sync": ["tools/deep"]}
    assert (
        "mindformers.args names tools/deep, which sync sends as deep: write that"
        in planned(files, (), job).notes
    )
    job = {**script("--mine", "tools/deep/a.json"), "sync": ["tools"]}
    assert not any("mindformers.args" in note for note in planned(files, (), job).notes)
