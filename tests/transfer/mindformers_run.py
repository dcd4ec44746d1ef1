"""A run of MindFormers' own trainer that has ended, as it lies on hosts; made with our writers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import yaml

from orchestrator.agent.content_store import Store
from orchestrator.agent.saved_steps import place
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.control.run_record import HostView, new_record, read_record, write_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.codec import dumps
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import Attempt, HostStatus, RankStatus
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.make_plan import make_plan
from orchestrator.transfer.plan_resume import Resumption, with_mindformers_step
from orchestrator.transfer.resume_run import brought
from orchestrator.transfer.saved_attempts import gather_saved
from tests.checkpoint.support import cut

REPLICAS = "parallel: {parallel_mode: 0}\nload_checkpoint: ''\nresume_training: False\n"
CUT = "parallel: {parallel_mode: 1}\nparallel_config: {model_parallel: 2}\n"
STEPS = 10  # of an epoch


def weights(step: int) -> dict[str, np.ndarray]:
    """What the network has after a step, under names of MindFormers' Llama."""
    values = np.random.default_rng(step)
    shapes = {
        "tok_embeddings.embedding_weight": (16, 8),
        "layers.0.attention.wq.weight": (8, 8),
        "norm_out.weight": (8,),
    }
    return {f"model.{name}": values.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


class MindFormersRun:
    """`hosts` with `devices` ranks each; `run_yaml` says how they are cut, `suffix` what they save."""

    def __init__(
        self,
        folder: Path,
        run_yaml: str = REPLICAS,
        *,
        hosts: int = 2,
        devices: int = 1,
        suffix: str = "ckpt",
    ) -> None:
        self.folder, self.suffix = folder, suffix
        inventory = {
            "transport": "local",
            "defaults": {"workdir": str(folder / "hosts/{name}"), "devices": "0-3"},
            "hosts": [{"name": "host[1-4]"}],
        }
        (folder / "inventory.yaml").write_text(yaml.safe_dump(inventory))
        job = {
            "name": "demo",
            "task": "command",
            "command": ["true"],
            "host_count": hosts,
            "devices_per_host": devices,
            "networking": {"mode": "dynamic"},
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        self.inventory = load_inventory(folder / "inventory.yaml")
        plan = make_plan(load_job(folder / "job.yaml"), self.inventory, now=1.0)
        self.plan = dataclasses.replace(plan, task="mindformers", run_yaml=run_yaml)
        self.control = make_control_dir(self.plan, folder / "state")
        over = {
            host.name: HostView(HostStatus(plan.run_id, "demo", host.name, 2.0, (), phase="over"))
            for host in plan.hosts
        }
        record = new_record(self.plan)
        write_record(
            self.control,
            dataclasses.replace(record, state=RunState.FAILED, ended=3.0, hosts=over, exit_code=1),
        )
        for name, manifest in plan.manifests.items():
            self.run(name).make(1, plan.attempt.token, files={"manifest.json": dumps(manifest)})

    def run(self, host: str) -> RunDir:
        return Workdir(self.folder / "hosts" / host).run(self.plan.run_id)

    def home(self, rank: int) -> RunDir:
        return self.run(next(item.host for item in self.plan.placements if item.rank == rank))

    def path(self, rank: int, step: int) -> Path:
        """As MindFormers names it: by the epoch, and the step in it."""
        epoch, within = (step - 1) // STEPS + 1, (step - 1) % STEPS + 1
        folder = self.home(rank).root / f"attempts/1/checkpoint/rank_{rank}"
        return folder / f"llama_rank_{rank}-{epoch}_{within}.{self.suffix}"

    def tensors(self, rank: int, step: int, *, inside: int | None = None):
        """What a rank's file holds after a step: halves by rows of what has two axes, where it is cut."""
        for prefix, off in (("", 0), ("adam_m.", 1000), ("adam_v.", 2000)):
            for name, value in weights(step + off).items():
                yield prefix + name, cut(value, self.layout(value), rank)
        yield "epoch_num", np.array((step - 1) // STEPS + 1, np.int64)
        yield "step_num", np.array(step if inside is None else inside, np.int64)
        yield "loss_scale", np.array(1, np.float32)
        yield "global_batch_size", np.array(4, np.int64)
        yield "global_step", np.array([step], np.int32)

    def layout(self, value: np.ndarray) -> Layout:
        is_cut = "parallel_mode: 1" in self.plan.run_yaml and value.ndim == 2
        return Layout((self.plan.world_size,), (0, -1) if is_cut else (-1,) * value.ndim)

    def told(self, total: int) -> None:
        """Its ranks have told how many steps it is to have."""
        record, hosts = read_record(self.control), {}
        for name, view in record.hosts.items():
            assert view.status is not None
            ranks = [
                RankStatus(item.rank, 0, 0, progress={"step": total, "total_steps": total})
                for item in self.plan.placements
                if item.host == name
            ]
            status = dataclasses.replace(view.status, ranks=tuple(ranks))
            hosts[name] = dataclasses.replace(view, status=status)
        write_record(self.control, dataclasses.replace(record, hosts=hosts))

    def save(self, *steps: int, but=(), inside: int | None = None, without=()) -> None:
        """The files of these steps, but for those of (rank, step) in `but`, and `meta.json` after each."""
        write = write_safetensors if self.suffix == "safetensors" else write_ckpt
        for item in self.plan.placements:
            for step in steps:
                path = self.path(item.rank, step)
                if (item.rank, step) in but:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                held = [
                    each for each in self.tensors(item.rank, step, inside=inside) if each[0] not in without
                ]
                write(path, held)
                said = {"last_epoch": 1, "last_step": step, "last_ckpt_file": path.name}
                (path.parent / "meta.json").write_text(json.dumps(said))

    def save_strategies(self) -> None:
        """As semi-auto parallelism leaves them in `output_dir`."""
        layouts = {
            prefix + name: self.layout(value)
            for prefix in ("", "adam_m.", "adam_v.")
            for name, value in weights(0).items()
        }
        for item in self.plan.placements:
            folder = self.home(item.rank).root / "attempts/1/strategy"
            folder.mkdir(exist_ok=True)
            write_strategy(folder / f"ckpt_strategy_rank_{item.rank}.ckpt", Strategy(0, layouts))

    def next(
        self, *, hosts: tuple[str, ...] = ("host1", "host2"), step: int | None = None, run_yaml: str = ""
    ) -> Resumption:
        """What going on means on these hosts, as the plan of the next attempt, or this run YAML, has it."""
        plan = self.plan
        job = load_job(self.folder / "job.yaml")
        names = dict(zip([host.name for host in plan.hosts], hosts, strict=True))
        known = {host.name: host for host in self.inventory.hosts}
        after = dataclasses.replace(
            plan,
            attempt=Attempt(2, "ab" * 8),
            run_yaml=run_yaml or plan.run_yaml,
            hosts=tuple(known[name] for name in hosts),
            placements=tuple(dataclasses.replace(item, host=names[item.host]) for item in plan.placements),
            manifests={
                names[name]: dataclasses.replace(each, host=names[name])
                for name, each in plan.manifests.items()
            },
        )
        every = tuple(known.values())
        with fleet_of(every, plan.ssh) as fleet:
            attempts, silent = gather_saved(fleet, plan.run_id, {1: plan})
            record = read_record(self.control)
            begun = Resumption(self.control, plan, after, job, every, notes=tuple(silent), record=record)
            return with_mindformers_step(begun, fleet, attempts, [1], step)

    def started(self, found: Resumption):
        """The plan, complete, after each host has done with it what its agent does."""
        with fleet_of(found.hosts, self.plan.ssh) as fleet:
            plan = brought(fleet, found)
        for name, manifest in plan.manifests.items():
            workdir = Workdir(self.folder / "hosts" / name)
            run = self.run(name)
            run.make(2, plan.attempt.token, files={"manifest.json": dumps(manifest)})
            for item in manifest.inputs:
                if item.path.startswith("attempts/"):
                    Store(workdir.store).place(item, run.root)
            place(run, 2, plan.loads.get(name, ()))
        return plan

    def loaded(self, host: str) -> dict[str, Path]:
        """What the next attempt finds on a host, by its path below the folder that it loads from."""
        home = self.run(host).root / "attempts/2/load"
        return {str(path.relative_to(home)): path for path in sorted(home.rglob("*")) if path.is_file()}
