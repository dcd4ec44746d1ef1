"""Two hosts of one attempt that copy to each other, in one process: real files, real TLS on loopback."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from pathlib import Path

import numpy as np

from orchestrator.agent.copy_keeper import Keeper
from orchestrator.agent.copy_network import listening, ports_in_turn
from orchestrator.agent.copy_owner import Owner
from orchestrator.agent.copy_store import CopyStore
from orchestrator.agent.copy_stream import Stream
from orchestrator.agent.copy_tls import Identity
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.control.copies import Authority
from orchestrator.core.copier_config import CopierConfig
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Attempt

RUN = "demo-1"
ATTEMPT = Attempt(1, "abcd")
RANKS = {"a": (0, 1), "b": (2, 3)}
LOCAL = "127.0.0.1"


def free_ports(count: int = 8) -> tuple[int, int]:
    """A range in which some port is free; whoever looks for one tries them all."""
    with socket.socket() as held:
        held.bind((LOCAL, 0))
        first = min(held.getsockname()[1], 65535 - count)
        return first, first + count - 1


class Host:
    """One of the two; its peer is the other."""

    def __init__(self, folder: Path, name: str, authority: Authority, ports: tuple[int, int]) -> None:
        self.name = name
        self.run = RunDir(folder / name / "runs" / RUN)
        self.run.make(1, ATTEMPT.token)
        self.peer = "b" if name == "a" else "a"
        self.config = CopierConfig(
            RUN,
            name,
            attempt=ATTEMPT,
            address=LOCAL,
            ports=ports,
            keeper=self.peer,
            keeper_address=LOCAL,
            owners={self.peer: RANKS[self.peer]},
            ranks=RANKS[name],
            authority=authority.certificate,
            keep=2,
        )
        self.key = folder / f"{name}.pem"
        self.key.write_text(authority.issue(name))
        self.refused: list[str] = []
        self.server: socket.socket | None = None

    @property
    def identity(self) -> Identity:
        return Identity(self.config, self.key)

    def owner(self, **changes) -> Owner:
        """What copies this host's shards; `changes` are of its configuration."""
        return Owner(dataclasses.replace(self.config, **changes), self.run, self.identity)

    def store(self) -> CopyStore:
        config = self.config
        return CopyStore(self.run, 1, keep=config.keep, ranks=config.ranks, inside=config.inside)

    def serve(self, stream=Stream) -> Keeper:
        """Keep the peer's shards, until `close`."""
        keeper = Keeper(
            self.identity, self.store(), self.config.owners, note=self.refused.append, stream=stream
        )
        self.server = listening(LOCAL, ports_in_turn(self.config.ports, RUN, self.name))
        threading.Thread(target=keeper.serve, args=(self.server,), daemon=True).start()
        return keeper

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.getsockname()[1])

    def save(self, step: int, *, ranks: tuple[int, ...] = (), with_sum: bool = True) -> list[Path]:
        """Write the shards of a step, as a worker does."""
        paths = []
        for rank in ranks or RANKS[self.name]:
            path = self.run.attempt.checkpoint / f"rank_{rank}/m_rank_{rank}-1_{step}.ckpt"
            path.parent.mkdir(exist_ok=True)
            tensors = {"w": np.full(1000, rank * 1000 + step, np.float32)}
            write_ckpt(path, tensors.items(), with_sum=with_sum)
            paths.append(path)
        return paths

    def save_as_mindformers(self, step: int, *, of_epoch: int = 10, cut: bool = False) -> list[Path]:
        """The same as MindFormers does: the name counts the steps of an epoch, and there is no checksum."""
        paths = []
        for rank in RANKS[self.name]:
            name = f"m_rank_{rank}-{(step - 1) // of_epoch + 1}_{(step - 1) % of_epoch + 1}.ckpt"
            path = self.run.attempt.checkpoint / f"rank_{rank}" / name
            path.parent.mkdir(exist_ok=True)
            tensors = {"w": np.full(1000, rank * 1000 + step, np.float32), "step_num": np.array(step)}
            write_ckpt(path, tensors.items())
            if cut:
                os.truncate(path, path.stat().st_size - 9)
            os.utime(path, (1e9 + step, 1e9 + step))
            paths.append(path)
        return paths

    def copies(self) -> dict[str, bytes]:
        """What it keeps of the peer, by name."""
        home = self.run.folder_of(1) / "copies" / self.peer / "checkpoint"
        found = [path for path in home.rglob("*") if path.is_file()]
        return {str(path.relative_to(home)): path.read_bytes() for path in found}

    def everything(self) -> set[str]:
        """Every file of the host."""
        root = self.run.runs
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def close(self) -> None:
        if self.server is not None:
            with self.server:
                self.server.shutdown(socket.SHUT_RDWR)
