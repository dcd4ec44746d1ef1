"""The questions to an agent about the network of the copies, see `agent_client`."""

from __future__ import annotations

import ipaddress

from orchestrator.core.host_answers import CopyListener
from orchestrator.hosts.agent_questions import AgentQuestions

__all__ = ["CopyQuestions"]

_MOST_ADDRESSES = 256
_LONGEST = 1000


class CopyQuestions(AgentQuestions):
    """Which addresses a host has for copies, and whether it is reached there."""

    def copy_addresses(self, network: str) -> list[str]:
        """The host's own addresses in this network, the lowest first."""
        found = self._ask(tuple[str, ...], "copy_addresses", network=network)
        self._expect(len(found) <= _MOST_ADDRESSES, "as many addresses as a host has")
        self._expect(all(_is_in(address, network) for address in found), f"addresses in {network}")
        return list(found)

    def copy_listen(
        self, network: str, ports: tuple[int, int], *, run_id: str, host: str, word: str
    ) -> CopyListener:
        """Have the host listen for a minute, as its copier will, and answer with this word.

        AgentError, kind `no_address` or `no_port`, where it cannot.
        """
        asked = {"run_id": run_id, "host": host, "word": word}
        found = self._ask(
            CopyListener, "copy_listen", raw=(), network=network, ports=list(ports), asked=asked
        )
        self._expect(_is_in(found.address, network), f"an address in {network}")
        self._expect(ports[0] <= found.port <= ports[1], "one of the ports")
        return found

    def copy_close(self) -> None:
        """Have it listen no more."""
        self._do("copy_close")

    def copy_reach(self, own: str, address: str, port: int, word: str, *, timeout: float) -> str:
        """Why the host does not reach a listener on another one; "" where it does."""
        asked = {"own": own, "address": address, "port": port, "word": word, "patience": timeout}
        found = self._ask(str, "copy_reach", timeout=timeout + 20.0, asked=asked)
        self._expect(len(found) <= _LONGEST, "a short reason")
        return found


def _is_in(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False
