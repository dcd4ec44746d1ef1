"""What PYTHONPATH a worker gets: its own, env_script's and the account's, by real shells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.agent.worker_environment import process_environment, with_env_script
from orchestrator.core.records import WorkerSpec
from orchestrator.testing.agent_host import AgentHost

ACCOUNT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/account", "TOOLCHAIN_HOME": "/tools", "SECRET": "x"}
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"
# CANN's set_env.sh puts its own before what there was; others forget what there was.
SCRIPTS = {
    "none": (None, "/run/code:/account"),
    "before": ("export PYTHONPATH=/cann:$PYTHONPATH", "/run/code:/cann:/account"),
    "instead": ("export PYTHONPATH=/cann", "/run/code:/cann"),
    "unset": ("unset PYTHONPATH", "/run/code"),
    "strict": ("set -eu; export PYTHONPATH=/cann:${PYTHONPATH:-}", "/run/code:/cann:/account"),
}


def run(folder: Path, account: dict[str, str], own: dict[str, str], script: str | None) -> dict[str, str]:
    """The environment that a process gets, as a worker is started."""
    path = folder / "env 'script'.sh"
    path.write_text(script or "")
    argv = [sys.executable, "-c", SHOW]
    env_script = None if script is None else str(path)
    env = process_environment(account, own, env_script)
    done = subprocess.run(
        argv if env_script is None else with_env_script(env_script, argv),
        env=env,
        capture_output=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_workers_own_comes_first_and_nothing_is_lost(tmp_path: Path, name: str) -> None:
    script, expected = SCRIPTS[name]
    env = run(tmp_path, ACCOUNT, {"PYTHONPATH": "/run/code"}, script)
    assert env["PYTHONPATH"] == expected
    assert env["TOOLCHAIN_HOME"] == "/tools"
    assert not {"SECRET", "ORCHESTRATE_PYTHONPATH"} & set(env)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_command_without_one_gets_those_of_the_host(tmp_path: Path, name: str) -> None:
    script, expected = SCRIPTS[name]
    env = run(tmp_path, ACCOUNT, {}, script)
    assert env.get("PYTHONPATH", "") == expected.removeprefix("/run/code").lstrip(":")


def test_where_nobody_gives_one_there_is_none(tmp_path: Path) -> None:
    assert "PYTHONPATH" not in run(tmp_path, {"PATH": "/bin"}, {}, None)
    assert "PYTHONPATH" not in run(tmp_path, {"PATH": "/bin"}, {}, "true")


def test_the_probe_sees_what_a_worker_sees(host: AgentHost, tmp_path: Path) -> None:
    """Both by the agent, over a script that has the last word on everything it sets."""
    script = tmp_path / "set_env.sh"
    script.write_text(
        "export PYTHONPATH=/cann/site-packages:$PYTHONPATH HCCL_BUFFSIZE=1 ASCEND_OPP_PATH=/cann/opp\n"
        "export HCCL_RDMA_TC=${HCCL_RDMA_TC:-132}\n"
    )
    own = {"PYTHONPATH": "/own", "HCCL_BUFFSIZE": "200", "HCCL_RDMA_TC": "4"}
    probe = host.session.call("probe", ascend=True, env_script=str(script), env=own)
    worker = WorkerSpec("rank_0", 0, 0, 0, (sys.executable, "-c", SHOW), own)
    host.launch(workers=(worker,), devices=(0,), env_script=str(script))
    host.wait_over()
    env = json.loads(host.run_dir().attempt.log("rank_0").read_text())
    assert env["PYTHONPATH"].startswith("/own:/cann/site-packages:")
    told = {**probe["environment"], **{k: v for k, v in probe["ascend"]["variables"].items() if v}}
    assert {name: env.get(name) for name in told} == told
    assert (told["HCCL_BUFFSIZE"], told["HCCL_RDMA_TC"]) == ("1", "4")


@pytest.mark.parametrize(
    "script",
    [
        "set -- other words",
        "shift $#",
        "set --; set -u",
        "while [ $# -gt 0 ]; do shift; done",
        # As a script for a person's shell may refuse what it does not know.
        'if [ $# -gt 0 ]; then echo "unknown option $1"; return 1; fi',
        "set -o posix",
    ],
)
def test_a_scripts_arguments_are_not_the_workers(tmp_path: Path, script: str) -> None:
    argv = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", "", "*", "$HOME"]
    path = tmp_path / "env.sh"
    path.write_text(f"{script}\n")
    env = process_environment(ACCOUNT, {}, str(path))
    done = subprocess.run(with_env_script(str(path), argv), env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "['a b', '', '*', '$HOME']\n"), done.stderr


def test_what_a_script_declares_stays(tmp_path: Path) -> None:
    """Were it sourced inside a function, it would not."""
    env = run(tmp_path, ACCOUNT, {}, "declare -x TOOLCHAIN_HOME=/other")
    assert env["TOOLCHAIN_HOME"] == "/other"
    assert "ORCHESTRATE_ARGV" not in env
