"""The holder of a spare: a process that keeps a host ready for a run, and outlives the session that made it.

It holds the spare lock and the locks of the devices, and is the parent of the process that has imported what
workers import. It ends when it is told to (`release`), when the run's next attempt has taken its locks over
(`take`), when no monitor has renewed it for its lease, or when its folder was removed; with it all of that.
It is one process: if it is killed, the kernel frees the locks and ends the warm process.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from orchestrator.agent import control_socket, processes
from orchestrator.agent.daemon import FirstWord, spawn_apart
from orchestrator.agent.device_locks import DeviceLocks, lock_spare
from orchestrator.agent.lock_handover import hand_over
from orchestrator.agent.warm_process import WarmProcess, require_names
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.codec import DecodeError, dumps, from_json, load, to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir, atomic_write
from orchestrator.core.records import Claim
from orchestrator.core.safe_open import own_folders, require_own_folder
from orchestrator.core.spare_records import SpareAnswer, SpareNote

__all__ = ["Hold", "HoldLease", "SpareFolder", "hold"]

_TICK = 2.0
# Of seconds between two turns: who slept longer than this did not run, nor could it hear anybody.
_SLEPT = 10.0
# In which a peer has to have said what it wants.
_PATIENCE = 5.0
# And that it has what it got: on a busy host that takes longer, and a peer that ends is heard at once.
_UNTIL_TAKEN = 60.0


class Hold:
    """What is to be held for which run."""

    def __init__(
        self,
        run_id: str,
        devices: Sequence[int],
        locks: Path,
        lease: float,
        packages: Sequence[str] = (),
        env_script: Optional[str] = None,
        inputs: Sequence[str] = (),
        claim: Claim = NO_CLAIM,
    ) -> None:
        require_names(packages)
        self.run_id, self.devices, self.locks = run_id, sorted(set(devices)), locks
        self.lease, self.packages, self.env_script = lease, list(packages), env_script
        self.inputs, self.claim = list(inputs), claim


class SpareFolder:
    """Where the holder of a run's spare has its files on this host."""

    def __init__(self, workdir: Workdir, run_id: str) -> None:
        if "/" in run_id or run_id in ("", ".", ".."):
            raise AgentError(f"no run is called {run_id!r}", kind="no_spare")
        self.run_id = run_id
        self.spares = workdir.spares
        self.root = workdir.spares / run_id
        self.note = self.root / "holder.json"
        self.control_socket = self.root / "control.sock"
        self.log = self.root / "holder.log"

    def holder(self) -> SpareNote:
        """Who holds it, as its note says, dead or alive. Raises AgentError, kind `no_spare`."""
        try:
            require_own_folder(self.root)
            return load(SpareNote, self.note, self.spares)
        except (OSError, DecodeError) as error:
            what = f"this host is no spare of run {self.run_id}"
            raise AgentError(what, kind="no_spare") from error

    def devices(self) -> Tuple[int, ...]:
        """Those that are held here for the run."""
        try:
            found = self.holder()
        except AgentError:
            return ()
        return found.devices if processes.is_alive(found.holder) else ()

    def make(self) -> None:
        """Raises AgentError, kind `spare_exists`, where one is there or is just being made."""
        self.spares.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.root.mkdir(mode=0o700)
        except FileExistsError:
            what = f"a spare of run {self.run_id} is just being made here"
            raise AgentError(what, kind="spare_exists") from None

    def remove(self) -> None:
        # It follows no link: https://docs.python.org/3/library/shutil.html#shutil.rmtree
        shutil.rmtree(self.root, ignore_errors=True)


def hold(workdir: Workdir, wanted: Hold, taken: Mapping[int, int]) -> None:
    """Start the holder; returns when it holds all that it is to hold, while the import goes on.

    `taken` are locks that an attempt before has kept here, by device. Raises AgentError: kind `device_busy`,
    or `spare_taken` where the host is another run's spare.
    """
    _sweep(workdir)
    folder = SpareFolder(workdir, wanted.run_id)
    folder.make()
    try:
        spawn_apart(folder.log, lambda word: _hold(folder, wanted, taken, word), tuple(taken.values()))
    except BaseException:
        folder.remove()
        raise


def _sweep(workdir: Workdir) -> None:
    """Remove what holders have left that were killed."""
    for path in own_folders(workdir.spares)[0]:
        folder = SpareFolder(workdir, path.name)
        try:
            is_left = not processes.is_alive(folder.holder().holder)
        except AgentError:
            is_left = _age(path) > _SLEPT  # one that is just being made has no note yet
        if is_left:
            folder.remove()


def _age(path: Path) -> float:
    try:
        return abs(time.time() - os.lstat(path).st_mtime)  # the clock may have been set back
    except OSError:
        return 0.0


def _hold(folder: SpareFolder, wanted: Hold, taken: Mapping[int, int], word: FirstWord) -> NoReturn:
    try:
        processes.become_subreaper()
        spare = lock_spare(wanted.locks, wanted.run_id)
        locks = DeviceLocks(wanted.locks, wanted.devices, wanted.run_id, taken)
        holder = SpareHolder(folder, wanted, locks)
        holder.serve(ready=word.say)
        os.close(spare)
    except AgentError as error:
        word.say(error)
        os._exit(0)
    except BaseException as error:
        word.say(AgentError(f"the spare cannot be held: {error}"))
        sys.excepthook(*sys.exc_info())  # and without importing `traceback`
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


class HoldLease:
    """How long a host is held ready of which no monitor is heard any more; `now` is of any steady clock."""

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        self._heard = self._last_turn = now

    def renew(self, now: float) -> None:
        self._heard = now

    def has_ended(self, now: float) -> bool:
        """To be asked each turn: who did not run for long could hear nobody, and begins anew."""
        if now - self._last_turn > _SLEPT:
            self._heard = now
        self._last_turn = now
        return now - self._heard > self._seconds


class SpareHolder:
    """Serves its control socket until there is nothing to hold any more."""

    def __init__(self, folder: SpareFolder, wanted: Hold, locks: DeviceLocks) -> None:
        self._folder, self._wanted, self._locks = folder, wanted, locks
        self._claim = wanted.claim
        self._warm = WarmProcess(wanted.packages, wanted.env_script, folder.root)
        self._is_over = False
        self._lease = HoldLease(wanted.lease, time.monotonic())

    def serve(self, ready: Any) -> None:
        """Returns when all is let go of; `ready` is called once it is held."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        with control_socket.listen(self._folder.control_socket) as listener:
            note = SpareNote(
                self._wanted.run_id,
                processes.identify(os.getpid()),
                time.time(),
                tuple(self._wanted.inputs),
                self._locks.devices,
            )
            atomic_write(self._folder.note, dumps(note))
            ready()
            self._warm.start()
            while not self._is_over:
                self._turn(listener)
        self._warm.end()
        processes.kill_descendants()
        # Before the locks: who finds them free finds nothing of it any more.
        self._folder.remove()
        self._locks.release()

    def _turn(self, listener: socket.socket) -> None:
        awaited: List[int] = [listener.fileno()]
        news = self._warm.fileno()
        awaited += [] if news is None else [news]
        readable, _, _ = select.select(awaited, [], [], _TICK)
        if news in readable:
            self._warm.take()
        if listener.fileno() in readable:
            self._accept(listener)
        self._warm.look()
        if self._lease.has_ended(time.monotonic()) or not os.path.isdir(self._folder.root):
            self._is_over = True

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the peer is gone again
        with connection:
            connection.settimeout(_PATIENCE)
            # A peer that hangs or goes costs nobody anything.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                self._answer(connection, control_socket.receive(connection))

    def _answer(self, connection: socket.socket, request: Dict[str, Any]) -> None:
        verb = request["verb"]
        if verb != "status":
            claim = from_json(Claim, request["claim"]) if request.get("claim") else NO_CLAIM
            if self._is_older(claim):
                who = f": {self._claim.holder}" if self._claim.holder else ""
                refused = f"another control node has taken the run over{who}"
                control_socket.reply(connection, {"refused": refused, "remedy": ""})
                return
            self._claim = claim
            self._lease.renew(time.monotonic())
        if verb == "take":
            self._hand_over(connection)
            return
        if verb == "release":
            self._is_over = True
        control_socket.reply(connection, to_json(self._status()))

    def _is_older(self, claim: Claim) -> bool:
        """Whether who comes with this claim may not act any more, as for a run itself."""
        is_other = claim.epoch == self._claim.epoch and claim.holder != self._claim.holder
        return claim.epoch < self._claim.epoch or is_other

    def _hand_over(self, connection: socket.socket) -> None:
        """Give the locks away; until the peer says that it has them they are held here, too."""
        hand_over(connection, list(self._locks.handles.values()), self._locks.devices)
        connection.settimeout(_UNTIL_TAKEN)
        if control_socket.receive(connection).get("taken") is True:
            self._is_over = True

    def _status(self) -> SpareAnswer:
        warm = self._warm
        return SpareAnswer(
            self._wanted.run_id, tuple(self._wanted.devices), warm.warmth, warm.trouble, warm.seconds
        )

    def _on_sigterm(self, *_: object) -> None:
        self._is_over = True
