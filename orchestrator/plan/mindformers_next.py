"""Whether a run of MindFormers can go on: its run YAML as it was, its run YAML as it is now."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config.job import Job
from orchestrator.config.run_yaml import RunYaml
from orchestrator.config.run_yaml_keys import CUTS_NOTHING
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import dotted
from orchestrator.core.errors import Problem
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.run_yaml_files import files_named

__all__ = ["loads_its_own", "other_run"]

# What the shards are of, and what they are cut by.
_MODEL = (("model",), ("moe_config",))
_LAYOUT = (("parallel_config",), ("parallel", "parallel_mode"), ("parallel", "enable_parallel_optimizer"))
_MOST = 20


def loads_its_own(plan: LaunchPlan) -> bool:
    """Whether an attempt goes on from what the run has saved, and so not from what the run YAML names."""
    if not plan.run_yaml:
        return False
    loaded = RunYaml("mindformers.yaml", plan.run_yaml).get("load_checkpoint")
    return isinstance(loaded, str) and loaded.startswith("./attempts/")


def other_run(before: LaunchPlan, plan: LaunchPlan, job: Job) -> list[Problem]:
    """Why the shards of `before` do not fit the run YAML of `plan`, or its data are not the run's."""
    if not before.run_yaml or not plan.run_yaml:
        return []
    old, new = RunYaml("mindformers.yaml", before.run_yaml), RunYaml("mindformers.yaml", plan.run_yaml)
    name = str(job.local_path(job.mindformers.config)) if job.mindformers else ""
    written = RunYaml(name, plan.run_source)
    problems = [
        *_differences(old, new, written, _MODEL, "the run has trained with"),
        *_differences(old, new, written, _LAYOUT, "the run's shards are cut with"),
    ]
    return [*problems, *_other_data(before, plan, new, written)][:_MOST]


def _differences(
    old: RunYaml, new: RunYaml, written: RunYaml, sections: tuple[tuple[str, ...], ...], why: str
) -> Iterator[Problem]:
    for section in sections:
        was, now = dict(_flat(old.get(*section), section)), dict(_flat(new.get(*section), section))
        for path in [*was, *(path for path in now if path not in was)]:
            if path[-1] in CUTS_NOTHING or was.get(path) == now.get(path):
                continue
            what = f"is {show(now.get(path))}, but {why} {show(was.get(path))}"
            remedy = f"put {dotted(path)} back, or launch a new run from its checkpoint"
            yield written.problem(path, what, remedy)


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    else:
        yield path, value


def _other_data(before: LaunchPlan, plan: LaunchPlan, new: RunYaml, written: RunYaml) -> Iterator[Problem]:
    """Data that were sent from here, and that are others now under the same name; scripts may be mended."""
    was, now = _inputs(before), _inputs(plan)
    for named in files_named(new, "train"):
        path = posixpath.normpath(named.text)
        for sent in was:
            of_it = sent == path or sent.startswith((f"{path}/", f"{path}."))
            if of_it and sent in now and was[sent] != now[sent]:
                what = f"{sent} is not what the run was given: the file has changed since"
                yield written.problem(named.key, plain(what), "put it back, or launch a new run")


def _inputs(plan: LaunchPlan) -> dict[str, str]:
    return {item.path: item.sha256 for manifest in plan.manifests.values() for item in manifest.inputs}
