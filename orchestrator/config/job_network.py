"""The network that a job's workers will build, from its preset and overrides."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.yaml_messages import show
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.families.family import Family
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import FamilyError, config_class, find_preset

__all__ = ["family_of", "network_of"]


def family_of(job: Job) -> Family | None:
    """The family of a job's network; None where only its hosts know. Raises ConfigError: no such family."""
    values = _values(job)
    return None if values is None else _class(job, values).family


def network_of(job: Job) -> NetworkConfig:
    """The configuration of a job's network. Raises ConfigError: none, or none that can be built."""
    if job.model is None:
        what = f"task {job.task} does not use the bundled model"
        raise ConfigError([Problem(job.where("task"), what, "only jobs with a model can be estimated")])
    values, where = _values(job), job.where("model")
    if values is None:
        what = f"{job.model.preset} is on the hosts"
        raise ConfigError([Problem(job.where("model", "preset"), what, "name a preset beside the job file")])
    if job.data is not None and job.data.seq_length is not None:
        values["seq_length"] = job.data.seq_length
    cls = _class(job, values)
    try:
        known = {key: value for key, value in values.items() if key in cls.defaults()}
        config: NetworkConfig = TypeAdapter(cls).validate_python(known)
    except ValidationError as error:
        found = [(str(item["loc"][0]), item["msg"]) for item in error.errors()]
        problems = [Problem(where, f"{key} is {show(values.get(key))}", what) for key, what in found]
        raise ConfigError(problems) from None
    if wrong := list(config.problems()):
        raise ConfigError([Problem(where, what) for what in wrong])
    return config


def _class(job: Job, values: dict[str, Any]) -> type[NetworkConfig]:
    try:
        return config_class(values)
    except FamilyError as error:
        raise ConfigError([Problem(job.where("model"), str(error))]) from None


def _values(job: Job) -> dict[str, Any] | None:
    """The fields that preset and overrides set; None where the preset is a file of the hosts."""
    if job.model is None:
        return None
    preset = job.model.preset
    path = job.local_path(preset) if is_path(preset) else None
    if is_path(preset) and path is None:
        return None
    return {**(read_yaml(path).data if path else find_preset(preset) or {}), **job.model.overrides}
