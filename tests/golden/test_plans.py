"""The plans of four shipped jobs and one for MindFormers: placement, files, worker.yaml, tables, processes.

Two files a job in `plans/`: what is planned, and argv and environment of each process apart, for they are a
contract of their own with MindSpore. Where a plan changes on purpose:

    PYTHONPATH=. python -m tests.golden.test_plans

writes them anew; the difference is what the commit has to explain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.codec import to_json
from orchestrator.core.records import WorkerSpec
from orchestrator.plan.launch_plan import LaunchPlan, read_plan, write_plan
from orchestrator.plan.make_plan import make_plan

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("plans")
# Job -> inventory: a demo with a scheduler, a command, 96 NPUs with a rank table, one server that answers.
JOBS = {
    "demo": "local",
    "command": "loopback",
    "finetune_65b": "ascend_12x8",
    "predict_7.1b": "ascend_12x8",
    "mindformers": "ascend_12x8",
}
Data = dict[str, Any]


def plan_of(name: str) -> LaunchPlan:
    """The plan of a shipped job, made at the beginning of time."""
    own = Path(__file__).with_name("jobs") / f"{name}.yaml"
    job = load_job(own if own.exists() else ROOT / f"jobs/{name}.yaml")
    return make_plan(job, load_inventory(ROOT / f"inventory/{JOBS[name]}.yaml"), now=0.0)


def planned(plan: LaunchPlan) -> Data:
    """All but the processes. The bundled code counts as there or not: each commit's is another."""
    manifests = {name: _manifest(plan, name) for name in plan.manifests}
    first = manifests[plan.master.name]
    return {
        "job_name": plan.job_name,
        "task": plan.task,
        "hosts": {host.name: [host.address, host.transport, host.env_script] for host in plan.hosts},
        "placements": [
            f"{p.rank}: {p.host}, local {p.local_rank}, device {p.device_id} {p.device_ip}, "
            f"dp {p.dp}, mp {p.mp}, pp {p.pp}"
            for p in plan.placements
        ],
        **({"run_yaml": plan.run_yaml.splitlines()} if plan.run_yaml else {}),
        "worker_config": plan.worker_config.replace(plan.run_id, "RUN").splitlines(),
        "rank_table_sha256": _sha256(plan.rank_table),
        "rank_table_starts": json.loads(plan.rank_table)["server_list"][0] if plan.rank_table else None,
        "packages": list(plan.packages),
        "host_paths": list(plan.host_paths),
        "sources": sorted(plan.sources[item["sha256"]].name for item in first["inputs"]),
        "chooses_port": plan.chooses_port,
        "ascend": plan.ascend,
        "uses_rank_table": plan.uses_rank_table,
        "timeouts": to_json(plan.timeouts),
        "first_manifest": first,
        "other_manifests_differ_in": {
            name: {key: value for key, value in manifest.items() if value != first[key]}
            for name, manifest in manifests.items()
            if name != plan.master.name
        },
    }


def _manifest(plan: LaunchPlan, name: str) -> Data:
    data = to_json(plan.manifests[name])
    workers, scheduler = data.pop("workers"), data.pop("scheduler")
    inputs = data.pop("inputs")
    assert data.pop("run_id") == plan.run_id
    assert data["attempt"].pop("token") == plan.attempt.token
    return {
        **data,
        "hosts": list(data["hosts"]),
        "devices": list(data["devices"]),
        "has_code": any(item["path"].startswith("code/") for item in inputs),
        "inputs": [item for item in inputs if not item["path"].startswith("code/")],
        "processes": [worker["label"] for worker in workers] + ([scheduler["label"]] if scheduler else []),
    }


def processes(plan: LaunchPlan) -> Data:
    """argv and environment of each process: what all ranks have, and what each has of its own."""
    ranks = [worker for manifest in plan.manifests.values() for worker in manifest.workers]
    common = dict(set.intersection(*(set(worker.env.items()) for worker in ranks)))
    assert len({worker.argv for worker in ranks}) == 1
    data: Data = {
        "argv": list(ranks[0].argv),
        "env_of_all_ranks": dict(sorted(common.items())),
        "env_of_each_rank": {worker.label: _own(worker, common) for worker in ranks},
    }
    for manifest in plan.manifests.values():
        if manifest.scheduler is not None:
            data["scheduler"] = {
                "host": manifest.host,
                "argv": list(manifest.scheduler.argv),
                "env": dict(sorted(manifest.scheduler.env.items())),
            }
    return data


def _own(worker: WorkerSpec, common: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(worker.env.items()) if name not in common}


def _sha256(text: str | None) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest() if text is not None else None


def _read(name: str, kind: str) -> Any:
    return json.loads((GOLDEN / f"{name}.{kind}.json").read_text())


@pytest.mark.parametrize("name", JOBS)
def test_what_is_planned_is_the_same(name: str) -> None:
    assert planned(plan_of(name)) == _read(name, "plan")


@pytest.mark.parametrize("name", JOBS)
def test_argv_and_environment_of_each_process_are_the_same(name: str) -> None:
    assert processes(plan_of(name)) == _read(name, "processes")


@pytest.mark.parametrize("name", JOBS)
def test_a_plan_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    write_plan(tmp_path / "plan.json", plan)
    again = read_plan(tmp_path / "plan.json")
    assert (planned(again), processes(again)) == (planned(plan), processes(plan))


def write() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in JOBS:
        plan = plan_of(name)
        for kind, data in (("plan", planned(plan)), ("processes", processes(plan))):
            (GOLDEN / f"{name}.{kind}.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    write()
