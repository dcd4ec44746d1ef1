"""The hosts that there are: what a person writes about them, and choosing some of them."""

from orchestrator.inventory.hostrange import expand, fold
from orchestrator.inventory.load import load_inventory
from orchestrator.inventory.model import Device, Host, Inventory, SshOptions

__all__ = ["Device", "Host", "Inventory", "SshOptions", "expand", "fold", "load_inventory"]
