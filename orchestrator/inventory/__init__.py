"""The hosts that there are: what a person writes about them, and choosing some of them."""

from orchestrator.inventory.chip import RING, Chip, chip_named
from orchestrator.inventory.hostrange import expand, fold, numeric_key
from orchestrator.inventory.load import load_inventory
from orchestrator.inventory.model import Device, Host, Inventory, SshOptions

__all__ = [
    "RING",
    "Chip",
    "Device",
    "Host",
    "Inventory",
    "SshOptions",
    "chip_named",
    "expand",
    "fold",
    "load_inventory",
    "numeric_key",
]
