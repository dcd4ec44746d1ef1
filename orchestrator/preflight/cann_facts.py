"""The facts of a host's CANN, as its checks see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.core.host_answers import MindSporeAsks
from orchestrator.preflight.host_facts import HostFacts, text_of, variables_of

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
    said = fact.probe.ascend
    if said is None:
        return None
    asked, compiler = said.asked or MindSporeAsks(), said.compiler
    return Cann(
        modules={name: file for key, name in _MODULES.items() if (file := text_of(said.modules.get(key)))},
        variables=variables_of(said.variables),
        has_opp_kernel=said.opp_kernel,
        set_env=text_of(said.set_env),
        versions=tuple(text for each in asked.versions[:_MOST_VERSIONS] if (text := text_of(each))),
        wants_opp_kernel=asked.opp_kernel,
        compiler=text_of(compiler.version) if compiler else None,
        release=text_of(compiler.release) if compiler else None,
    )
