"""The fabric between a job's devices: RoCE, the network of a super pod, or nothing that leaves the host.

Within a host HCCL uses HCCS or PCIe, unless HCCL_INTRA_ROCE_ENABLE is 1. Between the servers of one super pod
(A3) it uses the pod's own network (HCOMM, topoinfo_ranktableConcise.cc, GetSingleDeviceIp: "A3 ... vnic").
A 310P has no network of its own, and that of a 950 is another one, of which hccn_tool tells in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.ascend.hccn import parse_link
from orchestrator.ascend.tool_answers import hccn
from orchestrator.config.inventory import Chip
from orchestrator.core.errors import ToolOutputError
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, environment_of
from orchestrator.preflight.report import Level

__all__ = ["Fabric", "fabric_of", "kind_of"]


@dataclass(frozen=True, slots=True)
class Fabric:
    """`spared` says why the devices' RoCE ports do not matter; "" where they do.

    `level` is what becomes of a failure of theirs; `hccs` says that devices talk over their super pod.
    """

    spared: str = ""
    level: Level = Level.FAIL
    hccs: bool = False


_NO_PORTS = {"310P": "a 310P has no RoCE ports", "950": "a 950 has no RoCE ports"}


def fabric_of(needs: Needs, facts: Facts) -> Fabric:
    """What the devices of these hosts talk over. Pure."""
    if any(environment_of(needs, fact).get("HCCL_INTRA_ROCE_ENABLE") == "1" for fact in facts.values()):
        return Fabric()
    kinds = {kind_of(needs, host, fact) for host, fact in facts.items()}
    only = kinds.pop() if len(kinds) == 1 else None
    if only in _NO_PORTS:
        return Fabric(_NO_PORTS[only], Level.SKIP)
    if len(needs.hosts) < 2:
        # Without a job nobody knows what the host will be used with.
        return Fabric("not needed within one host", Level.SKIP if needs.has_job else Level.WARN)
    pods = {fact.found.super_pod_id if fact.found else None for fact in facts.values()}
    if only == "910_93" and len(pods) == 1 and None not in pods:
        return Fabric("not needed within one super pod", Level.SKIP, hccs=True)
    if not needs.has_job and facts and not any(_has_link(needs, host, fact) for host, fact in facts.items()):
        return Fabric("no device of any host has a link: jobs of single hosts only", Level.WARN)
    return Fabric()


def kind_of(needs: Needs, host: str, fact: HostFacts) -> Chip | None:
    """What npu-smi says, else the inventory."""
    return (fact.found.kind if fact.found else None) or needs.host(host).chip


def _has_link(needs: Needs, host: str, fact: HostFacts) -> bool:
    """Whether any device's link is up, or may be."""
    ids = needs.devices.get(host, ())
    if fact.tools is None or not ids:
        return True
    try:
        return any(fact.tools[hccn(device, "-link")].read(parse_link) for device in ids)
    except ToolOutputError:
        return True
