"""The service that starts monitors after a boot: by small programs in the place of systemctl and crontab."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.cmd_service import command
from orchestrator.control import service
from orchestrator.control.monitor_lock import monitor_pid
from orchestrator.control.monitor_process import end_monitor
from orchestrator.control.run_record import read_record, write_record
from orchestrator.control.service_cron import cron_line
from orchestrator.control.service_systemd import unit_text
from orchestrator.core.errors import PreflightError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from tests.control.test_monitor import control_in as planned_in

ROOT = Path(__file__).parents[2]

# Each notes what it is called with, and keeps its state in files of the machine's folder.
SYSTEMCTL = """\
no_bus = not (HERE / "bus").exists()
if no_bus:
    sys.exit("Failed to connect to bus: No medium found")
enabled = HERE / "enabled"
if words[1] == "enable":
    enabled.write_text(words[2])
elif words[1] == "disable":
    enabled.unlink()
elif words[1] == "is-enabled":
    print("enabled" if enabled.exists() else "disabled")
    sys.exit(not enabled.exists())
"""
LOGINCTL = """\
linger = HERE / "linger"
if words[0] == "enable-linger":
    if (HERE / "no_linger").exists():
        sys.exit("Could not enable linger: Access denied")
    linger.touch()
else:
    print("Linger=" + ("yes" if linger.exists() else "no"))
"""
CRONTAB = """\
table = HERE / "crontab"
if words == ["-l"]:
    if (HERE / "broken").exists():
        sys.exit("crontab: cannot chdir to /var/spool/cron")
    if not table.exists():
        sys.exit("no crontab for somebody")
    sys.stdout.buffer.write(table.read_bytes())
else:
    assert words == ["-"]
    table.write_bytes(sys.stdin.buffer.read())
"""


class Machine:
    """A folder with the programs that a machine has, and what they have done."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        monkeypatch.setenv("PATH", f"{self.bin}{os.pathsep}/nowhere")
        monkeypatch.setenv("HOME", str(self.home))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def has(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(
            f"#!{sys.executable} -I\nimport sys\nfrom pathlib import Path\n"
            f"HERE, words = Path({str(self.folder)!r}), sys.argv[1:]\n"
            f"with (HERE / 'calls').open('a') as calls:\n"
            f"    calls.write(' '.join([{name!r}, *words]) + '\\n')\n{text}"
        )
        path.chmod(0o755)

    def has_systemd(self, *, bus: bool = True) -> None:
        self.has("systemctl", SYSTEMCTL)
        self.has("loginctl", LOGINCTL)
        if bus:
            (self.folder / "bus").touch()

    def has_cron(self, table: str | None = None) -> None:
        self.has("crontab", CRONTAB)
        if table is not None:
            (self.folder / "crontab").write_text(table)

    @property
    def unit(self) -> Path:
        return self.home / ".config/systemd/user/orchestrate-monitors.service"

    @property
    def table(self) -> str:
        return (self.folder / "crontab").read_text()

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def run(*words: str) -> Result:
    return CliRunner().invoke(command, list(words), standalone_mode=False)


def refused(*words: str) -> PreflightError:
    error = run(*words).exception
    assert isinstance(error, PreflightError), error
    return error


def test_a_unit_is_written_enabled_and_lingers(machine: Machine) -> None:
    machine.has_systemd()
    machine.has_cron("0 5 * * * mine\n")
    done = run("install")
    assert done.exception is None and f"installed: {machine.unit}" in done.stdout
    text = machine.unit.read_text()
    assert f'Environment="XDG_STATE_HOME={machine.folder / "state"}"' in text
    assert f'ExecStart="{sys.executable}" "-P" "-m" "orchestrator" "service" "start-monitors"' in text
    assert "KillMode=process" in text and "RemainAfterExit=yes" in text
    assert "systemctl --user daemon-reload" in machine.calls
    assert "systemctl --user enable orchestrate-monitors.service" in machine.calls
    assert "loginctl enable-linger" in machine.calls and (machine.folder / "linger").exists()
    assert machine.table == "0 5 * * * mine\n"
    done = run("status", "--json")
    assert json.loads(done.stdout) == {
        "installed": str(machine.unit),
        "way": "systemd",
        "works": True,
        "problems": [],
    }
    done = run("remove")
    assert f"removed from {machine.unit}" in done.stdout and "still lingers" in done.stdout
    assert not machine.unit.exists() and not (machine.folder / "enabled").exists()
    assert run("remove").stdout == "nothing is installed\n"


def test_what_keeps_a_unit_from_working_is_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has_systemd()
    (machine.folder / "no_linger").touch()
    assert "does not linger" in refused("install").what and machine.unit.exists()
    (machine.folder / "linger").touch()
    assert run("status").stdout.endswith("monitors are started after a boot\n")
    (machine.folder / "enabled").unlink()
    assert "it is not enabled (disabled)" in refused("status").what
    run("install")
    monkeypatch.setenv("XDG_STATE_HOME", str(machine.folder / "elsewhere"))
    error = refused("status")
    assert error.exit_code == 4 and "another state directory or Python" in error.what
    run("install")
    assert run("status").exception is None
    (machine.folder / "bus").unlink()
    assert "No medium found" in refused("status").what


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_unit_that_is_not_ours_is_left_alone(machine: Machine, kind: str) -> None:
    machine.has_systemd()
    machine.unit.parent.mkdir(parents=True)
    mine = machine.home / "mine"
    mine.write_text("[Unit]\n")
    if kind == "file":
        shutil.copy(mine, machine.unit)
    elif kind == "link":
        machine.unit.symlink_to(mine)
    else:
        machine.unit.mkdir()
    assert "was not written by orchestrate" in refused("install").what
    assert run("remove").stdout == "nothing is installed\n"
    assert mine.read_text() == "[Unit]\n" and machine.unit.exists()
    assert machine.unit.is_symlink() == (kind == "link")


OTHERS = "MAILTO=me\n0 5 * * * backup # nightly\n@reboot other # orchestrate-monitors-not\n"


@pytest.mark.parametrize("table", [None, OTHERS, OTHERS.rstrip("\n")], ids=["none", "some", "no end"])
def test_a_line_of_cron_is_added_once_and_removed_alone(machine: Machine, table: str | None) -> None:
    machine.has_systemd(bus=False)
    machine.has_cron(table)
    done = run("install")
    assert done.exception is None and "cron starts them after a boot" in done.stderr
    before = "" if table is None else OTHERS
    assert machine.table.startswith(before)
    (line,) = machine.table.removeprefix(before).splitlines()
    assert line.startswith(f"@reboot /usr/bin/env XDG_STATE_HOME={machine.folder}/state PATH={machine.bin}")
    assert line.endswith("service start-monitors >/dev/null 2>&1 # orchestrate-monitors")
    whole = machine.table
    run("install")
    assert machine.table == whole
    assert run("status").stdout.splitlines()[0] == "installed: the crontab (@reboot)"
    assert run("remove").exception is None and machine.table == before
    assert not machine.unit.exists()


def test_a_crontab_that_cannot_be_read_is_not_replaced(machine: Machine) -> None:
    machine.has_cron(OTHERS)
    (machine.folder / "broken").touch()
    error = refused("install")
    assert "there is no systemctl" in error.what and "cannot chdir" in error.what
    assert machine.table == OTHERS and "crontab -" not in machine.calls


def test_systemd_takes_over_from_cron(machine: Machine) -> None:
    machine.has_cron(OTHERS)
    run("install")
    assert machine.table != OTHERS
    machine.has_systemd()
    assert "the one of cron was removed" in run("install").stderr
    assert machine.table == OTHERS and machine.unit.exists()


def test_where_there_is_neither_it_says_what_to_do(machine: Machine) -> None:
    error = refused("install")
    assert error.exit_code == 4 and "there is no systemctl" in error.what and "no crontab" in error.what
    assert "start-monitors" in error.remedy
    assert "orchestrate service install" in refused("status").remedy
    assert not service.is_installed()


def test_a_package_that_is_not_found_after_a_boot_is_not_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has_systemd()
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(service, "_argv", lambda: (sys.executable, "-I", "-S", "-m", "orchestrator"))
    assert "does not find orchestrate after a boot" in refused("install").what
    assert not machine.unit.exists()


ENV = {"XDG_STATE_HOME": "/s p/50%/$x", "PATH": '/a"b:/c\\d'}


def test_words_are_written_as_systemd_reads_them() -> None:
    text = unit_text(("/o p/$python", "-m", "x"), ENV)
    assert 'Environment="XDG_STATE_HOME=/s p/50%%/$x"' in text
    assert r'Environment="PATH=/a\"b:/c\\d"' in text
    assert 'ExecStart="/o p/$$python" "-m" "x"' in text
    with pytest.raises(PreflightError, match="cannot stand in a systemd unit"):
        unit_text(("/a\nb",), {})


def test_words_that_cron_or_a_shell_would_read_are_refused() -> None:
    with pytest.raises(PreflightError, match="cannot stand in a crontab"):
        cron_line(("/usr/bin/python3",), ENV)
    with pytest.raises(PreflightError, match="cannot stand in a crontab"):
        cron_line(("/my python",), {"XDG_STATE_HOME": "/s"})
    line = cron_line(("/usr/bin/python3",), {"XDG_STATE_HOME": "/s", "PATH": "/bin:/Program Files:/sbin"})
    assert line.startswith(b"@reboot /usr/bin/env XDG_STATE_HOME=/s PATH=/bin:/sbin /usr/bin/python3 >")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_takes_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "orchestrate-monitors.service"
    path.write_text(unit_text((sys.executable, "-P", "-m", "orchestrator"), {"XDG_STATE_HOME": "/s p/50%"}))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert path.name not in done.stderr, done.stderr


def test_the_line_starts_what_cron_would_start(machine: Machine) -> None:
    """By the shell that cron gives it to, with the little that it has in its environment."""
    machine.has_cron()
    run("install")
    line = machine.table.splitlines()[-1].removeprefix("@reboot ").replace(">/dev/null 2>&1", "2>&1")
    env = {"HOME": str(machine.home), "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_each_run_that_needs_one_gets_its_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(
        "orchestrator.control.monitor_process.spawn_monitor",
        lambda control, watch_only: started.append(f"{control.root.parents[2].name}/{watch_only}"),
    )

    def known(name: str, state: RunState, *, was_watched: bool = True) -> ControlDir:
        (tmp_path / name).mkdir()
        control = planned_in(tmp_path / name)
        write_record(control, dataclasses.replace(read_record(control), state=state, ended=1.0))
        if was_watched:
            control.monitor_lock.touch()
        return control

    found = {
        "runs": known("runs", RunState.RUNNING),
        "restarts": known("restarts", RunState.RESTARTING),
        "over": known("over", RunState.FAILED),
        "others": known("others", RunState.RUNNING, was_watched=False),
    }
    told = {name: service.start_monitors(control.runs.parent) for name, control in found.items()}
    assert started == ["runs/True", "restarts/True"]
    assert {name: len(runs) for name, (runs, _) in told.items()} == {
        "runs": 1,
        "restarts": 1,
        "over": 0,
        "others": 0,
    }
    assert not any(errors for _, errors in told.values())


def test_a_record_that_cannot_be_read_costs_that_run_alone(tmp_path: Path) -> None:
    control = planned_in(tmp_path)
    control.monitor_lock.touch()
    control.record.write_text("{")
    started, (error,) = service.start_monitors(control.runs.parent)
    assert started == [] and str(control.record) in str(error)


def test_the_monitor_of_a_machine_that_was_restarted_is_a_process_again(
    tmp_path: Path, waits: Callable[[Callable[[], bool]], None]
) -> None:
    control = planned_in(tmp_path)
    write_record(control, dataclasses.replace(read_record(control), state=RunState.RUNNING, watched=1.0))
    control.monitor_lock.touch()
    started, errors = service.start_monitors(control.runs.parent)
    try:
        assert started == [control.run_id] and errors == []
        waits(lambda: read_record(control).watched > time.time() - 60)
        assert monitor_pid(control) is not None
        assert service.start_monitors(control.runs.parent) == ([], [])
    finally:
        end_monitor(control)


@pytest.fixture
def waits() -> Callable[[Callable[[], bool]], None]:
    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    return wait
