"""Rules that follow from how the devices of a server are wired, and from which networks are taken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from orchestrator.config.inventory import RING
from orchestrator.rank_table.findings import Broken, Rule, Severity
from orchestrator.rank_table.table import DeviceView, ServerView, TableView

__all__ = ["CHIP_RULES"]

# HCCL, 910A: the sets of four devices for which it has a ring.
_SETS_OF_FOUR = frozenset(
    frozenset(int(digit) for digit in digits)
    for digits in ("0123", "4567", "0145", "0246", "0347", "1256", "1357", "2367")
)
# What every 910A convention is told as where the chip is not known.
_ON_910A = "on a 910A, "


def _may_be_910a(view: TableView) -> bool:
    return view.chip in (None, "910A")


def _severity(view: TableView) -> Severity:
    return Severity.ERROR if view.chip == "910A" else Severity.WARNING


def _count_910a(view: TableView) -> Iterator[Broken]:
    if not _may_be_910a(view):
        return
    for server in view.servers:
        count = len(server.devices)
        if count and count not in (1, 2, 4) and count % 8:
            what = f"server {server.data.server_id} has {count} devices; a 910A uses 1, 2, 4 or all 8"
            yield Broken(f"{server.path}.device", what, (str(count),), _severity(view))


def _set_910a(view: TableView) -> Iterator[Broken]:
    if not _may_be_910a(view):
        return
    for server in view.servers:
        ids = _ids(server)
        if len(ids) == 4 and ids not in _SETS_OF_FOUR:
            text = ", ".join(str(number) for number in sorted(ids))
            what = f"devices {text} of server {server.data.server_id} form no ring of a 910A"
            yield Broken(f"{server.path}.device", what, (text,), _severity(view))


def _ring_910a(view: TableView) -> Iterator[Broken]:
    """Not refused by HCCL, but slow: between the rings there is only PCIe."""
    if not _may_be_910a(view):
        return
    for server in view.servers:
        ids = _ids(server)
        crosses = len({number // RING for number in ids}) > 1
        if crosses and (len(ids) == 2 or ids in _SETS_OF_FOUR):
            text = ", ".join(str(number) for number in sorted(ids))
            what = f"{_ON_910A}devices {text} of server {server.data.server_id} lie in both HCCS rings"
            yield Broken(f"{server.path}.device", what, (text,))


def _ids(server: ServerView) -> frozenset[int]:
    return frozenset(device.device_id for device in server.devices if device.device_id is not None)


def _reserved(view: TableView) -> Iterator[Broken]:
    """192.168.0-7.x is taken by the boards of a server; in a super pod all of 192.x."""
    pod = view.chip == "910_93"
    network, owner = ("192.0.0.0/8", "super pods") if pod else ("192.168.0.0/21", "the servers' boards")
    for server in view.servers:
        taken = [
            device
            for device in server.devices
            if any(ip is not None and len(ip) == 4 and _is_reserved(ip, pod=pod) for ip in device.ips)
        ]
        if taken:
            more = f" and {len(taken) - 1} more of this server" if len(taken) > 1 else ""
            what = f"{taken[0].data.device_ip}{more}: {network} is for {owner}"
            values = tuple(device.data.device_ip for device in taken)
            yield Broken(f"{taken[0].path}.device_ip", what, values)


def _is_reserved(ip: bytes, *, pod: bool) -> bool:
    return ip[0] == 192 and (pod or (ip[1] == 168 and ip[2] < 8))


def _subnets(view: TableView) -> Iterator[Broken]:
    """910A: devices i and i+4 of all servers share a network, devices 0 to 3 lie in four.

    A table holds no netmasks. Some netmask makes it so if the addresses of one network have more leading
    bits in common than any two of different networks have.
    """
    families = {len(ip) for device in view.devices for ip in device.ips if ip is not None}
    if not _may_be_910a(view) or len(view.servers) < 2 or len(families) != 1:
        return
    networks: dict[int, list[tuple[DeviceView, int]]] = {}
    for device in view.devices:
        if device.device_id is not None and device.ips and device.ips[0] is not None:
            networks.setdefault(device.device_id % RING, []).append((device, int.from_bytes(device.ips[0])))
    if view.chip is None and _common([ip for found in networks.values() for _, ip in found]) >= _FLAT:
        return  # one network for all devices, as 910B servers have it
    between = max((_common([a[0][1], b[0][1]]) for a, b in combinations(networks.values(), 2)), default=0)
    for number, found in sorted(networks.items()):
        first = found[0]
        for device, ip in found[1:]:
            if _common([first[1], ip]) <= between:
                what = (
                    f"{_ON_910A}{device.data.device_ip} of {device.name} must share a network with "
                    f"{first[0].data.device_ip} of {first[0].name}, apart from those of devices that are not "
                    f"{number} or {number + RING}"
                )
                values = (device.data.device_ip, first[0].data.device_ip)
                yield Broken(f"{device.path}.device_ip", what, values, _severity(view))
                break


# Bits in common from which addresses count as one network: a /16 is the widest that the samples use.
_FLAT = 16


def _common(addresses: list[int]) -> int:
    """How many leading bits (of 32, or of 128) all addresses share."""
    if not addresses:
        return 128
    differing = 0
    for address in addresses:
        differing |= address ^ addresses[0]
    width = 128 if max(addresses) >> 32 else 32
    return width - differing.bit_length()


_RINGS = "use 1, 2 or 4 devices of one ring (0-3 or 4-7), or all 8"
_OTHER_NETWORK = "give the devices addresses of a network of their own"

_TOPOLOGY = "HCOMM hccl_communicator_attrs_host.cc, sets of devices of a 910"

CHIP_RULES = (
    Rule("device-count-910a", Severity.ERROR, _count_910a, _RINGS, _TOPOLOGY),
    Rule("device-set-910a", Severity.ERROR, _set_910a, _RINGS, _TOPOLOGY),
    Rule(
        "two-rings-910a",
        Severity.WARNING,
        _ring_910a,
        _RINGS,
        "MindFormers hccl_tools.py: groups [0,4], [4,8]",
    ),
    Rule(
        "reserved-subnet",
        Severity.WARNING,
        _reserved,
        _OTHER_NETWORK,
        "Huawei HDK, HCCN guide: reserved networks",
    ),
    Rule(
        "subnets-910a",
        Severity.ERROR,
        _subnets,
        "see `address_N` and `netmask_N` of /etc/hccn.conf",
        'MindSpore, "rank table Startup"; HCCL FAQ, "IP not in same segment"',
    ),
)
