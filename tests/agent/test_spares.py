"""A host that stands ready for a run: what is held, who respects it, and that it all ends with its holder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import control_socket
from orchestrator.agent.device_locks import DeviceLocks, busy_devices
from orchestrator.agent.disk_space import sweep_store
from orchestrator.agent.lock_handover import hand_over, take_over
from orchestrator.agent.processes import identify, is_alive
from orchestrator.agent.spare_holder import HoldLease, SpareFolder
from orchestrator.agent.spare_locks import take_locks
from orchestrator.core.claims import NO_CLAIM
from orchestrator.core.codec import dumps, from_json, to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir, atomic_write
from orchestrator.core.records import Attempt, Claim, ProcessId
from orchestrator.core.spare_records import SpareAnswer, SpareNote, Warmth
from orchestrator.testing.agent_host import RUN, AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually

OURS, THEIRS = Claim(1, "me@here"), Claim(2, "you@there")
STAY = sh("echo $$ > up_; exec sleep 300")
SHA = "ab" * 32


def _hold(host: AgentHost, run_id: str = RUN, **changes: Any) -> SpareAnswer:
    args: dict[str, Any] = {"devices": [0, 1], "lock_dir": None, "lease": 60.0, "packages": [], **changes}
    return from_json(SpareAnswer, host.session.call("spare_hold", run_id=run_id, **args))


def _status(host: AgentHost, run_id: str = RUN, **args: Any) -> SpareAnswer:
    return from_json(SpareAnswer, host.session.call("spare_status", run_id=run_id, **args))


def _holder(host: AgentHost) -> ProcessId:
    (holder,) = host.spare_holders()
    assert holder is not None
    return holder


def _nothing_left(host: AgentHost, holder: ProcessId) -> None:
    eventually(lambda: not is_alive(holder), what="the holder has ended")
    eventually(lambda: host.busy(0, 1) == [], what="the devices are free")
    assert processes_in(host.workdir.root) == []
    assert list(host.workdir.spares.iterdir()) == []


def _refused(ask: Callable[[], object]) -> AgentError:
    with pytest.raises(AgentError) as caught:
        ask()
    return caught.value


def test_its_devices_count_as_held_and_who_wants_them_is_told_by_whom(host: AgentHost) -> None:
    assert _hold(host) == SpareAnswer(RUN, (0, 1))
    assert host.busy(0, 1, 2) == [0, 1]
    error = _refused(lambda: host.prepare(host.manifest(STAY, run_id="run-2")))
    assert error.kind == "device_busy"
    assert error.what == f"device 0 is in use by run {RUN} (process {_holder(host).pid})"
    # Devices that it does not need are free for all.
    host.launch(STAY, run_id="run-3", devices=(5,))


def test_it_outlives_the_session_and_is_held_again_by_nobody(host: AgentHost) -> None:
    _hold(host)
    holder = _holder(host)
    host.session.close()
    host.session = host.new_session()
    assert _hold(host, devices=[4]) == SpareAnswer(RUN, (0, 1)) == _status(host)
    assert _holder(host) == holder and is_alive(holder)


def test_it_is_the_spare_of_one_run(host: AgentHost) -> None:
    _hold(host)
    error = _refused(lambda: _hold(host, "run-2", devices=[5]))
    assert error.kind == "spare_taken"
    assert error.what == f"this host is held as a spare by run {RUN} (process {_holder(host).pid})"
    assert f"`orchestrate stop {RUN}` ends it" in error.remedy
    # Nothing of the one that was refused is left.
    assert [path.name for path in host.workdir.spares.iterdir()] == [RUN]
    assert host.busy(5) == []
    assert _refused(lambda: _status(host, "run-2")).kind == "no_spare"


def test_a_device_that_is_in_use_makes_no_spare(host: AgentHost) -> None:
    host.launch(STAY, run_id="run-2", devices=(1,))
    assert _refused(lambda: _hold(host)).kind == "device_busy"
    assert host.busy(0, 1) == [1]
    assert list(host.workdir.spares.iterdir()) == []


def test_released_nothing_is_left_and_to_release_it_again_is_no_error(host: AgentHost) -> None:
    _hold(host, packages=["json"])
    holder = _holder(host)
    host.session.call("spare_release", run_id=RUN)
    # It has waited for that.
    assert not is_alive(holder)
    _nothing_left(host, holder)
    host.session.call("spare_release", run_id=RUN)


def test_a_holder_that_is_killed_frees_the_devices_and_takes_its_process_along(host: AgentHost) -> None:
    _hold(host, packages=["json"])
    eventually(lambda: _status(host).warmth is Warmth.READY)
    holder, (warm,) = _holder(host), processes_in(host.workdir.root)
    os.kill(holder.pid, signal.SIGKILL)
    eventually(lambda: host.busy(0, 1) == [])
    eventually(lambda: warm not in processes_in(host.workdir.root))
    assert _refused(lambda: _status(host)).kind == "no_spare"
    # What its folder holds is cleared away by the next one.
    assert _hold(host, "run-2").run_id == "run-2"
    assert [path.name for path in host.workdir.spares.iterdir()] == ["run-2"]


def test_without_a_monitor_it_ends_with_its_lease(host: AgentHost) -> None:
    _hold(host, lease=1.0)
    holder = _holder(host)
    _nothing_left(host, holder)


def test_who_renews_it_keeps_it() -> None:
    lease = HoldLease(20.0, 100.0)
    assert not any(lease.has_ended(now) for now in (105.0, 112.0, 119.0))
    lease.renew(119.0)
    assert not any(lease.has_ended(now) for now in (121.0, 130.0, 139.0))
    assert lease.has_ended(139.5)


def test_who_was_stopped_could_hear_nobody() -> None:
    lease = HoldLease(20.0, 100.0)
    assert not any(lease.has_ended(now) for now in (109.0, 5000.0, 5010.0, 5020.0))
    assert lease.has_ended(5020.5)


def test_who_only_looks_does_not_renew_it(host: AgentHost) -> None:
    _hold(host, lease=2.0)
    holder = _holder(host)

    def is_gone() -> bool:
        try:
            _status(host)
        except AgentError:
            return True
        return False

    eventually(is_gone)
    _nothing_left(host, holder)


def test_it_ends_with_its_folder_and_at_sigterm(host: AgentHost) -> None:
    _hold(host)
    holder = _holder(host)
    shutil.rmtree(host.workdir.spares / RUN)
    _nothing_left(host, holder)
    _hold(host)
    holder = _holder(host)
    os.kill(holder.pid, signal.SIGTERM)
    _nothing_left(host, holder)


def test_a_request_that_knows_that_the_run_is_over_releases_it(host: AgentHost) -> None:
    _hold(host)
    holder = _holder(host)
    assert _refused(lambda: host.session.call("spare_renew", run_id=RUN, over="failed")).kind == "no_spare"
    _nothing_left(host, holder)


def test_the_attempt_takes_the_locks_over_and_the_holder_ends(host: AgentHost) -> None:
    _hold(host, devices=[0, 1, 2], packages=["json"])
    holder = _holder(host)
    busy: list[list[int]] = []
    manifest = host.manifest(STAY, STAY, attempt=Attempt(2, "bb"))
    host.prepare(manifest)
    busy.append(host.busy(0, 1))
    eventually(lambda: not is_alive(holder))
    busy.append(host.busy(0, 1))
    host.tell("start")
    host.tell("commit")
    busy.append(host.busy(0, 1))
    assert busy == [[0, 1]] * 3
    # Of the spare nothing is left, nor of the device that the attempt has no use for.
    eventually(lambda: host.busy(2) == [])
    eventually(lambda: list(host.workdir.spares.iterdir()) == [])
    host.tell("stop", reason="over")
    host.wait_over()
    eventually(lambda: host.busy(0, 1) == [])


def test_who_is_slow_to_say_that_it_has_the_locks_ends_the_holder_too(host: AgentHost) -> None:
    _hold(host)
    holder = _holder(host)
    with control_socket.connect(host.workdir.spares / RUN / "control.sock", 30.0) as connection:
        control_socket.reply(connection, {"verb": "take", "claim": None})
        taken = take_over(connection)
        time.sleep(6.0)  # longer than a request is waited for
        assert is_alive(holder)
        control_socket.reply(connection, {"taken": True})
    eventually(lambda: not is_alive(holder))
    assert host.busy(0, 1) == [0, 1]
    for handle in taken.values():
        os.close(handle)
    assert host.busy(0, 1) == []


def test_locks_of_a_holder_that_hears_nobody_any_more_are_taken_over(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    folder = SpareFolder(workdir, RUN)
    folder.make()
    note = SpareNote(RUN, identify(os.getpid()), 0.0, (), (0,))
    atomic_write(folder.note, dumps(note))
    locks = DeviceLocks(workdir.locks, (0,), RUN)

    def hand_over_and_go(listener: socket.socket) -> None:
        listener.setblocking(True)
        connection, _ = listener.accept()
        with connection:
            control_socket.receive(connection)
            connection.shutdown(socket.SHUT_RD)
            hand_over(connection, list(locks.handles.values()), locks.devices)

    with control_socket.listen(folder.control_socket) as listener:
        holder = threading.Thread(target=hand_over_and_go, args=(listener,))
        holder.start()
        taken = take_locks(workdir, RUN, NO_CLAIM)
        holder.join()
    locks.release()
    assert list(taken) == [0]
    assert busy_devices(workdir.locks, (0,)) == [0]
    os.close(taken[0])
    assert busy_devices(workdir.locks, (0,)) == []


def test_it_may_take_devices_that_the_spare_did_not_hold(host: AgentHost) -> None:
    _hold(host, devices=[0])
    host.prepare(host.manifest(STAY, STAY))
    assert host.busy(0, 1) == [0, 1]


def test_its_devices_are_free_for_its_own_run(host: AgentHost) -> None:
    _hold(host)

    def busy(run_id: str) -> Any:
        return host.session.call("busy_devices", devices=[0, 1, 2], lock_dir=None, run_id=run_id)

    assert (busy(RUN), busy("run-2")) == ([], [0, 1])
    asked: dict[str, Any] = {"devices": [0, 1, 2], "kept_for": RUN}
    assert host.session.call("probe", **asked)["busy_devices"] == []
    os.kill(_holder(host).pid, signal.SIGKILL)
    other = DeviceLocks(host.workdir.locks, eventually(lambda: host.busy(0) == [] and [0]), "run-2")
    # What a dead holder's note says does not count.
    assert busy(RUN) == [0]
    other.release()


def test_a_host_of_the_attempt_before_keeps_its_devices_without_a_gap(host: AgentHost) -> None:
    host.launch(sh("exit 3"), sh("exec sleep 300"), holds=300.0)
    status = host.wait_over()
    assert status.held == (0, 1) and status.guardian is not None
    assert _hold(host, devices=[0, 1]).devices == (0, 1)
    eventually(lambda: not is_alive(status.guardian), what="the guardian has let go of them")
    assert host.busy(0, 1) == [0, 1]
    host.session.call("spare_release", run_id=RUN)
    assert host.busy(0, 1) == []
    assert host.status().held == ()


def test_another_run_takes_nothing_over(host: AgentHost) -> None:
    _hold(host)
    assert _refused(lambda: host.prepare(host.manifest(STAY, run_id="run-2"))).kind == "device_busy"
    assert _status(host).devices == (0, 1)


def test_who_has_lost_the_claim_may_not_act(host: AgentHost) -> None:
    ours, theirs = {"claim": to_json(OURS)}, {"claim": to_json(THEIRS)}
    _hold(host, **ours)
    host.session.call("spare_renew", run_id=RUN, **theirs)
    error = _refused(lambda: host.session.call("spare_release", run_id=RUN, **ours))
    assert (error.kind, error.what) == ("claim", "another control node has taken the run over: you@there")
    assert _refused(lambda: host.session.call("spare_renew", run_id=RUN, **ours)).kind == "claim"
    bundle = {"manifest": to_json(host.manifest(STAY)), "worker_config": "a: 1\n", "rank_table": None}
    payload = json.dumps(bundle).encode()
    assert _refused(lambda: host.session.call("prepare", payload=payload, **ours)).kind == "device_busy"
    assert _status(host, **ours).devices == (0, 1)
    host.session.call("spare_release", run_id=RUN, **theirs)


# What it imports.


def test_what_is_to_be_imported_is_imported(host: AgentHost) -> None:
    assert _hold(host, packages=["json", "email.message"]).warmth is Warmth.IMPORTING
    told = eventually(lambda: (found := _status(host)).warmth is Warmth.READY and found)
    assert told.warm_seconds >= 0 and not told.trouble
    (warm,) = processes_in(host.workdir.root)
    assert "device_" not in str([os.readlink(path) for path in Path(f"/proc/{warm}/fd").iterdir()])


def test_what_cannot_be_imported_costs_nothing_but_time(host: AgentHost) -> None:
    _hold(host, packages=["no_such_module_anywhere"])
    told = eventually(lambda: (found := _status(host)).warmth is Warmth.FAILED and found)
    assert told.trouble == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"
    assert host.busy(0, 1) == [0, 1] and processes_in(host.workdir.root) == []


def test_it_is_imported_in_the_workers_environment(host: AgentHost, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/only_there.py").write_text("import os; print('noise', flush=True)\n")
    script = tmp_path / "set env.sh"
    script.write_text(f"export PYTHONPATH='{tmp_path}/modules'\n")
    _hold(host, packages=["only_there"], env_script=str(script))
    told = eventually(lambda: (found := _status(host)).warmth is not Warmth.IMPORTING and found)
    assert told.warmth is Warmth.READY, told


@pytest.mark.parametrize("name", ["os; import x", "-m", "", "a" * 70, "a..b", "a/b"])
def test_only_names_of_modules_are_imported(host: AgentHost, name: str) -> None:
    with pytest.raises(AgentError, match="expected names of modules"):
        _hold(host, packages=[name])
    assert not host.workdir.spares.exists()


@pytest.mark.parametrize("run_id", ["..", "a/b", "", "."])
def test_a_name_that_is_no_run_leads_nowhere(host: AgentHost, run_id: str) -> None:
    assert _refused(lambda: _hold(host, run_id)).kind == "no_spare"


def test_a_link_in_its_place_is_not_followed(host: AgentHost, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    host.workdir.spares.mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", host.workdir.spares / RUN)
    assert _refused(lambda: _hold(host)).kind == "spare_exists"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    os.unlink(host.workdir.spares / RUN)


def test_the_store_keeps_what_it_will_ask_for(host: AgentHost) -> None:
    host.workdir.store.mkdir(parents=True)
    for name in (SHA, "cd" * 32):
        (host.workdir.store / name).write_text("data")
        os.utime(host.workdir.store / name, (1, 1))
    _hold(host, inputs=[SHA])
    sweep_store(host.workdir)
    assert [path.name for path in host.workdir.store.iterdir()] == [SHA]
