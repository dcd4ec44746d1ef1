"""Hosts over SSH: the only package that imports paramiko; `connection` does, so import that late."""

from __future__ import annotations

import logging

# Without a handler Python prints paramiko's log lines on stderr. What matters in them is in our errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
