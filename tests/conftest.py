"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Whoever starts the suite with `nohup` or `&` has it ignore these, and so all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
