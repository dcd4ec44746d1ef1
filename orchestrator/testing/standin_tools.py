"""The answers of a stand-in host's tools, from its facts: each call with its text and exit code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.testing.standin_facts import DeviceFacts, HostFacts

__all__ = ["Said", "answers", "hccn_conf"]

_RULE = "+---------------------------+---------------+----------------------------------------------------+"
_DOUBLE = _RULE.replace("-", "=")
_LINE = "+" + "-" * 96 + "+"
_BANNERS = {"910A": "910A", "910B": "910B1", "A3": "Ascend910"}


@dataclass(frozen=True)
class Said:
    """The answer to one call."""

    text: str
    exit_code: int = 0


def answers(host: HostFacts) -> Iterator[tuple[str, Said]]:
    """Each call as `tool words...` with its answer; pings are not among them."""
    for device in host.devices:
        for command, said in _hccn(host, device):
            yield f"hccn_tool -i {device.id} {command} -g", said
    yield "npu-smi info", Said(_info(host))
    yield "npu-smi info -m", Said(_map(host))
    for device in host.devices:
        npu, chip = divmod(device.id, host.chips_per_npu)
        yield f"npu-smi info -i {npu} -c {chip} -t health", Said(_health(device))
        yield f"npu-smi info -t health -i {npu} -c {chip}", Said(_health(device))
        if host.kind == "A3":
            yield f"npu-smi info -t spod-info -i {npu} -c {chip}", Said(_spod(host, device))
    for npu in range(len(host.devices) // host.chips_per_npu):
        yield f"npu-smi info -i {npu} -t board", Said(_board(host, npu))
        yield f"npu-smi info -i {npu} -t ecc", Said(_ecc(host, npu))


def _hccn(host: HostFacts, device: DeviceFacts) -> Iterator[tuple[str, Said]]:
    old = host.old_driver
    no_ip = Said("" if old else "Get ipconf failed, because no ip was preset there!\n", 1)
    yield "-ip", Said(f"ipaddr:{device.ip}\nnetmask:{device.netmask}\n") if device.ip else no_ip
    yield "-ip -inet6", no_ip
    yield "-link", Said(f"link status: {device.link}\n")
    health = device.net_health.replace("Socket fail", "Socket failed") if old else device.net_health
    yield "-net_health", Said(f"net health status: {health}\n")
    word = "addr" if old else "address"
    yield "-netdetect", Said(f"netdetect {word}: {device.netdetect or '0.0.0.0'}\n")
    no_gateway = Said("Get gateway failed, because no gateway was preset there!\n", 1)
    yield (
        "-gateway",
        Said(f"default gateway:{device.gateway}, Iface:eth0\n") if device.gateway else no_gateway,
    )
    if device.vnic:
        state = f"vnic link status: {device.vnic_link}\n"
        yield "-vnic", Said(f"{state}vnic ipaddr: {device.vnic}\nvnic netmask: 255.255.0.0\n")
    yield "-tls", Said(_TLS.format(device=device.id, switch=device.tls))
    yield "-speed", Said("Speed: 100000 Mb/s\n")
    yield "-fec", Said("fec mode: rs FEC mode\n")
    yield "-lldp", Said(f"Port ID TLV\n\tIfname: 400GE1/1/{device.id}:1\nEnd of LLDPDU TLV\n")
    yield "-mac", Said(f"mac addr: 9c:52:f8:00:11:{device.id:02x}\n")


_TLS = (
    "dev_id:{device}, tls switch[{switch}](0:disable, 1:enable), tls preconfigured[1]"
    "(0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
    "dev_id:{device}, [pub cert] info:\n issuer[/C=CN/O=Huawei]\n"
)


def hccn_conf(host: HostFacts) -> str:
    """/etc/hccn.conf."""
    lines = []
    for device in host.devices:
        values = {"address": device.ip, "netmask": device.netmask, "gateway": device.gateway}
        lines += [f"{key}_{device.id}={value}" for key, value in values.items() if device.ip and value]
    return "\n".join(lines) + "\n"


def _info(host: HostFacts) -> str:
    phy = "Chip  Phy-ID" if host.kind == "A3" else "Chip"
    head = f"npu-smi {host.driver}"
    lines = [_LINE, f"| {head:<32} {'Version: ' + host.driver:<62}|", _RULE]
    lines += [_row("NPU   Name", "Health", "Power(W)    Temp(C)           Hugepages-Usage(page)")]
    lines += [_row(phy, "Bus-Id", "AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)"), _DOUBLE]
    for device in host.devices:
        npu, chip = divmod(device.id, host.chips_per_npu)
        lines += [
            _row(f"{npu:<5} {_BANNERS[host.kind]}", device.health, "88.4        46                0    / 0")
        ]
        where = f"{chip:<5} {device.id}" if host.kind == "A3" else str(chip)
        lines += [_row(where, f"0000:{0xC1 - device.id:02X}:00.0", _usage(host, device)), _DOUBLE]
    lines += [
        _RULE,
        _process_row("NPU     Chip", "Process id", "Process name", "Process memory(MB)"),
        _DOUBLE,
    ]
    for device in host.devices:
        npu, chip = divmod(device.id, host.chips_per_npu)
        if device.process is not None:
            lines += [_process_row(f"{npu:<7} {chip}", str(device.process), "python", "27002"), _DOUBLE]
        else:
            lines += [f"| {f'No running processes found in NPU {npu}':<95}|", _DOUBLE]
    return "\n".join(lines) + "\n"


def _usage(host: HostFacts, device: DeviceFacts) -> str:
    if host.kind == "910A":
        return "0           4565 / 15137      0    / 32768"
    return f"0           0    / 0          {31000 if device.process else 4175} / 65536"


def _row(*cells: str) -> str:
    return f"| {cells[0]:<26}| {cells[1]:<14}| {cells[2]:<51}|"


def _process_row(*cells: str) -> str:
    return f"| {cells[0]:<26}| {cells[1]:<14}| {cells[2]:<25}| {cells[3]:<24}|"


def _fields(width: int, **values: object) -> str:
    return "".join(f"\t{key.replace('_', ' '):<{width}}: {value}\n" for key, value in values.items())


def _map(host: HostFacts) -> str:
    rows = [("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name")]
    for device in host.devices:
        npu, chip = divmod(device.id, host.chips_per_npu)
        rows.append(
            (str(npu), str(chip), str(device.id), f"Ascend {_BANNERS[host.kind].removeprefix('Ascend')}")
        )
    return "".join("\t" + "".join(f"{cell:<31}" for cell in row).rstrip() + "\n" for row in rows)


def _health(device: DeviceFacts) -> str:
    return _fields(31, Health_Status=device.health, Error_Code=device.error_code, Error_Information="NA")


def _board(host: HostFacts, npu: int) -> str:
    return _fields(
        31, NPU_ID=npu, Software_Version=host.driver, Firmware_Version=host.firmware, Compatibility="OK",
        Chip_Count=host.chips_per_npu,
    )  # fmt: skip


def _spod(host: HostFacts, device: DeviceFacts) -> str:
    return _fields(
        31, SDID=device.super_device_id, Super_Pod_Size=384, Super_Pod_ID=host.super_pod_id,
        Server_Index=host.server_index,
    )  # fmt: skip


def _ecc(host: HostFacts, npu: int) -> str:
    text = _fields(41, NPU_ID=npu, Chip_Count=host.chips_per_npu) + "\n"
    for device in host.devices:
        if device.id // host.chips_per_npu == npu:
            text += _fields(
                41,
                HBM_Single_Bit_Error_Count=0,
                HBM_Double_Bit_Error_Count=device.ecc_double,
                HBM_Single_Bit_Isolated_Pages_Count=0,
                HBM_Double_Bit_Isolated_Pages_Count=device.ecc_isolated,
                Chip_ID=device.id % host.chips_per_npu,
            )
    return text
