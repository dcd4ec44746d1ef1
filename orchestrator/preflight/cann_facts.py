"""What a host's agent says of its CANN (agent/cann.py), checked and typed: it is a stranger's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.preflight.facts import HostFacts, text_of, variables_of

__all__ = ["Cann", "cann_of"]

_MODULES = {"hccl.sys_version": "hccl", "te": "te", "tbe": "tbe"}
_MOST_VERSIONS = 20


@dataclass(frozen=True, slots=True)
class Cann:
    """One host's. `modules` are those that its workers can import, each with its file.

    `versions` are those of CANN's compiler that the workers' MindSpore accepts, `compiler` and `release`
    what there is; `wants_opp_kernel` says that this MindSpore does not start without that folder.
    """

    modules: Mapping[str, str]
    variables: Mapping[str, str]
    has_opp_kernel: bool
    set_env: str | None
    versions: tuple[str, ...]
    wants_opp_kernel: bool
    compiler: str | None
    release: str | None

    @property
    def missing(self) -> list[str]:
        return [name for name in _MODULES.values() if name not in self.modules]


def cann_of(fact: HostFacts) -> Cann | None:
    """None where the agent was not asked, or could not tell."""
    said = fact.probe.get("ascend")
    if not isinstance(said, Mapping):
        return None
    modules, asked, compiler = (_mapping(said, key) for key in ("modules", "asked", "compiler"))
    versions = asked.get("versions")
    return Cann(
        modules={name: file for key, name in _MODULES.items() if (file := text_of(modules.get(key)))},
        variables=variables_of(said.get("variables")),
        has_opp_kernel=said.get("opp_kernel") is True,
        set_env=text_of(said.get("set_env")),
        versions=_texts(versions) if isinstance(versions, list) else (),
        wants_opp_kernel=asked.get("opp_kernel") is True,
        compiler=text_of(compiler.get("version")),
        release=text_of(compiler.get("release")),
    )


def _mapping(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = said.get(key)
    return value if isinstance(value, Mapping) else {}


def _texts(values: list[Any]) -> tuple[str, ...]:
    return tuple(text for value in values[:_MOST_VERSIONS] if (text := text_of(value)))
