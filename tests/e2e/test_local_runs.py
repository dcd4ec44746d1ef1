"""Runs on local hosts: real processes, real files, the CLI as a person calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from orchestrator.agent.control_socket import ask
from orchestrator.core.paths import RunDir
from orchestrator.testing.local_cluster import Cluster, processes_with
from orchestrator.testing.waiting import eventually

Make = Callable[..., Cluster]


def test_a_run_from_launch_to_logs(local: Cluster) -> None:
    job = local.job(["sh", "-c", "echo hello from {rank} of $RANK_SIZE on device $DEVICE_ID"])
    result = local.launch(job)
    assert result.returncode == 0, result.stderr
    assert "succeeded" in result.stdout
    record = local.status()
    assert record["state"] == "succeeded" and record["world_size"] == 4
    logs = local.run("logs").stdout.splitlines()
    assert logs == [f"[rank {r}] hello from {r} of 4 on device {r % 2}" for r in range(4)]
    assert local.run("logs", "--rank", "1,3").stdout.count("\n") == 2
    assert local.run("logs", "--host", "host2").stdout.startswith("[rank 2]")
    runs = json.loads(local.run("runs", "--json").stdout)
    assert [run["run_id"] for run in runs] == [record["run_id"]]


def test_the_first_failure_ends_the_gang_and_is_named(local: Cluster) -> None:
    script = "if [ $RANK_ID = 2 ]; then echo the disk is on fire >&2; sleep 1; exit 3; fi; sleep 300"
    result = local.launch(local.job(["sh", "-c", script]))
    assert result.returncode == 1
    assert "Cause: rank 2 on host2 exited with code 3" in result.stdout
    assert "the disk is on fire" in result.stdout
    assert "Ended because of it: rank 0-1, 3" in result.stdout
    record = local.status()
    assert record["state"] == "failed" and record["cause"]["label"] == "rank_2"
    assert local.states() == {0: "stopped", 1: "stopped", 2: "failed", 3: "stopped"}
    assert local.run("status").returncode == 1


def test_a_worker_killed_by_sigkill_is_named_with_its_signal(local: Cluster) -> None:
    with local.launching(local.job(local.sleep)) as launch:
        local.wait_until_running()
        ranks = [rank for host in local.status()["hosts"].values() for rank in host["status"]["ranks"]]
        os.kill(next(rank["process"]["pid"] for rank in ranks if rank["rank"] == 1), signal.SIGKILL)
        out, _ = launch.communicate(timeout=120)
    assert launch.returncode == 1
    assert "Cause: rank 1 on host1 was killed by signal 9" in out


def test_a_killed_supervisor_takes_its_workers_and_the_run_with_it(local: Cluster) -> None:
    with local.launching(local.job(local.sleep)) as launch:
        local.wait_until_running()
        os.kill(local.status()["hosts"]["host1"]["status"]["supervisor"]["pid"], signal.SIGKILL)
        out, _ = launch.communicate(timeout=120)
    assert launch.returncode == 1
    assert "on host1 failed: the supervisor on host1 was ended by signal 9" in out
    eventually(lambda: not local.sleepers(), what="no worker left")


def test_ctrl_c_detaches_and_attach_comes_back(local: Cluster) -> None:
    flag = local.folder / "go"
    job = local.job(["sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.1; done; exit 7"])
    with local.launching(job) as launch:
        local.wait_until_running()
        launch.send_signal(signal.SIGINT)
        _, err = launch.communicate(timeout=120)
        assert launch.returncode == 5
        assert "detached" in err and "orchestrate attach" in err
    assert set(local.states().values()) == {"running"}
    flag.touch()
    attached = local.run("attach")
    assert attached.returncode == 1
    assert "exited with code 7" in attached.stdout


def test_detach_returns_once_all_workers_run(local: Cluster) -> None:
    result = local.launch(local.job(local.sleep), "--detach")
    assert result.returncode == 0
    assert "orchestrate attach" in result.stdout
    assert set(local.states().values()) == {"running"}
    again = local.run("stop", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["state"] == "stopped"
    nothing = local.run("stop")
    assert nothing.returncode == 0 and "no run is active, nothing was stopped" in nothing.stderr
    failed = local.launch(local.job(["false"]), "--json")
    assert failed.returncode == 1 and json.loads(failed.stdout)["summary"]["state"] == "failed"
    looked = local.run("logs", "--fold", "--timestamps", "--tail", "3")
    assert looked.returncode == 0 and "no run is active; this is the newest" in looked.stderr


def test_stop_ends_every_worker_and_stopping_again_is_no_error(local: Cluster) -> None:
    with local.launching(local.job(local.sleep)) as launch:
        local.wait_until_running()
        stopped = local.run("stop")
        assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped
        launch.communicate(timeout=120)
        assert launch.returncode == 5
    assert not local.sleepers()
    assert set(local.states().values()) == {"stopped"}
    assert local.run("stop").returncode == 0


def test_workers_that_ignore_sigterm_are_killed_after_the_grace_period(local: Cluster) -> None:
    script = f"trap '' TERM; {' '.join(local.sleep)} & while :; do wait; done"
    local.launch(local.job(["sh", "-c", script]), "--detach")
    assert local.run("stop").returncode == 0
    eventually(lambda: not local.sleepers(), what="no grandchild left")


def test_the_monitor_may_die_and_the_run_goes_on(local: Cluster) -> None:
    flag = local.folder / "go"
    job = local.job(["sh", "-c", f"echo begun; while [ ! -e {flag} ]; do sleep 0.1; done; echo done"])
    local.launch(job, "--detach")
    local.kill_monitor()
    assert set(local.states().values()) == {"running"}
    assert local.run("logs", "--rank", "0").stdout == "[rank 0] begun\n"
    flag.touch()
    assert local.run("attach").returncode == 0
    assert local.run("logs", "--rank", "0").stdout == "[rank 0] begun\n[rank 0] done\n"


def test_a_gang_without_a_monitor_is_stopped_by_the_next_one(local: Cluster) -> None:
    flag = local.folder / "die"
    script = f"while [ ! -e {flag} ]; do sleep 0.1; done; [ $RANK_ID = 0 ] && exit 9; sleep 300"
    local.launch(local.job(["sh", "-c", script]), "--detach")
    local.kill_monitor()
    flag.touch()
    eventually(lambda: local.states()[0] == "failed")
    result = local.run("attach")
    assert result.returncode == 1
    assert "Cause: rank 0 on host1 exited with code 9" in result.stdout
    assert local.states() == {0: "failed", 1: "stopped", 2: "stopped", 3: "stopped"}


def test_a_lost_state_directory_is_rediscovered_from_the_hosts(local: Cluster) -> None:
    local.launch(local.job(["sh", "-c", "echo still here; sleep 300"]), "--detach")
    run_id = local.status()["run_id"]
    local.kill_monitor()
    shutil.rmtree(local.state)
    assert local.run("status").returncode == 2
    found = local.run("runs", "--rediscover", "-i", local.inventory)
    assert found.returncode == 0 and run_id in found.stdout, found
    assert set(local.states().values()) == {"running"}
    assert "[rank 3] still here" in local.run("logs").stdout
    with subprocess.Popen(
        local.argv("attach"), env=local.env, cwd=local.folder, stdout=subprocess.PIPE
    ) as attach:
        assert local.run("stop").returncode == 0
        attach.communicate(timeout=120)
    assert attach.returncode == 5


def test_two_runs_on_one_host_never_share_a_device_or_an_end(local_with: Make) -> None:
    cluster = local_with(hosts=1, devices="0-1")
    assert cluster.launch(cluster.job(cluster.sleep, name="first"), "--detach").returncode == 0
    refused = cluster.launch(cluster.job(cluster.sleep, name="second"))
    assert refused.returncode == 4
    assert "host1: device 0-1: in use by another run" in refused.stderr
    assert cluster.status("first")["state"] == "running"
    assert cluster.run("stop", "second").returncode == 0
    assert len(cluster.sleepers()) == 2


def test_secrets_of_the_job_show_nowhere(local: Cluster) -> None:
    secret = "hunter2-of-this-very-test"
    job = local.job(["sh", "-c", "echo got $API_TOKEN | wc -c; sleep 300"], env={"API_TOKEN": secret})
    assert secret not in local.run("launch", job, "-i", local.inventory, "--dry-run").stdout
    local.launch(job, "--detach")
    assert not processes_with(secret)
    assert local.run("logs", "--rank", "0").stdout == f"[rank 0] {len(secret) + 5}\n"
    for path in [*local.state.rglob("*"), *local.folder.glob("hosts/**/*")]:
        if path.is_file() and secret.encode() in path.read_bytes():
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.name in ("plan.json", "manifest.json"), path


def test_an_unmodified_script_is_shipped_and_run(local: Cluster) -> None:
    (local.folder / "train.py").write_text("import os, helper\nprint(helper.word, os.environ['RANK_ID'])\n")
    (local.folder / "helper.py").write_text("word = 'imported'\n")
    job = local.job(["{python}", "train.py"], sync=["train.py", "helper.py"])
    assert local.launch(job).returncode == 0
    assert local.run("logs", "--rank", "3").stdout == "[rank 3] imported 3\n"
    (local.folder / "run.sh").write_text("#!/bin/sh\necho run by $RANK_ID\n")
    (local.folder / "run.sh").chmod(0o755)
    assert local.launch(local.job(["./run.sh"], sync=["run.sh"])).returncode == 0
    assert local.run("logs", "--rank", "1").stdout == "[rank 1] run by 1\n"


def test_a_scheduler_that_never_ends_does_not_hold_up_a_finished_run(local: Cluster) -> None:
    script = 'if [ "$MS_ROLE" = MS_SCHED ]; then exec sleep 300; fi; echo $MS_WORKER_NUM $MS_SCHED_HOST'
    result = local.launch(local.job(["sh", "-c", script], networking={"mode": "dynamic"}))
    assert result.returncode == 0, result
    assert set(local.states().values()) == {"succeeded"}
    assert local.run("logs", "--rank", "0").stdout == "[rank 0] 4 127.0.0.1\n"


def test_env_script_is_sourced_before_the_workers(tmp_path: Path, local_with: Make) -> None:
    script = tmp_path / "set_env.sh"
    script.write_text("echo noise; export FROM_SCRIPT=yes\n")
    cluster = local_with(hosts=1, env_script=str(script))
    assert cluster.launch(cluster.job(["sh", "-c", "echo $FROM_SCRIPT"])).returncode == 0
    assert cluster.run("logs", "--rank", "0").stdout.endswith("yes\n")


def test_python_users_can_call_what_the_verbs_call(local: Cluster) -> None:
    code = (
        "from pathlib import Path; from orchestrator.control.launch import launch, plan_launch;"
        "job, plan = plan_launch(Path('job.yaml'), Path('inventory.yaml'));"
        "print(launch(plan).run_id)"
    )
    local.job(["true"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=local.env,
        cwd=local.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    eventually(lambda: local.status()["state"] == "succeeded")
    assert local.status()["run_id"] == done.stdout.strip()


def test_logs_follow_to_the_end_and_tail_begins_near_it(local: Cluster) -> None:
    flag = local.folder / "go"
    script = f"seq 1000; printf half; while [ ! -e {flag} ]; do sleep 0.1; done; echo ' a line'; echo last"
    local.launch(local.job(["sh", "-c", script]), "--detach")
    argv = local.argv("logs", "--rank", "2", "--tail", "3", "--follow")
    with subprocess.Popen(argv, env=local.env, cwd=local.folder, stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None
        # The third of the last three is the line that is not whole yet, as for `tail`.
        first = [follow.stdout.readline() for _ in range(2)]
        assert first == [f"[rank 2] {number}\n" for number in (999, 1000)]
        flag.touch()
        assert follow.stdout.read() == "[rank 2] half a line\n[rank 2] last\n"
    assert follow.returncode == 0
    watched = local.run("status", "--watch")
    assert watched.returncode == 0 and "succeeded" in watched.stdout
    assert local.run("logs", "--rank", "9").returncode == 2
    assert "write ranks like" in local.run("logs", "--rank", "3-1").stderr


def test_a_run_of_which_one_host_was_stopped_is_stopped_whole(local: Cluster) -> None:
    with local.launching(local.job(local.sleep)) as launch:
        local.wait_until_running()
        run = local.run_dirs()[0]
        control_socket = RunDir(run).control_socket
        ask(control_socket, {"verb": "stop", "reason": "by hand"})
        launch.communicate(timeout=120)
    assert launch.returncode == 5
    assert set(local.states().values()) == {"stopped"}
    assert not local.sleepers()
