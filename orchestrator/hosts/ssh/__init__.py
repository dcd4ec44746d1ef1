"""Hosts over SSH: the only package that imports paramiko; `connection` does, so import that late."""

from __future__ import annotations

import logging

from orchestrator.hosts.late_modules import load_late

# Without a handler Python prints paramiko's log lines on stderr. What matters in them is in our errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

# Half of the time that paramiko takes to be imported. It wants it for the `Match exec` of configurations, and
# those we read ourselves.
load_late("invoke")
