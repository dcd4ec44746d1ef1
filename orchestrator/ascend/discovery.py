"""The devices of hosts, as their tools, their hccn.conf and the inventory tell them.

`find_devices` judges one host's answers and is pure; `discover` asks all hosts of a fleet at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.ascend.found_devices import FoundDevice, FoundHost
from orchestrator.ascend.hccn import parse_hccn_conf, parse_ip, parse_ipv6, parse_vnic
from orchestrator.ascend.npu_smi import parse_spod
from orchestrator.ascend.npu_table import NpuInfo, parse_info
from orchestrator.ascend.tool_answers import Call, ToolAnswers, hccn, smi
from orchestrator.config.inventory import Chip, Host, chip_named
from orchestrator.core.errors import ToolOutputError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, HostResults

__all__ = [
    "TOOL_TIMEOUT",
    "ask",
    "discover",
    "find_devices",
    "first_calls",
    "info_of",
    "later_calls",
    "vnic_call",
]

TOOL, INVENTORY = "hccn_tool", "the inventory"


def first_calls(ids: Sequence[int]) -> list[Call]:
    """What is asked at once: the table of all chips, and the address of every device that we know of."""
    return [smi(), *(hccn(device, "-ip") for device in ids)]


def later_calls(ids: Sequence[int], answers: ToolAnswers) -> list[Call]:
    """What only the first answers tell to ask: other devices, IPv6 where there is no IPv4, super pods."""
    if not answers.has_tool(TOOL) and not answers.has_tool("npu-smi"):
        return []
    info = info_of(answers)
    known = ids or _ids(info, answers)
    calls = [hccn(device, "-ip") for device in known if hccn(device, "-ip") not in answers]
    calls += [hccn(device, "-ip", "-inet6") for device in known if _has_no_ipv4(device, answers)]
    in_pods = [chip for chip in (info.chips if info else ()) if chip.is_super_pod]
    calls += [_spod(chip.npu, chip.chip) for chip in in_pods]
    return calls + [vnic_call(chip.id) for chip in in_pods if chip.id in known]


def vnic_call(device: int) -> Call:
    """A device's end of its super pod's network."""
    return hccn(device, "-vnic")


def _spod(npu: int, chip: int) -> Call:
    return smi("-t", "spod-info", "-i", npu, "-c", chip)


def _has_no_ipv4(device: int, answers: ToolAnswers) -> bool:
    try:
        return answers[hccn(device, "-ip")].read(parse_ip) is None
    except ToolOutputError:
        return False


def info_of(answers: ToolAnswers) -> NpuInfo | None:
    """The table of chips, None where npu-smi gives none."""
    try:
        return answers[smi()].read(parse_info)
    except ToolOutputError:
        return None


def _ids(info: NpuInfo | None, answers: ToolAnswers) -> list[int]:
    if info is not None:
        return sorted(chip.id for chip in info.chips)
    return sorted(_conf_addresses(answers)[0])


def find_devices(host: Host, ids: Sequence[int], answers: ToolAnswers) -> FoundHost:
    """The devices `ids` of a host (all that there are, if empty), each with the address to go by.

    hccn_tool before hccn.conf before the inventory; where two of them disagree, a warning says so.
    """
    info = info_of(answers)
    conf, conf_trouble = _conf_addresses(answers)
    static = {device.id: device.ip for device in host.devices if device.ip}
    pods = _super_pods(info, answers)
    devices, disagreements = [], []
    for device in ids or _ids(info, answers) or sorted(static):
        found, trouble, remedy = _from_tool(device, answers)
        named = [(TOOL, found), (host.hccn_conf, conf.get(device)), (INVENTORY, static.get(device))]
        sources = [(source, ip) for source, ip in named if ip]
        source, ip = sources[0] if sources else ("", None)
        trouble, remedy = ("", "") if ip else (trouble or "no IP address is set", remedy)
        device_pods = pods.get(device, (None, None))
        vnic = _vnic(device, answers)
        devices.append(FoundDevice(device, ip, source, device_pods[0], trouble, remedy, vnic))
        disagreements += [(device, source, ip, other, said) for other, said in sources[1:] if said != ip]
    warnings = [*_told(disagreements), *_second_best(host, devices, answers, conf_trouble)]
    warnings += _unlisted(info, devices)
    pod_ids = {pod for _, pod in pods.values()}
    if len(pod_ids) > 1:
        warnings.append(f"its devices name several super pods: {', '.join(sorted(pod_ids))}")
    chip = info.chips[0].name if info else None
    pod_id = pod_ids.pop() if len(pod_ids) == 1 else None
    return FoundHost(host.name, tuple(devices), chip, pod_id, tuple(warnings), _kind(info))


def _kind(info: NpuInfo | None) -> Chip | None:
    """The table of an A3 calls its chips Ascend910, as no other's does, and has a column for physical ids."""
    if info is None:
        return None
    named = chip_named(info.chips[0].name)
    return "910_93" if named is None and info.chips[0].is_super_pod else named


def _vnic(device: int, answers: ToolAnswers) -> str | None:
    try:
        return answers[vnic_call(device)].read(parse_vnic).address if vnic_call(device) in answers else None
    except ToolOutputError:
        return None


def _from_tool(device: int, answers: ToolAnswers) -> tuple[str | None, str, str]:
    """Address, or what is wrong and the remedy."""
    try:
        found = answers[hccn(device, "-ip")].read(parse_ip)
        if found is None and hccn(device, "-ip", "-inet6") in answers:
            found = answers[hccn(device, "-ip", "-inet6")].read(parse_ipv6)
    except ToolOutputError as error:
        return None, error.what, error.remedy
    if found is None:
        remedy = f"`hccn_tool -i {device} -ip -s address A netmask M` on the host"
        return None, "no IP address is set", remedy
    return found.address, "", ""


def _conf_addresses(answers: ToolAnswers) -> tuple[dict[int, str], str]:
    """The file's addresses, or why there are none."""
    try:
        return answers.conf.read(parse_hccn_conf).addresses(), ""
    except ToolOutputError as error:
        return {}, "" if answers.conf.failure == "missing" else str(error)


def _super_pods(info: NpuInfo | None, answers: ToolAnswers) -> dict[int, tuple[str, str]]:
    """Super device id and super pod id of every A3 chip that tells them."""
    found = {}
    for chip in info.chips if info else ():
        if chip.is_super_pod:
            try:
                pod = answers[_spod(chip.npu, chip.chip)].read(parse_spod)
            except ToolOutputError:
                continue
            found[chip.id] = (pod.super_device_id, pod.super_pod_id)
    return found


def _told(disagreements: Sequence[tuple[int, str, str | None, str, str]]) -> Iterator[str]:
    """One warning for each pair of sources."""
    by_pair: dict[tuple[str, str], list[tuple[int, str | None, str]]] = {}
    for device, source, ip, other, said in disagreements:
        by_pair.setdefault((source, other), []).append((device, ip, said))
    for (source, other), found in by_pair.items():
        device, ip, said = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        yield f"device {device} is {ip} by {source}, but {said} by {other}{more}; {source} was taken"


def _second_best(
    host: Host, devices: Sequence[FoundDevice], answers: ToolAnswers, conf_trouble: str
) -> Iterator[str]:
    """Addresses that hccn_tool should have named and did not."""
    if conf_trouble:
        yield conf_trouble
    by_source: Mapping[str, list[int]] = {
        source: [device.id for device in devices if device.source == source]
        for source in (host.hccn_conf, INVENTORY)
    }
    for source, ids in by_source.items():
        if ids:
            _, trouble, _ = _from_tool(ids[0], answers)
            listed = ", ".join(map(str, ids))
            yield f"the IP of device {listed} is from {source}, because hccn_tool did not tell: {trouble}"


def _unlisted(info: NpuInfo | None, devices: Sequence[FoundDevice]) -> Iterator[str]:
    if info is None:
        return
    there = {chip.id for chip in info.chips}
    absent = [str(device.id) for device in devices if device.id not in there]
    if absent:
        yield f"npu-smi lists no device {', '.join(absent)}"


# For one call. hccn_tool answers in a tenth of a second; a ping takes about three.
TOOL_TIMEOUT = 10.0
_PARALLEL = 8


def discover(
    fleet: Fleet, devices: Mapping[str, Sequence[int]] | None = None, *, timeout: float = TOOL_TIMEOUT
) -> HostResults[FoundHost]:
    """The devices of every host of the fleet, or of those in `devices`, with their addresses.

    `devices` are the ids to look at; left out, those of the inventory, and where it names none, all that
    the host has. One agent call per host; a second one for A3 ids, IPv6, and ids that nobody has written.
    """
    wanted = {name: [device.id for device in host.devices] for name, host in fleet.hosts.items()}
    wanted.update({name: list(ids) for name, ids in (devices or {}).items()})

    def work(agent: Agent) -> FoundHost:
        host, ids = fleet.hosts[agent.host], wanted[agent.host]
        answers = ask(agent, first_calls(ids), host, timeout=timeout)
        if later := later_calls(ids, answers):
            answers |= ask(agent, later, timeout=timeout)
        return find_devices(host, ids, answers)

    return fleet.each(work, devices)


def ask(
    agent: Agent, calls: Sequence[Call], host: Host | None = None, *, timeout: float = TOOL_TIMEOUT
) -> ToolAnswers:
    """Ask one host's tools; with `host`, its hccn.conf is read, too. `timeout` is for each call.

    Raises AgentError and TransportError; a tool that fails is an answer.
    """
    path = host.hccn_conf if host else ""
    # Should each call take all of its time.
    longest = 30.0 + timeout * (len(calls) / _PARALLEL + 1)
    files = [path] if path else []
    texts = agent.ask_tools(calls, files, tool_timeout=timeout, parallel=_PARALLEL, timeout=longest)
    return ToolAnswers.of(calls, path, texts)
