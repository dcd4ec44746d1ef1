"""Rules about the super pods of version 1.2."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.config.yaml_messages import show
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import DeviceView, RankTable, TableView

__all__ = ["SUPER_POD_RULES", "pod_of_server"]

# HCCL's longest name of a group or pod, in bytes.
_LONGEST_ID = 127


def pod_of_server(table: RankTable) -> dict[str, str]:
    """server_id -> super_pod_id, the first where a server is in several."""
    found: dict[str, str] = {}
    for pod in table.super_pod_list:
        for server in pod.server_list:
            found.setdefault(server.server_id, pod.super_pod_id)
    return found


def _severity(view: TableView) -> Severity:
    """HCCL looks at super pods on an A3 alone."""
    return Severity.ERROR if view.chip == "910_93" else Severity.WARNING


def _needless(view: TableView) -> Iterator[Broken]:
    """What HCCL does not read in a table that calls itself 1.0."""
    if view.table.version != "1.0":
        return
    if view.table.super_pod_list:
        yield Broken("super_pod_list", "is read in version 1.2 only, and this is 1.0")
    for device in view.devices:
        if device.data.super_device_id:
            yield Broken(f"{device.path}.super_device_id", "is read in version 1.2 only, and this is 1.0")
            return


def _missing(view: TableView) -> Iterator[Broken]:
    """HCCL warns where there are none, and goes on without super pods; an empty list it refuses."""
    if view.table.version != "1.2" or view.table.super_pod_list:
        return
    if "super_pod_list" in view.table.model_fields_set:
        yield Broken(
            "super_pod_list", "is empty", (), None if view.chip in (None, "910_93") else Severity.WARNING
        )
    else:
        what = "is missing: HCCL takes the servers for ones outside super pods"
        yield Broken("super_pod_list", what, (), _severity(view))


# HCCL keeps them in 32 bits, of which all ones stand for none.
_MOST_SDID = 0xFFFF_FFFE


def _sdid_form(view: TableView) -> Iterator[Broken]:
    if view.table.version != "1.2":
        return
    told = False
    for device in view.devices:
        text = device.data.super_device_id
        if "super_device_id" not in device.data.model_fields_set:
            # Where HCCL only warns, it is said once: a table that has one none has none at all.
            if not told or _severity(view) is Severity.ERROR:
                yield Broken(
                    f"{device.path}.super_device_id", f"{device.name} has none", ("",), _severity(view)
                )
            told = True
        elif not (text.isascii() and text.isdigit() and int(text[:20]) <= _MOST_SDID):
            yield Broken(f"{device.path}.super_device_id", f"{show(text)} is no such number", (text,))


def _sdid_twice(view: TableView) -> Iterator[Broken]:
    pods = pod_of_server(view.table)
    first: dict[tuple[str, str], DeviceView] = {}
    for device in view.devices:
        text = device.data.super_device_id
        pod = pods.get(device.server.data.server_id)
        if not text or pod is None:
            continue
        other = first.setdefault((pod, text.lstrip("0")), device)
        if other is not device:
            what = f"{text} is that of {other.name} already, in super pod {pod}"
            yield Broken(f"{device.path}.super_device_id", what, (text,), _severity(view))


def _pod_id(view: TableView) -> Iterator[Broken]:
    first: dict[str, int] = {}
    for index, pod in enumerate(view.table.super_pod_list):
        name, path = pod.super_pod_id, f"super_pod_list[{index}].super_pod_id"
        if not name:
            yield Broken(path, "is empty", (name,), _severity(view))
        elif len(name.encode(errors="surrogatepass")) > _LONGEST_ID:
            yield Broken(path, f"has more than {_LONGEST_ID} bytes", (name,), _severity(view))
        elif first.setdefault(name, index) != index:
            what = f"{name} is the id of super_pod_list[{first[name]}] already"
            yield Broken(path, what, (name,), _severity(view))


def _pod_servers(view: TableView) -> Iterator[Broken]:
    if not view.table.super_pod_list:
        return
    known = {server.data.server_id for server in view.servers}
    owner: dict[str, str] = {}
    for i, pod in enumerate(view.table.super_pod_list):
        for j, server in enumerate(pod.server_list):
            name, path = server.server_id, f"super_pod_list[{i}].server_list[{j}].server_id"
            if name not in known:
                yield Broken(path, f"{name} is not in server_list", (name,), _severity(view))
            elif name in owner:
                yield Broken(path, f"{name} is in super pod {owner[name]} already", (name,), _severity(view))
            owner.setdefault(name, pod.super_pod_id)
    for view_of in view.servers:
        name = view_of.data.server_id
        if name and name not in owner:
            yield Broken(f"{view_of.path}.server_id", f"{name} is in no super pod", (name,), _severity(view))


def _together(view: TableView) -> Iterator[Broken]:
    pods = pod_of_server(view.table)
    ended: set[str] = set()
    previous: str | None = None
    for server in view.servers:
        pod = pods.get(server.data.server_id)
        if pod is None:
            continue
        if previous is not None and pod != previous:
            ended.add(previous)
        if pod in ended:
            what = f"server {server.data.server_id} of super pod {pod} stands apart from the pod's others"
            yield Broken(server.path, what, (pod,), _severity(view))
        previous = pod


def _unequal(view: TableView) -> Iterator[Broken]:
    counts = [len(pod.server_list) for pod in view.table.super_pod_list]
    usual = max(counts, key=counts.count, default=0)
    for index, pod in enumerate(view.table.super_pod_list):
        if counts[index] != usual:
            what = f"super pod {pod.super_pod_id} has {counts[index]} server(s), the others have {usual}"
            yield Broken(f"super_pod_list[{index}].server_list", what, (str(counts[index]), str(usual)))


_SPOD = "see `npu-smi info -t spod-info -i N -c 0` on the server"

_READER = "HCOMM topoinfo_ranktableConcise.cc"

SUPER_POD_RULES = (
    Rule(
        "needs-version-1.2",
        Severity.WARNING,
        _needless,
        'write "version": "1.2"',
        f"{_READER} GetSingleDevice, GetSuperPodList",
    ),
    Rule(
        "no-super-pods",
        Severity.ERROR,
        _missing,
        'list them, or write "version": "1.0"',
        f"{_READER} GetSuperPodList",
    ),
    Rule(
        "super-device-id-form",
        Severity.ERROR,
        _sdid_form,
        _SPOD,
        f"{_READER} GetSingleSuperDeviceId (EI0014), CheckSuperPodInfo",
    ),
    Rule("duplicate-super-device-id", Severity.ERROR, _sdid_twice, _SPOD, f"{_READER} CheckSuperPodInfo"),
    Rule(
        "super-pod-id",
        Severity.ERROR,
        _pod_id,
        "give each super pod an id of its own",
        f"{_READER} GetSingleSuperPod (EI0014)",
    ),
    Rule(
        "super-pod-servers",
        Severity.ERROR,
        _pod_servers,
        "list every server in one super pod",
        f"{_READER} GetSingleSuperPodSever (EI0014), CheckSuperPodInfo",
    ),
    Rule(
        "super-pod-apart",
        Severity.ERROR,
        _together,
        "put the servers of a super pod behind each other",
        "HCCL user guide, rank table of the A3: order of servers",
    ),
    Rule(
        "unequal-super-pods",
        Severity.WARNING,
        _unequal,
        "use as many servers of each super pod",
        "HCCL user guide, rank table of the A3",
    ),
)
