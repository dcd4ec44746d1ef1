"""The inventory file as it is written: ranges not yet expanded, defaults not yet applied."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from orchestrator.inventory.chip import Chip, chip_written
from orchestrator.inventory.hostrange import RangeError, expand, numbers
from orchestrator.inventory.model import (
    Device,
    Frozen,
    IpText,
    Port,
    SshOptions,
    Transport,
    check_address,
    check_name,
)
from orchestrator.yaml_words import Invalid, show

__all__ = ["HostDefaults", "HostEntry", "InventoryFile", "Names"]


def _names(value: Any) -> Any:
    """A range, or a list of ranges, as its names."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        quoted = f'put it in quotes: "{show(value)}"' if isinstance(value, (int, float)) else ""
        raise Invalid(f"expected a range such as npu[001-012], got {show(value)}", quoted)
    try:
        return tuple(name for part in parts for name in expand(part))
    except RangeError as error:
        raise Invalid(str(error)) from None


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise Invalid("is empty")
    return names


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    # A host without `address:` is reached by its name.
    return tuple(check_address(check_name(name)) for name in _some(names))


def _addresses(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(check_address(name) for name in _some(names))


def _devices(value: Any) -> Any:
    """`0-7`, `0,2`, 0, [0, 1] and [{id: 0, ip: ...}] as a list of mappings."""
    items = value if isinstance(value, list) else [value]
    result: list[Any] = []
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, str, dict, Device)):
            raise Invalid(f"expected device ids such as 0-7, got {show(item)}")
        try:
            ids = numbers(item.strip().strip("[]")) if isinstance(item, str) else None
        except RangeError:
            raise Invalid(f"expected device ids such as 0-7, got {show(item)}") from None
        if isinstance(item, int):
            result.append({"id": item})
        else:
            result.extend([item] if ids is None else ({"id": int(text)} for text in ids))
    if not result:
        raise Invalid("is empty", "give the device ids, such as 0-7")
    return tuple(result)


def _address_rows(value: Any) -> Any:
    """Each range of a list on its own; one range as a list of one."""
    return tuple(_names(part) for part in (value if isinstance(value, list) else [value]))


Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class HostDefaults(Frozen):
    """What holds for every host that does not say otherwise; None is `not said`."""

    port: Port | None = None
    user: Text | None = None
    key: Text | None = None
    transport: Transport | None = None
    python: Text | None = None
    env_script: Text | None = None
    workdir: Text | None = None
    lock_dir: Text | None = None
    hccn_conf: Text | None = None
    devices: Annotated[
        tuple[Device, ...] | None, BeforeValidator(lambda v: v if v is None else _devices(v))
    ] = None
    chip: Annotated[Chip | None, BeforeValidator(lambda v: v if v is None else chip_written(v))] = None
    labels: dict[str, str] | None = None


class HostEntry(HostDefaults):
    """One host or one range of hosts.

    `device_ips` is one range per device over the hosts, or one range over hosts × devices, host by host.
    """

    name: Annotated[Names, AfterValidator(_host_names)]
    address: Annotated[Names, AfterValidator(_addresses)] | None = None
    device_ips: Annotated[
        tuple[tuple[IpText, ...], ...] | None, BeforeValidator(lambda v: v if v is None else _address_rows(v))
    ] = None


class InventoryFile(Frozen):
    """The top of the file."""

    transport: Transport | None = None
    ssh: SshOptions = SshOptions()
    defaults: HostDefaults = HostDefaults()
    hosts: tuple[HostEntry, ...]
    groups: dict[str, Annotated[Names, AfterValidator(_some)]] = Field(default_factory=dict)
