"""What is missing on hosts that are this machine is found by a dry run, in the words of the preflight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.control.launch import plan_launch
from orchestrator.core.errors import HostsFailed, PreflightError
from orchestrator.hosts.fleet import error_lines
from tests.plan.test_make_plan import TRAIN

COMMAND = "name: c\ntask: command\ndevices_per_host: 1\nnetworking: {mode: none}\n"
PUT = "(put it there, or give a path relative to the job file to have it shipped)"


def planned(folder: Path, text: str, *, hosts: str = "a", transport: str = "local", **keys: str) -> list[str]:
    """The lines of the refusal; nothing where it is none."""
    given = "".join(f", {key}: {value}" for key, value in keys.items())
    names = "[{}]".format(", ".join(f"{{name: {name}}}" for name in hosts))
    (folder / "hosts.yaml").write_text(
        f"transport: {transport}\ndefaults: {{devices: 0-1{given}}}\nhosts: {names}\n"
    )
    (folder / "job.yaml").write_text(text)
    (folder / "data.json").write_text('[{"instruction": "a", "output": "b"}]')
    try:
        plan_launch(folder / "job.yaml", folder / "hosts.yaml")
    except (PreflightError, HostsFailed) as error:
        assert error.exit_code == 4
        return error_lines(error)
    return []


def test_data_of_the_job(tmp_path: Path) -> None:
    text = TRAIN.replace("data.json", "/none/data.json")
    assert planned(tmp_path, text, hosts="ab") == [f"a,b: /none/data.json does not exist {PUT}"]
    (tmp_path / "there.json").write_text("[]")
    there = TRAIN.replace("data.json", f"{tmp_path}/there.json")
    assert planned(tmp_path, there, hosts="ab") == []


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("['{python}', -u, /none/train.py, --out, /none/out]", "/none/train.py"),
        ("[/none/bin/run, --data, x]", "/none/bin/run"),
        ("['{python}', -m, json.tool]", ""),
        ("['{python}', -c, print(1), /none/x]", ""),
        ("[/bin/sh, -c, true]", ""),
        ("['{run_dir}/x.sh']", ""),
        ("[hostname]", ""),
    ],
)
def test_the_program_of_a_command(tmp_path: Path, command: str, missing: str) -> None:
    lines = planned(tmp_path, COMMAND + f"command: {command}\n")
    assert lines == ([f"a: {missing} does not exist {PUT}"] if missing else [])


def test_what_the_inventory_names(tmp_path: Path) -> None:
    text = COMMAND + "command: [hostname]\n"
    assert planned(tmp_path, text, python=sys.executable, env_script="/none/env.sh") == [
        "a: env_script /none/env.sh does not exist (mend the inventory)"
    ]
    (line,) = planned(tmp_path, text, python="/none/python", env_script="/none/env.sh")
    assert line.startswith(
        "a: no Python at `/none/python`; env_script /none/env.sh does not exist (set `python:`"
    )


def test_of_servers_a_dry_run_knows_nothing(tmp_path: Path) -> None:
    text = TRAIN.replace("data.json", "/none/data.json")
    hosts = {"hosts": "ab", "transport": "ssh", "python": "/none/python", "env_script": "/none/env.sh"}
    assert planned(tmp_path, text, **hosts) == []
