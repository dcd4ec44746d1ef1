"""The copier: a process of a host's supervisor that sends its ranks' shards to a second host, and keeps those
of another.

It has what nobody else wants of processor and disk, and nothing of the run depends on it: its supervisor
starts it again when it ends. What it has done it writes to stdout, a `CopyStatus` a line; a line on stdin has
it finish, the end of stdin is its end.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import threading
import time
from typing import Any, Optional

from orchestrator.agent.copy_keeper import Keeper
from orchestrator.agent.copy_network import listening, ports_in_turn
from orchestrator.agent.copy_owner import NotCopied, Owner
from orchestrator.agent.copy_store import CopyStore
from orchestrator.agent.copy_tls import Identity
from orchestrator.core.codec import load, to_json
from orchestrator.core.copier_config import CONFIG_NAME, KEY_NAME, CopierConfig
from orchestrator.core.paths import RunDir
from orchestrator.core.records import CopyStatus

__all__ = ["be_idle", "copy_on"]

# Between two looks at what has been saved.
_EVERY = 1.0
# After what has failed: the keeper's disk is full, or the keeper away.
_AGAIN = 5.0
_BYES = 60.0
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13


def be_idle() -> None:
    """Let every other process of the host go first, at its processors and its disks; as far as it can be."""
    for give_way in (_give_way_on_processors, _give_way_on_disks):
        try:
            give_way()
        except (OSError, AttributeError, ValueError):
            continue  # a sandbox: it is a small process all the same


def _give_way_on_processors() -> None:
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _give_way_on_disks() -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


def copy_on(run: RunDir, number: int) -> None:
    """Copy until told to finish, and then until all is copied. Raises what keeps it from beginning."""
    folder = run.folder_of(number)
    config = load(CopierConfig, folder / CONFIG_NAME, run.runs)
    identity = Identity(config, folder / KEY_NAME)
    store = CopyStore(run, number, keep=config.keep, ranks=config.ranks, inside=config.inside)
    keeper = Keeper(identity, store, config.owners, note=_log)
    server = listening(config.address, ports_in_turn(config.ports, config.run_id, config.host))
    be_idle()  # only now: while it is not there, its owners look for it
    threading.Thread(target=keeper.serve, args=(server,), daemon=True).start()
    finish = threading.Event()
    threading.Thread(target=_await_orders, args=(finish,), daemon=True).start()
    owner, told = Owner(config, run, identity), None
    tries_left = 2
    while True:
        is_last = finish.is_set()
        step = owner.next_step(is_last=is_last)
        told = _report(owner.status(), told)
        pause = _EVERY
        if step is not None:
            try:
                owner.copy(step)
                pause = 0.0
            except NotCopied as error:
                _log(str(error))
                pause, tries_left = (_EVERY, tries_left - 1) if is_last else (_AGAIN, tries_left)
            told = _report(owner.status(), told)
        if is_last and (step is None or tries_left <= 0):
            break
        finish.wait(pause)
    try:
        owner.say_bye()
    except NotCopied as error:
        _log(str(error))
    keeper.wait_for_byes(_BYES)


def _await_orders(finish: threading.Event) -> None:
    """A line: finish; the end of it: the supervisor is gone."""
    if sys.stdin.readline():
        finish.set()
        sys.stdin.read()
    os._exit(0)


def _report(status: CopyStatus, told: Optional[Any]) -> Any:
    """Tell the supervisor what is new."""
    if status != told:
        os.write(1, json.dumps(to_json(status)).encode() + b"\n")
    return status


_log_left = [1000]  # lines: whoever knocks at an open port must not fill a disk


def _log(text: str) -> None:
    """Into the supervisor's log."""
    if _log_left[0] <= 0:
        return
    _log_left[0] -= 1
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f"{stamp} copier: {text[:400]!a}\n"
    try:
        os.write(2, line.encode())
    except OSError:
        return
