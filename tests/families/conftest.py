from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.families.registry import register, unregister
from tests.families.toy import ToyConfig


@pytest.fixture(autouse=True, scope="package")
def toy() -> Iterator[None]:
    """The toy among the families, as a row of `registry.py` would put it there."""
    register(ToyConfig)
    yield
    unregister(ToyConfig)
