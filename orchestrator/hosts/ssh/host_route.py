"""The way to a host: what the configuration says about it, and about each host that it is reached through."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from orchestrator.core.errors import ConfigError, Problem
from orchestrator.hosts.ssh.client_config import Asked, Settings
from orchestrator.hosts.ssh.hops import parse_hops

__all__ = ["Way", "find_way"]

_MOST_HOPS = 16


@dataclass(frozen=True, slots=True)
class Way:
    """A host and the last of its jump hosts, which has a way of its own."""

    asked: Asked
    settings: Settings
    before: Way | None = None

    @property
    def key(self) -> Hashable:
        """The same for two ways that lead to the same place over the same hosts."""
        own = self.settings
        return own.user, own.hostname, own.port, own.proxy_command, self.before and self.before.key


def find_way(asked: Asked, settings_of: Callable[[Asked], Settings], passed: int = 0) -> Way:
    """Follow ProxyJump as OpenSSH does: of `a,b` the last, b, is reached through a, whatever b's own entry
    says, and a by its own entry. Raises ConfigError, also where it leads in a circle.
    """
    settings = settings_of(asked)
    if not settings.proxy_jump:
        return Way(asked, settings)
    if passed >= _MOST_HOPS:
        problem = Problem("ProxyJump", f"leads in a circle, or over more than {_MOST_HOPS} hosts")
        raise ConfigError([problem])
    rest, _, _ = settings.proxy_jump.rpartition(",")
    last = parse_hops(settings.proxy_jump)[-1]
    jump = Asked(last.host, last.user, last.port, rest)
    return Way(asked, settings, find_way(jump, settings_of, passed + 1))
