"""The whole environment of every process of a small run, for each way to start it, as golden files.

Two hosts of two devices, so that hosts, local ranks and devices all count; each process is really started and
prints what it got. `{account}` stands for what the host's account gives to everything that it runs.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.agent.worker import Worker
from orchestrator.agent.worker_environment import base_environment
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.codec import from_json
from orchestrator.core.errors import ConfigError
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.plan.complete_plan import complete_plan
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.testing.waiting import eventually
from tests.config.support import inventory, job
from tests.plan.test_inputs import PLANNED

GOLDEN = Path(__file__).parent / "environments"
ROOT = Path(__file__).parents[2]
MODES = ("none", "dynamic", "rank_table", "legacy_rank_table")
TARGETS = ("CPU", "Ascend")
HOSTS = """\
defaults: {devices: [4, 6]}
hosts:
  - {name: "npu[1-2]", address: "10.0.0.[1-2]", device_ips: "29.1.[1-2].[1-2]"}
"""
JOB = """\
name: golden
task: command
devices_per_host: 2
device_target: TARGET
command: [env, "-0"]
env: {OMP_NUM_THREADS: 1}
networking: {mode: MODE}
"""


def plan_of(folder: Path, mode: str, target: str, hosts: str = HOSTS) -> LaunchPlan:
    text = JOB.replace("TARGET", target).replace("MODE", mode)
    return make_plan(job(folder, text), inventory(folder, hosts), now=0.0)


def printed(spec: WorkerSpec, manifest: Manifest, run: RunDir) -> dict[str, str]:
    """The environment of a process that is really started."""
    worker = Worker(spec, manifest, run)
    worker.start()
    eventually(worker.poll, what="its end")
    text = run.attempt.log(spec.label).read_text()
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


def lines(folder: Path, plan: LaunchPlan) -> Iterator[str]:
    for host, manifest in plan.manifests.items():
        run = RunDir(folder / "runs" / host)
        run.make()
        chosen = dataclasses.replace(manifest, port=8118)
        for spec in filter(None, (manifest.scheduler, *manifest.workers)):
            account = base_environment(os.environ)
            own = {
                name: value
                for name, value in printed(spec, chosen, run).items()
                if account.get(name) != value and name not in ("PWD", "SHLVL", "_")
            }
            yield f"# {spec.label} on {host}: {{account}} and"
            yield from (f"{name}={own[name]}".replace(str(run.root), "{run_dir}") for name in sorted(own))
            yield ""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", MODES)
def test_environments(tmp_path: Path, mode: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_PROCESS_LOG_PATH", raising=False)
    made = "\n".join(lines(tmp_path, plan_of(tmp_path, mode, target)))
    assert made == (GOLDEN / f"{mode}-{target}.txt").read_text()


def test_variables_of_the_job_reach_its_program_as_they_were_written(tmp_path: Path) -> None:
    text = JOB.replace("TARGET", "CPU").replace("MODE", "none")
    text = text.replace("{OMP", "{A: 'x{port}{rank}{python}{run_dir}{y}', PYTHONPATH: '/{rank}', OMP")
    made = make_plan(job(tmp_path, text), inventory(tmp_path, HOSTS), now=0.0)
    manifest, run = made.manifests["npu2"], RunDir(tmp_path / "run")
    run.make()
    found = printed(manifest.workers[0], manifest, run)
    assert found["A"] == "x{port}{rank}{python}{run_dir}{y}"
    assert found["PYTHONPATH"].startswith("/{rank}")
    shown = dataclasses.replace(manifest.workers[0], argv=("echo", "{port} {rank}"))
    other_run = RunDir(tmp_path / "words")
    other_run.make()
    worker = Worker(shown, manifest, other_run)
    worker.start()
    eventually(worker.poll, what="its end")
    assert other_run.attempt.log(shown.label).read_text() == "{port} 2\n"
    # No scheduler, so nobody chose a port: each host finds the same one by itself.
    other = made.manifests["npu1"]
    there = RunDir(tmp_path / "there")
    there.make()
    assert found["MASTER_PORT"] == printed(other.workers[0], other, there)["MASTER_PORT"]
    assert 20000 <= int(found["MASTER_PORT"]) < 30000


def write() -> None:
    """Write the golden files anew: PYTHONPATH=. python -m tests.plan.test_environments"""
    for mode, target in itertools.product(MODES, TARGETS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (GOLDEN / f"{mode}-{target}.txt").write_text("\n".join(lines(path, plan_of(path, mode, target))))


def test_no_golden_file_is_forgotten() -> None:
    names = {f"{mode}-{target}.txt" for mode in MODES for target in TARGETS}
    assert {path.name for path in GOLDEN.iterdir()} == names


# Names, IPv4 and IPv6 as first hosts; one host and several; with and without device addresses.
FIRST = ("10.0.0.1", "npu1.lab", "fd00::1")


def plans(folder: Path) -> Iterator[tuple[str, LaunchPlan]]:
    for name, (hosts, _) in PLANNED.items():
        for mode in MODES:
            try:
                loaded = load_job(ROOT / "jobs" / name, [f"networking.mode={mode}"])
                yield mode, make_plan(loaded, load_inventory(ROOT / "inventory" / hosts))
            except ConfigError:
                continue  # a mode that the job refuses, which has tests of its own
    for mode, target, first, count in itertools.product(MODES, TARGETS, FIRST, (1, 2, 3)):
        hosts = "defaults: {devices: [4, 6]}\nhosts:\n" + "".join(
            f"  - {{name: npu{n}, address: '{address}', device_ips: '29.1.{n}.[1-2]'}}\n"
            for n, address in enumerate((first, "10.0.0.2", "10.0.0.3")[:count], 1)
        )
        yield mode, plan_of(folder, mode, target, hosts)


def completed(plan: LaunchPlan) -> LaunchPlan:
    """As a launch does where devices are known beforehand."""
    return dataclasses.replace(
        complete_plan(
            dataclasses.replace(plan, uses_rank_table=False), {}, port=8118, scheduler_host="10.9.9.9"
        ),
        uses_rank_table=plan.uses_rank_table,
    )


def everyone(plan: LaunchPlan) -> list[Mapping[str, str]]:
    manifests = plan.manifests.values()
    workers = [worker.env for manifest in manifests for worker in manifest.workers]
    return [*workers, *(manifest.scheduler.env for manifest in manifests if manifest.scheduler)]


def test_what_holds_for_every_plan(tmp_path: Path) -> None:
    seen = 0
    for mode, plan in plans(tmp_path):
        seen += 1
        where = f"{plan.job_name} {mode} {plan.master.address} {len(plan.hosts)}"
        environments = everyone(completed(plan))
        for env in environments:
            assert "RANK_TABLE_FILE" not in env or "MS_ROLE" in env or mode == "legacy_rank_table", where
            if "MS_ROLE" in env:
                assert ip_address(env["MS_SCHED_HOST"]) and env["MS_SCHED_PORT"] == "{port}", where
                assert env["MS_WORKER_NUM"] == env["RANK_SIZE"] == str(plan.world_size), where
            assert not [value for value in env.values() if "scheduler_host" in value], where
        roles = [env.get("MS_ROLE") for env in environments]
        wanted = 1 if mode in ("dynamic", "rank_table") and plan.world_size > 1 else 0
        assert roles.count("MS_SCHED") == wanted, where
        assert len({env.get("MS_SCHED_HOST") for env in environments}) == 1, where
        nodes = [env["MS_NODE_ID"] for env in environments if "MS_NODE_ID" in env]
        assert len(set(nodes)) == len(nodes), where
        if plan.rank_table is not None:
            # With a pod_ip MindSpore would deal out the ranks anew.
            assert "pod_ip" not in plan.rank_table, where
            assert json.loads(plan.rank_table)["server_count"] == str(len(plan.hosts)), where
    assert seen > 80


def test_an_older_control_nodes_worker_has_no_defaults() -> None:
    known = from_json(
        WorkerSpec, {"label": "rank_0", "rank": 0, "local_rank": 0, "device_id": 0, "argv": ["x"], "env": {}}
    )
    assert known.default_env == {}


@pytest.mark.parametrize(
    ("host", "of_job", "wanted"),
    [
        ({}, {}, "{run_dir}/logs/plog/rank_0"),
        ({"ASCEND_PROCESS_LOG_PATH": "/host"}, {}, "/host"),
        ({}, {"ASCEND_PROCESS_LOG_PATH": "/job"}, "/job"),
        ({"ASCEND_PROCESS_LOG_PATH": "/host"}, {"ASCEND_PROCESS_LOG_PATH": "/job"}, "/job"),
    ],
)
def test_whose_plog_path_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: dict[str, str],
    of_job: dict[str, str],
    wanted: str,
) -> None:
    """The job's, then the host's, then a folder of the run, which is made."""
    monkeypatch.delenv("ASCEND_PROCESS_LOG_PATH", raising=False)
    for name, value in host.items():
        monkeypatch.setenv(name, value)
    plan = plan_of(tmp_path, "none", "Ascend")
    manifest = plan.manifests["npu1"]
    spec = manifest.workers[0]
    run = RunDir(tmp_path / "runs" / "x")
    run.make()
    env = printed(dataclasses.replace(spec, env={**spec.env, **of_job}), manifest, run)
    assert env["ASCEND_PROCESS_LOG_PATH"] == wanted.replace("{run_dir}", str(run.root))
    assert (run.attempt.plogs / "rank_0").is_dir() == wanted.startswith("{run_dir}")


if __name__ == "__main__":
    write()
