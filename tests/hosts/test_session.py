"""Sessions with agents, good and bad, and fleets of them."""

from __future__ import annotations

import ast
import hashlib
import io
import marshal
import os
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import orchestrator
from orchestrator.core.errors import AgentError, ConnectError, HostsFailed, PreflightError
from orchestrator.core.protocol import BEAT, BEAT_SECONDS
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.agent_zip import Bundle, agent_bundle, build_bundle, code_of, compiled_modules
from orchestrator.hosts.fleet import HostResults, error_lines
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.session import Session
from orchestrator.testing.waiting import eventually


def agent_with(tmp_path: Path, python: str = sys.executable, bundle: Bundle | None = None) -> Agent:
    transport = LocalTransport("here")
    transport.connect()
    return Agent(
        Session(
            transport,
            python=python,
            workdir=str(tmp_path / "work"),
            bundle=bundle or agent_bundle(),
            timeout=60,
        )
    )


def wrapper(tmp_path: Path, text: str) -> str:
    """An executable that is no Python, or not only."""
    path = tmp_path / "wrapper"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_agent_is_pushed_once(tmp_path: Path) -> None:
    agent_with(tmp_path).close()
    [pushed] = (tmp_path / "work/agent").glob("*.pyz")
    assert pushed.name == f"{agent_bundle().sha256}.pyz"
    before = pushed.stat()
    agent_with(tmp_path).close()
    assert pushed.stat().st_ino == before.st_ino and pushed.stat().st_mtime_ns == before.st_mtime_ns


def test_a_chatty_start_up_file_does_no_harm(tmp_path: Path) -> None:
    python = wrapper(tmp_path, f'echo Welcome to npu01; echo; exec {sys.executable} "$@"')
    agent = agent_with(tmp_path, python)
    assert agent.probe().workdir == str(tmp_path / "work")
    agent.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 127", "no Python at"),
        ("echo orchestrate-agent old 2.7.18", "Python 2.7.18 is too old"),
        ("echo I am no Python >&2; exit 3", "the agent did not start: I am no Python"),
    ],
)
def test_what_is_no_fit_python_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PreflightError, match=says) as caught:
        agent_with(tmp_path, wrapper(tmp_path, text))
    assert caught.value.where == "here" and caught.value.remedy


def test_a_damaged_agent_is_not_kept(tmp_path: Path) -> None:
    damaged = Bundle(agent_bundle().data, "0" * 64)
    with pytest.raises(PreflightError, match="damaged"):
        agent_with(tmp_path, bundle=damaged)
    assert list((tmp_path / "work/agent").glob("*.pyz")) == []


def test_workdir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    with pytest.raises(PreflightError, match="cannot use the workdir"):
        agent_with(tmp_path)


def test_what_is_run_lies_in_a_folder_that_nobody_else_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "work/agent"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    agent_with(tmp_path).close()
    [cache] = (path for path in folder.iterdir() if path.is_dir())
    assert [path.stat().st_mode & 0o22 for path in (folder, cache)] == [0, 0]
    [code] = cache.glob("orchestrator.core.errors")
    elsewhere = tmp_path / "elsewhere"
    cache.rename(elsewhere)
    cache.symlink_to(elsewhere)
    code.write_bytes(b"what another account has left")
    agent = agent_with(tmp_path)  # compiled anew, and nothing of it kept behind the link
    assert agent.clock() > 0 and code.read_bytes() == b"what another account has left"
    agent.close()


@pytest.mark.root
def test_an_agent_in_another_accounts_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "work/agent"
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)
    with pytest.raises(PreflightError, match="not a folder of this account"):
        agent_with(tmp_path)


def test_equal_errors_of_many_hosts_are_told_once() -> None:
    refused = {f"npu{n:03d}": ConnectError("connection refused", where=f"npu{n:03d}") for n in range(1, 12)}
    results: HostResults[None] = HostResults(
        {}, {**refused, "npu012": AgentError("no space", where="npu012")}
    )
    with pytest.raises(HostsFailed) as caught:
        results.raise_on_error()
    assert error_lines(caught.value) == ["npu[001-011]: connection refused", "npu012: no space"]
    assert caught.value.exit_code == 3


def test_the_bundle_depends_on_the_sources_alone() -> None:
    assert build_bundle() == build_bundle() == agent_bundle()


def test_a_host_of_our_python_compiles_nothing_that_a_launch_needs(tmp_path: Path) -> None:
    agent = agent_with(tmp_path)
    agent.probe()
    agent.close()
    kept = list((tmp_path / "work/agent").glob("*/orchestrator.agent.*"))
    assert "orchestrator.agent.host_probe" in {path.name for path in kept}
    for path in kept:
        data = path.read_bytes()
        assert hashlib.sha256(data[32:]).digest() == data[:32]
        # Compiled there it would have the name of the zip in it.
        assert marshal.loads(data[32:]).co_filename == f"{path.name.replace('.', '/')}.py"


def _meaning(source: bytes) -> str:
    """Its syntax tree with the lines of all of it; texts that stand alone are left empty."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
        for name in ("end_lineno", "end_col_offset"):
            if hasattr(node, name):
                setattr(node, name, None)
    return ast.dump(tree, include_attributes=True)


def test_the_bundle_lacks_nothing_of_the_sources_but_comments_and_docstrings() -> None:
    root = Path(orchestrator.__file__).parent.parent
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        for name in archive.namelist():
            assert _meaning(archive.read(name)) == _meaning((root / name).read_bytes()), name


def test_what_python_has_compiled_is_not_taken_of_a_file_that_is_another_by_now(tmp_path: Path) -> None:
    where = PurePosixPath("core/thing.py")
    (tmp_path / "core").mkdir()
    (tmp_path / where).write_bytes(b"import os\n\n\ndef thing():\n    return 2\n")
    sent = b"def thing():\n    return 1\n"
    code = code_of("core.thing", where, sent, tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["thing"]() == 1
    (tmp_path / where).write_bytes(sent)
    code = code_of("core.thing", where, sent, tmp_path)
    exec(code, names)
    assert names["thing"]() == 1 and {code.co_filename, names["thing"].__code__.co_filename} == {str(where)}
    (tmp_path / where).unlink()
    assert code_of("core.thing", where, sent, tmp_path) == code


def test_another_python_gets_no_compiled_modules() -> None:
    assert compiled_modules("00") == b"0 %s\n" % hashlib.sha256(b"").hexdigest().encode()


def test_the_bundle_holds_all_that_is_imported_in_it() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        held = {name.removesuffix(".py").replace("/", ".") for name in archive.namelist()}
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orchestrator."):
                modules = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert modules & held, f"{name} imports {node.module}"


def test_sessions_leave_no_process_behind(tmp_path: Path) -> None:
    agent = agent_with(tmp_path)
    pid = agent.probe().pid
    agent.close()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="the agent has ended")


def test_an_idle_session_lets_its_agent_know_that_somebody_is_here(tmp_path: Path) -> None:
    now, sent = [0.0], []
    transport = LocalTransport("here")
    transport.connect()
    session = Session(
        transport,
        python=sys.executable,
        workdir=str(tmp_path),
        bundle=agent_bundle(),
        timeout=60,
        clock=lambda: now[0],
    )
    write = session._channel.write
    session._channel.write = lambda data: (sent.append(bytes(data)), write(data))[1]  # type: ignore[method-assign]
    agent = Agent(session)
    session.beat()
    assert sent == []  # it has just been heard
    now[0] = BEAT_SECONDS + 1.0
    session.beat()
    session.beat()
    assert sent == [BEAT]
    assert agent.missing([]) == []  # a beat is no question
    session._writing.acquire()  # somebody asks: that is heard
    now[0] *= 3
    session.beat()
    session._writing.release()
    assert sent.count(BEAT) == 1
    session.close()
    now[0] *= 3
    session.beat()  # no error: the next request has it
