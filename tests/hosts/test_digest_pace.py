"""How often hosts tell of their steps."""

from __future__ import annotations

import pytest

from orchestrator.config.job import Health
from orchestrator.control.step_limits import StepLimits
from orchestrator.hosts.host_link import digest_seconds


@pytest.mark.parametrize(
    ("hosts", "alone", "looked_at"), [(1, 2, 0.5), (50, 2, 0.5), (200, 8, 1), (1000, 20, 5), (4000, 80, 20)]
)
def test_pace(hosts: int, alone: float, looked_at: float) -> None:
    assert (digest_seconds(hosts), digest_seconds(hosts, viewers=1)) == (alone, looked_at)
    # What was promised: not more often than every two seconds, nor than fifty hosts a second.
    assert digest_seconds(hosts) >= max(2.0, hosts / 50)


def test_up_to_a_thousand_hosts_it_delays_the_news_of_no_hang() -> None:
    found = set()
    for hosts in (1, 200, 500, 1000):
        limits = StepLimits(Health(), digest_seconds(hosts))
        limits.learn_step(2.0, 1)
        found.add(limits.of(None))
    assert found == {Health().floor}
