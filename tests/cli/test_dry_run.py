"""What `launch --dry-run` prints, for people and as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.cmd_launch import command
from tests.plan.test_make_plan import TRAIN

HOSTS = "transport: local\ndefaults: {devices: 0-1}\nhosts: [{name: a}, {name: b}]\n"
COMMAND = "name: c\ntask: command\ndevices_per_host: 2\ncommand: [hostname]\nenv: {OMP_NUM_THREADS: 1}\n"
SECRETS = ("s3cr3t-value", "/s3cr3t/lib", "http://s3cr3t")


def dry_run(folder: Path, text: str, *options: str) -> str:
    (folder / "data.json").write_text('[{"instruction": "a", "output": "b"}]')
    (folder / "hosts.yaml").write_text(HOSTS)
    (folder / "job.yaml").write_text(text)
    argv = [str(folder / "job.yaml"), "-i", str(folder / "hosts.yaml"), "--dry-run", *options]
    done = CliRunner().invoke(command, argv, standalone_mode=False)
    assert done.return_value == 0, done.exception
    return done.output


@pytest.mark.parametrize("text", [COMMAND, TRAIN], ids=["command", "training"])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_no_value_of_the_jobs_environment_is_printed(
    tmp_path: Path, text: str, options: tuple[str, ...]
) -> None:
    given = f"env: {{MY_OWN: {SECRETS[0]}, PYTHONPATH: {SECRETS[1]}, http_proxy: '{SECRETS[2]}', "
    printed = dry_run(tmp_path, text.replace("env: {", given), *options)
    assert not [secret for secret in SECRETS if secret in printed]
    for name in ("MY_OWN", "http_proxy", "OMP_NUM_THREADS", "PYTHONPATH"):
        assert name in printed  # that they are set is no secret
    if options:
        env = json.loads(printed)["first_worker"]["env"]
        assert (env["MY_OWN"], env["RANK_ID"]) == ("***", "0")
