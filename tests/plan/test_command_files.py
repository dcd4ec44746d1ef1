"""A script that no host would have is told before the launch."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job, lines_of

JOB = "name: own\ntask: command\nnetworking: {mode: none}\ndevices_per_host: 2\n"
ROOT = Path(__file__).parents[2]


def files(folder: Path) -> None:
    (folder / "src").mkdir()
    for name in ("train.py", "run.sh", "src/main.py", "conf.yaml"):
        (folder / name).write_text("")
    (folder / "run.sh").chmod(0o755)


def refused(folder: Path, rest: str) -> list[str]:
    files(folder)
    servers = inventory(folder)
    return lines_of(folder, lambda: make_plan(job(folder, JOB + rest), servers))


@pytest.mark.parametrize(
    ("rest", "line"),
    [
        (
            'command: ["{python}", train.py]',
            "command[1]: 'train.py' is not among the files of sync (write sync: [train.py])",
        ),
        (
            "command: [python3, -u, src/main.py]",
            "command[2]: 'src/main.py' is not among the files of sync (write sync: [src])",
        ),
        (
            "sync: [src/main.py]\ncommand: [python3, src/main.py]",
            "command[1]: 'src/main.py' is not among the files of sync (it is sent as main.py: write that)",
        ),
        (
            "sync: [src]\ncommand: [python3, missing.py]",
            "command[1]: 'missing.py' is not among the files of sync"
            " (nor is it beside the job file; an absolute path is one of the hosts)",
        ),
        (
            "command: [./run.sh]",
            "command[0]: './run.sh' is not among the files of sync (write sync: [run.sh])",
        ),
        ("sync: [run.sh]\ncommand: [run.sh]", "command[0]: 'run.sh' is looked for in PATH (write ./run.sh)"),
        (
            "sync: [train.py]\ncommand: [./train.py]",
            "command[0]: './train.py' is not executable (chmod +x ./train.py)",
        ),
    ],
)
def test_a_script_that_no_host_would_have(tmp_path: Path, rest: str, line: str) -> None:
    number = 6 if rest.startswith("sync") else 5
    assert refused(tmp_path, rest) == [f"job.yaml:{number}: {line}"]


@pytest.mark.parametrize(
    "rest",
    [
        'sync: [train.py]\ncommand: ["{python}", train.py]',
        'sync: [train.py]\ncommand: ["{python}", ./train.py]',
        "sync: [src]\ncommand: [python3, src/main.py]",
        "sync: [src]\ncommand: [python3, src]",
        "sync: [run.sh]\ncommand: [./run.sh]",
        "command: [python3, -m, package]",
        "command: [python3, -c, print(1)]",
        "command: [python3, /opt/train.py]",
        "command: [hostname]",
        "command: [deepspeed.py]",
    ],
)
def test_commands_that_can_start(tmp_path: Path, rest: str) -> None:
    files(tmp_path)
    made = make_plan(job(tmp_path, JOB + rest), inventory(tmp_path))
    assert made.notes == ()


def test_another_file_that_a_command_names_and_nobody_sends_is_told(tmp_path: Path) -> None:
    files(tmp_path)
    rest = (
        "sync: [train.py]\ncommand: [python3, train.py, --config=conf.yaml, --out, result.txt, " + "x" * 5000
    )
    made = make_plan(job(tmp_path, JOB + rest + "]"), inventory(tmp_path))
    assert made.notes == ("command names conf.yaml, which is not among the files of sync: no host gets it",)


def test_the_shipped_command_is_told_nothing() -> None:
    made = make_plan(load_job(ROOT / "jobs/command.yaml"), load_inventory(ROOT / "inventory/local.yaml"))
    assert made.notes == ()
