"""Python programs of a job's own, started so that they can show their stacks: they see nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.agent.python_program import is_switched_off, source_of_wrapper, with_stacks
from orchestrator.core.host_answers import RankStacks
from orchestrator.testing.agent_host import RUN, AgentHost
from orchestrator.testing.waiting import eventually

WRAPPER, FILE = Path("/run/w.py"), Path("/run/rank_0.can")
HERE = (str(WRAPPER), str(FILE))
COMMAND = {"task": "command"}


@pytest.mark.parametrize(
    ("argv", "wrapped"),
    [
        (["python", "a.py", "--lr", "1"], ["python", *HERE, "--", "a.py", "--lr", "1"]),
        (["/bin/python3.11", "-u", "a.py", "-c"], ["/bin/python3.11", "-u", *HERE, "--", "a.py", "-c"]),
        (["python3", "-m", "pkg.mod", "-x"], ["python3", *HERE, "-m", "pkg.mod", "-x"]),
        (["python3", "-um", "pkg.mod"], ["python3", "-u", *HERE, "-m", "pkg.mod"]),
        (["python3", "-c", "print(1)", "a"], ["python3", *HERE, "-c", "print(1)", "a"]),
        (["python3", "-Icprint(1)"], ["python3", "-I", *HERE, "-c", "print(1)"]),
        (["python", "-X", "dev", "-Wi", "-OO", "a"], ["python", "-X", "dev", "-Wi", "-OO", *HERE, "--", "a"]),
        (["python3"], None),
        (["python3", "-"], None),
        (["python3", "-i", "a.py"], None),
        (["python3", "--version"], None),
        (["python3", "-m"], None),
        (["python3", "-X"], None),
        (["python2.7", "a.py"], None),
        (["pythonista", "a.py"], None),
        (["bash", "-c", "python a.py"], None),
        (["torchrun", "a.py"], None),
        ([], None),
    ],
    ids=lambda words: " ".join(words or ["as it is"]),
)  # fmt: skip
def test_which_programs_are_started_by_way_of_the_wrapper(argv: list[str], wrapped: list[str] | None) -> None:
    assert with_stacks(argv, WRAPPER, FILE) == wrapped


def test_it_can_be_switched_off() -> None:
    assert is_switched_off({"ORCHESTRATE_STACKS": "0"}) and is_switched_off({"ORCHESTRATE_STACKS": "off"})
    assert not is_switched_off({"ORCHESTRATE_STACKS": "1"}) and not is_switched_off({})


SEES = """\
import json, sys, __main__, pickle, signal
class Here: pass
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path[:2],
    "flags": [sys.flags.optimize, sys.flags.isolated],
    "main": sorted(set(vars(__main__)) - {"__annotations__", "__conditional_annotations__"}),
    "same": sys.modules["__main__"].Here is Here,
    "name": [__name__, globals().get("__file__"), __package__, __spec__ and __spec__.name, __doc__],
    "loader": str(getattr(__loader__, "name", __loader__)),
    "orig": getattr(sys, "orig_argv", [""])[1:],
    "pickled": isinstance(pickle.loads(pickle.dumps(Here())), Here),
    "signal": signal.signal.__name__,
}))
"""


def run(argv: list[str], cwd: Path, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """As it is, and by way of the wrapper."""
    wrapper = folder / "python_stacks.py"
    wrapper.write_bytes(source_of_wrapper())
    wrapped = with_stacks(argv, wrapper, folder / "can")
    assert wrapped is not None
    env = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    return [
        subprocess.run(each, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
        for each in (argv, wrapped)
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ["see.py", "--lr", "1"],
        ["sub/../see.py"],
        ["-O", "link.py"],
        ["-I", "see.py"],
        ["-m", "pkg.mod", "a"],
        ["-m", "pkg"],
        ["-c", SEES, "a", "-b"],
        ["folder"],
        ["see.zip"],
        ["see.pyc"],
    ],
    ids=lambda argv: "-c" if argv[0] == "-c" else " ".join(argv),
)
def test_a_program_sees_what_it_has_always_seen(tmp_path: Path, argv: list[str]) -> None:
    work, folder = tmp_path / "work", tmp_path / "folder"
    for each in (work / "sub", work / "pkg", work / "folder", folder):
        each.mkdir(parents=True)
    for name in ("see.py", "pkg/mod.py", "pkg/__main__.py", "folder/__main__.py"):
        (work / name).write_text(SEES)
    (work / "pkg/__init__.py").touch()
    (work / "link.py").symlink_to("sub/real.py")
    (work / "sub/real.py").write_text(SEES)
    with zipfile.ZipFile(work / "see.zip", "w") as archive:
        archive.writestr("__main__.py", SEES)
    compiled = "import py_compile; py_compile.compile('see.py', 'see.pyc')"
    subprocess.run([sys.executable, "-c", compiled], cwd=work, check=True)
    plain, wrapped = run([sys.executable, *argv], work, folder)
    assert plain.returncode == 0, plain.stderr
    assert (json.loads(wrapped.stdout), wrapped.stderr, wrapped.returncode) == (
        json.loads(plain.stdout),
        "",
        0,
    )
    assert (folder / "can").read_text() == "stacks\n"


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    raise ValueError('bad')\nf()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('x') from error\n",
        "import sys\nsys.exit(7)\n",
        "import sys\nsys.exit('words')\n",
        "def f(:\n",
        "raise KeyboardInterrupt\n",
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
        "import threading as t, time\nt.Thread(target=lambda: (time.sleep(0.3), print(__name__))).start()\n",
        "import atexit\natexit.register(lambda: print('bye'))\n",
        None,
    ],
    ids=[
        "raises",
        "chained",
        "code",
        "words",
        "syntax",
        "interrupt",
        "signal",
        "thread",
        "atexit",
        "no file",
    ],
)
def test_it_ends_as_it_always_has(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "a.py").write_text(text)
    plain, wrapped = run([sys.executable, "a.py"], tmp_path, tmp_path)
    assert (wrapped.returncode, wrapped.stdout, wrapped.stderr) == (
        plain.returncode,
        plain.stdout,
        plain.stderr,
    )


def test_processes_that_it_starts_find_their_way_home(tmp_path: Path) -> None:
    """multiprocessing imports `__main__` again where it does not fork."""
    (tmp_path / "a.py").write_text(
        "import multiprocessing\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(double, [1, 2]))\n"
    )
    plain, wrapped = run([sys.executable, "a.py"], tmp_path, tmp_path)
    assert (wrapped.stdout, wrapped.stderr) == (plain.stdout, plain.stderr) == ("[2, 4]\n", "")


def test_without_a_place_for_the_announcement_it_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("print(1)\n")
    wrapper = tmp_path / "w.py"
    wrapper.write_bytes(source_of_wrapper())
    argv = with_stacks([sys.executable, "a.py"], wrapper, tmp_path / "no/such/folder")
    assert argv is not None
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True).stdout == "1\n"


# In a run, with the verb that asks for them.

WAITS = """\
import threading, time
def waits_in_vain():
    open("up_{rank}", "w").close()
    threading.Event().wait()
waits_in_vain()
"""
TAKES = (
    "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: open('taken', 'w').close())\n"
    "open('up_1', 'w').close()\nwhile True: time.sleep(0.1)\n"
)
BECOMES = "import os\nopen('up_2', 'w').close()\nos.execvp('sleep', ['sleep', '300'])\n"
PYTHON = sys.executable


def stacks_of(host: AgentHost) -> dict[str, RankStacks]:
    agent = host.new_agent()
    try:
        return dict(agent.stacks(RUN).ranks)
    finally:
        agent.close()


def test_ranks_show_where_they_are_and_nobody_is_hurt(host: AgentHost) -> None:
    """One that waits; one that takes SIGUSR1 for its own; one that has become another program; a shell."""
    host.launch(
        (PYTHON, "-c", WAITS.replace("{rank}", "0")),
        (PYTHON, "-c", TAKES),
        (PYTHON, "-c", BECOMES),
        ("/bin/sh", "-c", "touch up_3; exec sleep 300"),
        (PYTHON, "-c", WAITS.replace("{rank}", "4")),
        launch=COMMAND,
    )
    host.wait_up(*(f"up_{rank}" for rank in range(5)))
    eventually(
        lambda: [rank.can for rank in host.status().ranks] == [("stacks",), (), ("stacks",), (), ("stacks",)]
    )
    frozen = host.status().ranks[4].process
    assert frozen is not None
    os.kill(frozen.pid, signal.SIGSTOP)
    found = stacks_of(host)
    assert list(found) == ["0", "1", "2", "3", "4"]
    assert found["0"].how == "faulthandler" and "in waits_in_vain\n" in found["0"].text
    assert all(line.startswith(("Current", "Thread", "  ")) for line in found["0"].text.splitlines())
    assert {found[rank].how for rank in ("1", "2", "3", "4")} <= {"kernel", "py-spy"}
    assert all(each.state.startswith("State:") and "threads: " in each.state for each in found.values())
    assert found["4"].state.startswith("State: T (stopped)\n")
    eventually(lambda: host.status().ranks[4].stalled == "stopped")
    os.kill(frozen.pid, signal.SIGCONT)
    assert all(is_alive(rank.process) for rank in host.status().ranks)
    assert not (host.run_dir().root / "taken").exists()


def test_a_program_that_is_not_to_be_touched_is_started_as_it_is(host: AgentHost) -> None:
    manifest = host.manifest((PYTHON, "-c", WAITS.replace("{rank}", "0")), launch=COMMAND)
    (worker,) = manifest.workers
    host.launch(workers=(replace(worker, env={"ORCHESTRATE_STACKS": "0"}),), launch=COMMAND)
    host.wait_up("up_0")
    process = host.status().ranks[0].process
    assert process is not None
    assert b"python_stacks" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert stacks_of(host)["0"].how in ("kernel", "py-spy")


def test_a_spy_that_is_installed_is_asked_and_one_that_may_not_look_is_done_without(
    host: AgentHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    spy = folder / "py-spy"
    spy.write_text("#!/bin/sh\necho \"Process $4: python\"; echo '    f (a.py:3)'\n")
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    spied = AgentHost(tmp_path / "spied")
    try:
        spied.launch(("/bin/sh", "-c", "touch up_0; exec sleep 300"))
        spied.wait_up("up_0")
        found, process = stacks_of(spied)["0"], spied.status().ranks[0].process
        assert process is not None
        assert (found.how, found.text) == ("py-spy", f"Process {process.pid}: python\n    f (a.py:3)\n")
        spy.write_text("#!/bin/sh\necho 'Permission Denied'; exit 1\n")
        assert stacks_of(spied)["0"].how == "kernel"
    finally:
        spied.close()
