"""Locks that go from one process to another: never free on the way, whichever of the two ends."""

import os
import socket
from pathlib import Path

import pytest

from orchestrator.agent import control_socket
from orchestrator.agent.device_locks import DeviceLocks, busy_devices
from orchestrator.agent.lock_handover import hand_over, require_lock, take_over
from orchestrator.core.errors import AgentError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_a_lock_is_never_free_on_the_way(folder):
    locks = DeviceLocks(folder, (0, 2), "run-a")
    here, there = socket.socketpair()
    with here, there:
        hand_over(here, list(locks.handles.values()), [0, 2])
        locks.release()
        # Nobody has an open descriptor of it but the socket.
        assert busy_devices(folder, (0, 1, 2)) == [0, 2]
        taken = take_over(there)
    assert sorted(taken) == [0, 2]
    assert not any(os.get_inheritable(fd) for fd in taken.values())
    for device, fd in taken.items():
        require_lock(fd, folder / f"device_{device}.lock")
    assert busy_devices(folder, (0, 1, 2)) == [0, 2]
    for fd in taken.values():
        os.close(fd)
    assert busy_devices(folder, (0, 1, 2)) == []


def test_the_holder_that_dies_before_it_is_heard_loses_nothing(folder):
    here, there = socket.socketpair()
    holder = os.fork()
    if holder == 0:
        locks = DeviceLocks(folder, (1,), "run-a")
        hand_over(here, list(locks.handles.values()), [1])
        os._exit(0)
    os.waitpid(holder, 0)
    here.close()
    with there:
        taken = take_over(there)
    assert busy_devices(folder, (1,)) == [1]
    os.close(taken[1])
    assert busy_devices(folder, (1,)) == []


def test_a_peer_that_has_them_and_is_gone_at_once_is_heard(folder):
    """Its word was lost, and the holder stayed: two of six attempts on a spare found it so."""
    locks = DeviceLocks(folder, (0,), "run-a")
    here, there = socket.socketpair()
    taken = {}

    class ToQuickPeer(socket.socket):
        def sendmsg(self, *args):
            sent = super().sendmsg(*args)
            taken.update(take_over(there))
            control_socket.reply(there, {"taken": True})
            there.close()
            return sent

    with ToQuickPeer(fileno=here.detach()) as holder:
        hand_over(holder, list(locks.handles.values()), [0])
        assert control_socket.receive(holder) == {"taken": True}
    locks.release()
    assert busy_devices(folder, (0,)) == [0]
    os.close(taken[0])


def test_none_is_an_answer(folder):
    here, there = socket.socketpair()
    with here, there:
        hand_over(here, [], [])
        assert take_over(there) == {}


@pytest.mark.parametrize(
    "line", [b"", b"[0]\n", b'{"0": 1}\n', b'["0"]\n', b"nonsense\n", b"[" * 9000 + b"\n"]
)
def test_what_is_no_hand_over_is_refused(line):
    here, there = socket.socketpair()
    with there:
        here.sendall(line)
        here.close()
        with pytest.raises(AgentError) as caught:
            take_over(there)
    assert caught.value.kind == "no_locks"


def test_descriptors_without_a_device_each_are_closed(tmp_path):
    here, there = socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    with open(tmp_path / "any", "w") as file, here, there:
        hand_over(here, [file.fileno(), file.fileno()], [3, 3])
        with pytest.raises(AgentError, match="not a device for each"):
            take_over(there)
        assert len(os.listdir("/proc/self/fd")) == before + 1


def test_another_file_is_no_lock(folder, tmp_path):
    locks = DeviceLocks(folder, (0,), "run-a")
    with open(tmp_path / "any", "w") as file, pytest.raises(AgentError, match="another file"):
        require_lock(file.fileno(), folder / "device_0.lock")
    locks.release()


def test_a_lock_that_somebody_else_holds_is_not_ours(folder):
    locks = DeviceLocks(folder, (0,), "run-a")
    with open(folder / "device_0.lock", "r+") as file, pytest.raises(AgentError) as caught:
        require_lock(file.fileno(), folder / "device_0.lock")
    assert caught.value.kind == "no_locks"
    locks.release()
